"""Finalists: retrain the best points, choose a champion on validation images, evaluate once on test images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bat_core.data import Dataset
from bat_core.errors import InputError
from bat_core.suites import get_suite
from sweeps.engine.cli.text import count_of
from sweeps.engine.driver.on_ray import run_on_ray
from sweeps.engine.driver.session import SweepSession
from sweeps.engine.search.finalist_evaluations import evaluated_in_norms, read_reached
from sweeps.engine.search.objectives import choose, get_objective
from sweeps.engine.search.race import to_be_trained_again
from sweeps.engine.search.results import Robustness, Score, front, largest_part, scores
from sweeps.engine.search.snapshot import Finalist, Snapshot, Tested, trusted_finalists
from sweeps.engine.search.spec import Final, Search
from sweeps.engine.search.text import conditions, nothing_to_retrain, seeds_each
from sweeps.engine.search.threats import shown_in_words
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.tracking.background import describe_error, quiet_mlflow

ROLE = "finalist"
VAL_SUITE, TEST_SUITE = "quick", "standard"  # on validation images, to choose; on test images, to report


def run_finalists(session: SweepSession, search: Search) -> tuple[list[Finalist], str | None]:
    """Train the finalists, choose the champion, evaluate all finalists on test, and register the champion.

    Resumes where it stopped. The caller must have finished every trial of the search.

    Returns:
        The finalists whose every seed finished, and the champion's trial id (None without a champion).
    """
    if search.final is None:
        return [], None
    snapshot = Snapshot.of(session.sweep, search, session.folder)
    origins = finalist_origins(snapshot)
    if not origins:
        why = nothing_to_retrain(snapshot) or "No trial has finished."
        session.say(f"{why} So there are no finalists: nothing is retrained, and no model is registered.", "yellow")
        return [], None
    finalists = _raced(session, search, origins)
    if not finalists:
        return [], None
    champion = chosen_model(finalists, search)
    finalists = _tested(session, search, finalists)
    if champion is None:
        session.say(f"no finalist satisfies {conditions(search)}: no model is registered", "yellow")
        return finalists, None
    _register(session, search, champion, finalists)
    return finalists, champion.id


def check_finalists(search: Search, dataset: Dataset) -> None:
    """Check before the first trial what the finalists will need after the last one.

    Raises:
        InputError: there are no test images, or an attack is not installed.
    """
    if search.final is None:
        return
    attack = search.base.attack
    for suite in (VAL_SUITE, TEST_SUITE):
        get_suite(suite, eps=attack.eps, norm=attack.norm).for_classes(dataset.num_classes).check_available()
    if not len(dataset.test):
        raise InputError("--finalists are evaluated on test images, and the data set has none: leave --finalists out")


def finalist_origins(snapshot: Snapshot) -> list[Score]:
    """The trials to retrain: a part of the front of those that meet every constraint of the objective.

    It is the front of the accuracies that a model of all trials expects, because the best of those seen are lucky
    ones; that of the seen ones without a model, and in searches that were started so.
    """
    final, aims = snapshot.search.final, snapshot.objective.aims
    if final is None:
        return []
    if final.by == "expected" and snapshot.expected is not None:
        chosen = {one.id for one in largest_part(snapshot.expected.front_of(snapshot.feasible), final.count)}
        return [one for one in snapshot.feasible if one.id in chosen]
    return largest_part(front(snapshot.feasible, aims), final.count, aims)


def final_trial(origin: Score, seed: int, epochs: int | None) -> Trial:
    """The trial that retrains a point of the front with another seed, for the full number of epochs."""
    config = origin.trial.config
    train = replace(config.train, epochs=epochs or config.train.epochs)
    return Trial(
        id=f"final-{origin.id}-seed{seed}" + (f"-{epochs}epochs" if epochs else ""),
        config=replace(config, train=train, seed=seed),
        role=ROLE,
        point=origin.trial.point,
    )


def _raced(session: SweepSession, search: Search, origins: Sequence[Score]) -> list[Finalist]:
    """Train and evaluate the finalists, and give some of them more seeds until the rule's choice is clear.

    Returns:
        The finalists whose every seed finished; none if it was interrupted.
    """
    final = search.final
    assert final is not None
    seeds, scored = {origin.id: final.seeds for origin in origins}, dict[str, Score]()
    racing = [origin.id for origin in origins]
    while True:
        trials = [final_trial(one, seed, final.epochs) for one in origins for seed in seeds[one.id]]
        if not _train(session, trials, racing):
            return []
        finalists = _finished(session, final, origins, seeds)
        new = [one for finalist in finalists for one in finalist.members if one.id not in scored]
        if new:
            session.tracker.once()  # the evaluations are logged to the models' own runs
            scored |= {one.id: one for one in _evaluated_on_val(session, search, new)}
        finalists = [replace(one, members=tuple(scored[member.id] for member in one.members)) for one in finalists]
        racing = next_seeds(finalists, search)
        if not racing:
            return finalists
        seeds |= {name: final.seeds_for(len(seeds[name]) + 1) for name in racing}


def next_seeds(finalists: Sequence[Finalist], search: Search) -> list[str]:
    """The origins of the finalists that get another seed: none if the choice is clear, or all have the most seeds."""
    assert search.final is not None
    floor = get_objective(search.objective).floor or 0.0
    most = search.final.max_seeds or len(search.final.seeds)
    if all(len(one.members) >= most for one in finalists):
        return []
    again = to_be_trained_again(finalists, search.final.rule, floor)
    return [one.origin.id for one in finalists if one.origin.id in again and len(one.members) < most]


def _train(session: SweepSession, trials: Sequence[Trial], racing: Sequence[str]) -> bool:
    """Train what is missing. Returns True if every trial finished or failed, False if it was interrupted."""
    folder = session.folder
    known = {trial.id for trial in folder.trials(session.sweep)}
    for trial in trials:
        if trial.id not in known:
            folder.propose(trial)
    waiting = [trial for trial in trials if read_status(folder.trial(trial)).phase != "finished"]
    if not waiting:
        return True
    session.console.print(f"training {len(waiting)} models of {count_of(len(racing), 'finalist')}")
    run_on_ray(session, waiting)
    return all(read_status(folder.trial(trial)).done for trial in trials)


def _finished(
    session: SweepSession, final: Final, origins: Sequence[Score], seeds: Mapping[str, tuple[int, ...]]
) -> list[Finalist]:
    """The finalists whose every seed finished training."""
    by_id = {one.id: one for one in scores(session.sweep, session.folder, role=ROLE)}
    found = []
    for origin in origins:
        ids = [final_trial(origin, seed, final.epochs).id for seed in seeds[origin.id]]
        if all(trial_id in by_id for trial_id in ids):
            found.append(Finalist(origin=origin, members=tuple(by_id[trial_id] for trial_id in ids)))
    return found


def chosen_model(finalists: Sequence[Finalist], search: Search) -> Score | None:
    """The champion; None if no finalist satisfies the rule and the objective.

    The rule picks a finalist by its means on validation images, among those whose mean has the clean accuracy that
    the objective requires. The champion is that finalist's most robust model there.
    """
    assert search.final is not None
    floor = get_objective(search.objective).floor or 0.0
    allowed = [finalist for finalist in trusted_finalists(finalists) if finalist.clean_acc >= floor]
    picked = choose(allowed, search.final.rule)
    return max(picked.members, key=lambda one: (one.robust_acc, one.clean_acc)) if picked else None


def _evaluated_on_val(session: SweepSession, search: Search, members: Sequence[Score]) -> list[Score]:
    """Evaluate models on validation images, with all gradient-masking checks. The rule sees these numbers."""
    places = evaluated_in_norms(session, search, members, split="val", suite=VAL_SUITE)
    shown = get_objective(search.objective).shown

    def evaluated(member: Score) -> Score:
        found = read_reached(places, member.id)
        return replace(
            member,
            clean_acc=found.clean_acc,
            robust_acc=found.under(shown).acc,
            robust_n=found.under(shown).n,
            suite=found.under(shown).suite,
            masking_status=found.masking_status,
            flags=found.flags,
            threats=found.threats,
        )

    return [evaluated(member) for member in members]


def _tested(session: SweepSession, search: Search, finalists: Sequence[Finalist]) -> list[Finalist]:
    """Evaluate every finalist with the full suite on test images, once."""
    members = [member for finalist in finalists for member in finalist.members]
    places = evaluated_in_norms(session, search, members, split="test", suite=TEST_SUITE)
    shown = get_objective(search.objective).shown
    return [
        replace(finalist, tested=tuple(_read(member.id, places, shown) for member in finalist.members))
        for finalist in finalists
    ]


def _read(trial_id: str, places: Mapping[str, Path], shown: str | None) -> Tested:
    found = read_reached(places, trial_id)
    robust = found.under(shown)
    return Tested(
        trial=trial_id,
        clean_acc=found.clean_acc,
        robust_acc=robust.acc,
        robust_interval=robust.interval,
        n=robust.n,
        suite=robust.suite,
        masking_status=found.masking_status,
        own=found.own,
    )


def _register(session: SweepSession, search: Search, champion: Score, finalists: Sequence[Finalist]) -> None:
    """Register the champion in MLflow. If the server does not respond, print a warning; --resume tries again."""
    final, where = search.final, shown_in_words(get_objective(search.objective))
    assert final is not None
    tested = next(one for finalist in finalists for one in finalist.tested if one.trial == champion.id)
    own = tested.own or Robustness(acc=tested.robust_acc, n=tested.n, suite=tested.suite)
    description = (
        f"Chosen by the rule {final.rule} from {len(finalists)} finalists with {seeds_each(finalists)}, on"
        f" validation images: clean {champion.clean_acc:.1%}, robust{where} {champion.robust_acc:.1%} under"
        f" {champion.suite} (n = {champion.robust_n}). On test images, evaluated once: clean {tested.clean_acc:.1%},"
        f" robust{where} {tested.robust_acc:.1%}"
        f" [{tested.robust_interval[0]:.1%}, {tested.robust_interval[1]:.1%}] under {tested.suite}"
        f" (n = {tested.n}), {tested.verdict}."
    )
    try:
        from sweeps.engine.tracking.registry import Merit, register_champion

        quiet_mlflow()
        merit = Merit.of(
            session.sweep,
            champion.trial,
            robust_acc=own.acc,
            clean_acc=tested.clean_acc,
            n=own.n,
            suite=own.suite,
            verdict=tested.masking_status,
        )
        version = register_champion(
            session.sweep,
            champion.id,
            merit,
            name=final.registered_name,
            description=description,
            uri=session.tracker.uri,
        )
    except Exception as error:
        session.console.print(
            f"could not register the champion ({describe_error(error)}); --resume tries again", style="yellow"
        )
        return
    session.console.print(
        f"champion: models:/{final.registered_name}@champion, version {version}, trial {champion.id}", highlight=False
    )
