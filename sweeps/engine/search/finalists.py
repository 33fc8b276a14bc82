"""From the front to a champion: the best points train anew, one is chosen on validation images, test is read once."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bat_core.data import Dataset
from sweeps.engine.cli.options import SweepOptions
from sweeps.engine.driver.on_ray import run_on_ray
from sweeps.engine.evaluation.attack import SUMMARY
from sweeps.engine.evaluation.run import EvaluateOptions, run_evaluation
from sweeps.engine.search.objectives import choose
from sweeps.engine.search.results import Score, front, largest_part, scores
from sweeps.engine.search.snapshot import Finalist, Tested, among
from sweeps.engine.search.spec import Final, Search
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Sweep, Trial
from sweeps.engine.tracking.background import Mirroring, why

ROLE = "finalist"
JUDGED_BY, TESTED_BY = "quick", "standard"  # suites: on validation images, to choose; on test images, to report


def run_finalists(
    search: Search,
    sweep: Sweep,
    dataset: Dataset,
    folder: SweepFolder,
    console: Console,
    options: SweepOptions,
    mirroring: Mirroring,
) -> tuple[list[Finalist], str | None]:
    """Train the finalists, choose, evaluate all of them on test, register the chosen one.

    Goes on where it stopped. A trial of the search that is not over yet leaves nothing to choose from.

    Returns:
        The finalists that finished with every seed, and the chosen model's trial id.
    """
    if search.final is None:
        return [], None
    origins = largest_part(front(scores(sweep, folder)), search.final.count)
    if not origins:
        console.print("nothing on the front can be believed: there are no finalists", style="yellow")
        return [], None
    if not _train(search.final, origins, sweep, dataset, folder, console, options):
        return [], None
    finalists = _finished(search.final, origins, sweep, folder)
    if not finalists:
        return [], None
    mirroring.once()  # evaluations are logged on the runs of the models' own
    finalists = _judged(finalists, search, folder, options)
    champion = _chosen(finalists, search.final)
    finalists = _tested(finalists, search, folder, options)
    if champion is None:
        console.print(f"no finalist satisfies the rule {search.final.rule}: none is registered", style="yellow")
        return finalists, None
    _register(champion, finalists, search.final, sweep, console, mirroring)
    return finalists, champion.id


def final_trial(origin: Score, seed: int, epochs: int | None) -> Trial:
    """The trial that trains a point of the front with another seed, at full length."""
    config = origin.trial.config
    train = replace(config.train, epochs=epochs or config.train.epochs)
    return Trial(
        id=f"final-{origin.id}-seed{seed}" + (f"-{epochs}epochs" if epochs else ""),
        config=replace(config, train=train, seed=seed),
        role=ROLE,
        point=origin.trial.point,
    )


def _train(
    final: Final,
    origins: Sequence[Score],
    sweep: Sweep,
    dataset: Dataset,
    folder: SweepFolder,
    console: Console,
    options: SweepOptions,
) -> bool:
    """Whether all are trained, or have failed: it was not interrupted."""
    trials = [final_trial(origin, seed, final.epochs) for origin in origins for seed in final.seeds]
    known = {trial.id for trial in folder.trials(sweep)}
    for trial in trials:
        if trial.id not in known:
            folder.propose(trial)
    waiting = [trial for trial in trials if read_status(folder.trial(trial)).phase != "finished"]
    if not waiting:
        return True
    console.print(f"{len(waiting)} finalists to train, of {len(origins)} points of the front")
    run_on_ray(waiting, sweep, dataset, folder, console, options)
    return all(read_status(folder.trial(trial)).done for trial in trials)


def _finished(final: Final, origins: Sequence[Score], sweep: Sweep, folder: SweepFolder) -> list[Finalist]:
    """Points whose every seed was trained to the end."""
    by_id = {one.id: one for one in scores(sweep, folder, role=ROLE)}
    found = []
    for origin in origins:
        ids = [final_trial(origin, seed, final.epochs).id for seed in final.seeds]
        if all(trial_id in by_id for trial_id in ids):
            found.append(Finalist(origin=origin, members=tuple(by_id[trial_id] for trial_id in ids)))
    return found


def _chosen(finalists: Sequence[Finalist], final: Final) -> Score | None:
    """The rule picks a finalist by its means on validation images; of its models the most robust one there."""
    picked = choose(among(finalists), final.rule)
    return max(picked.members, key=lambda one: (one.robust_acc, one.clean_acc)) if picked else None


def _judged(
    finalists: Sequence[Finalist], search: Search, folder: SweepFolder, options: SweepOptions
) -> list[Finalist]:
    """Every finalist's models on validation images, with all checks for masked gradients: what a rule may see."""
    place = _evaluated(finalists, "val", JUDGED_BY, search, folder, options)

    def judged(member: Score) -> Score:
        summary = json.loads((place / member.id / SUMMARY).read_text())
        return replace(
            member,
            clean_acc=summary["clean_acc"],
            robust_acc=summary["robust_acc"],
            robust_n=summary["n"],
            suite=summary["suite"],
            masking_status=summary["verdict"],
            flags=tuple(flag["name"] for flag in summary["flags"]),
        )

    return [replace(finalist, members=tuple(map(judged, finalist.members))) for finalist in finalists]


def _tested(
    finalists: Sequence[Finalist], search: Search, folder: SweepFolder, options: SweepOptions
) -> list[Finalist]:
    """Every finalist's models under the full suite on test images: once, whatever comes out."""
    place = _evaluated(finalists, "test", TESTED_BY, search, folder, options)
    return [
        replace(finalist, tested=tuple(_read(member.id, place) for member in finalist.members))
        for finalist in finalists
    ]


def _evaluated(
    finalists: Sequence[Finalist], split: str, suite: str, search: Search, folder: SweepFolder, options: SweepOptions
) -> Path:
    """The folder in which all finalists' models are evaluated; gone on with, or made, or found as it is."""
    members = [member.trial for finalist in finalists for member in finalist.members]
    ids = "\n".join(sorted(trial.id for trial in members))
    place = folder.path / f"{split}-{hashlib.sha256(ids.encode()).hexdigest()[:8]}"
    if all((place / trial.id / SUMMARY).exists() for trial in members):
        return place
    if place.exists():
        run_evaluation((), EvaluateOptions(resume=place, address=options.address))
        folder.keep(place.name)
        return place
    attack, data = search.base.attack, search.base.data
    run_evaluation(
        [str(folder.trial(trial)) for trial in members],
        EvaluateOptions(
            suite=suite,
            split=split,
            n=attack.verify if split == "val" else data.test_size,
            eps=attack.eps,
            step_size=attack.step_size,
            data_dir=options.data_dir,
            output=place,
            gpus_per_worker=options.gpus_per_worker,
            address=options.address,
        ),
    )
    folder.keep(place.name)
    return place


def _read(trial_id: str, place: Path) -> Tested:
    summary = json.loads((place / trial_id / SUMMARY).read_text())
    low, high = summary["robust_acc_interval"]
    return Tested(
        trial=trial_id,
        clean_acc=summary["clean_acc"],
        robust_acc=summary["robust_acc"],
        robust_interval=(low, high),
        n=summary["n"],
        suite=summary["suite"],
        masking_status=summary["verdict"],
    )


def _register(
    champion: Score,
    finalists: Sequence[Finalist],
    final: Final,
    sweep: Sweep,
    console: Console,
    mirroring: Mirroring,
) -> None:
    """Into MLflow's registry; a server that is away costs nothing but this, until --resume."""
    tested = next(one for finalist in finalists for one in finalist.tested if one.trial == champion.id)
    description = (
        f"Chosen by the rule {final.rule} among {len(finalists)} finalists with {len(final.seeds)} seeds each, on"
        f" validation images: clean {champion.clean_acc:.1%}, robust {champion.robust_acc:.1%} under {champion.suite}"
        f" (n = {champion.robust_n}). On test, read once: clean {tested.clean_acc:.1%}, robust {tested.robust_acc:.1%}"
        f" [{tested.robust_interval[0]:.1%}, {tested.robust_interval[1]:.1%}] under {tested.suite}"
        f" (n = {tested.n}), {tested.masking_status}."
    )
    try:
        from sweeps.engine.tracking.registry import register_champion  # noqa: PLC0415 (seconds to import)

        version = register_champion(
            sweep, champion.id, name=final.registered_name, description=description, uri=mirroring.uri
        )
    except Exception as error:
        console.print(f"the champion is not registered ({why(error)}); --resume tries again", style="yellow")
        return
    console.print(
        f"champion: models:/{final.registered_name}@champion, version {version}, trial {champion.id}", highlight=False
    )
