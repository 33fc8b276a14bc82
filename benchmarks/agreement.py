"""Do equal attacks give equal accuracy? Compares our PGD with foolbox's and our APGD with AutoAttack's own code.

python benchmarks/agreement.py                                                      # digits, trains three models
python benchmarks/agreement.py --norm l2                                            # the same in L2
python benchmarks/agreement.py --models A B C --data-dir DIR --output agreement.json  # trained models' folders

Both use the same model, images, budget, step size and number of steps. PGD is evaluated at its last iterate. Our APGD
has the settings of suite quick, AutoAttack's those of its standard version; each part runs alone on the images that are
classified correctly. A difference is our accuracy minus theirs: if it is negative, our attack is stronger.

Random starts differ, so each attack runs with several seeds. "By chance" is the limit within which the difference of
means stays in 95 of 100 comparisons of an attack with itself. An attack called "shared" gives both the same start, so
almost no image may differ. A second run with the same --output reuses finished results.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from support.common import Flags, Images, Training, command, machine, say, write_report
from support.pairs import SHARED, Run, show, summary
from support.peers import apgd_from, autoattack, foolbox_pgd, own_randomness
from torch import Tensor, nn

from bat_core.checkpoint import load_model
from bat_core.config import AttackConfig, TrialConfig
from bat_core.data import Dataset, load_dataset, to_unit
from bat_core.errors import InputError
from bat_core.evaluate import evaluate
from bat_core.norms import LINF, Norm
from bat_core.rng import PerExampleRNG
from bat_core.suites import Suite, get_suite
from bat_core.threat import ball_around

ATTACKS = ("pgd-20", "pgd-100", "apgd-ce", "apgd-t", f"pgd-20{SHARED}", f"apgd-ce{SHARED}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Which models, which images, which seeds."""

    models: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = ()
    """Folders of trained models. Default: train one with each of --recipes."""
    recipes: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("R-MC-LA", "R-MC", "Madry")
    """Recipes of the models that are trained if no --models are given."""
    dataset: str | None = None
    """Images: digits, cifar10, svhn. Default: the data set of the first model, or digits."""
    data_dir: Path | None = None
    """Folder with the images."""
    norm: Norm = LINF
    """Norm of the attacks: linf or l2."""
    attacks: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ATTACKS
    """Attacks: pgd-20, pgd-100, apgd-ce, apgd-t; pgd-20-shared and apgd-ce-shared use a common start and one seed."""
    n: int | None = None
    """Number of test images. Default: 1,000, or all if there are fewer."""
    batch_size: int = 200
    """Images per batch."""
    seeds: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0, 1, 2)
    """Seeds of the random starts."""
    threads: int = 2
    """Number of torch's CPU threads."""
    device: str = "cpu"
    """cpu or cuda."""
    output: Path | None = None
    """JSON file for the results."""


def main(options: Options = Options()) -> dict[str, Any]:
    """Compare accuracies under our attacks and other libraries'. The top of the file describes the method."""
    if unknown := set(options.attacks) - set(ATTACKS):
        raise InputError(f"unknown --attacks {sorted(unknown)[0]!r}: give one or more of {', '.join(ATTACKS)}")
    torch.set_num_threads(options.threads)
    dataset, folders = _models(options)
    n = min(1000, len(dataset.test)) if options.n is None else options.n
    images = Images.of(dataset, n=n, batch_size=options.batch_size, norm=options.norm)
    settings = {"dataset": dataset.name, "eps": images.eps, "step_size": images.step_size, "n": n}
    settings |= {} if options.norm == LINF else {"norm": options.norm}
    runs = _runs_so_far(options.output, settings)
    for folder, seed, attack in product(folders, options.seeds, options.attacks):
        model, config = load_model(folder)
        done = any((run.model, run.seed, run.attack) == (config.hash, seed, attack) for run in runs)
        if done or (attack.endswith(SHARED) and seed != options.seeds[0]):
            continue
        runs.append(_compare(model.to(options.device), config, images, attack, seed))
        _write(options, settings, runs)
    report = _write(options, settings, runs)
    show(report, n)
    return report


def _models(options: Options) -> tuple[Dataset, Sequence[Path]]:
    name = options.dataset or (load_model(options.models[0])[1].data.name if options.models else "digits")
    dataset = load_dataset(name, options.data_dir)
    return dataset, options.models or [options.trained(dataset, recipe) for recipe in options.recipes]


def _compare(model: nn.Module, config: TrialConfig, images: Images, attack: str, seed: int) -> Run:
    our_seconds, ours = _timed(partial(_ours, model, images, attack, seed))
    their_seconds, theirs = _timed(partial(_theirs, model, images, attack, seed))
    run = Run(
        model=config.hash,
        recipe=config.recipe.name,
        attack=attack,
        seed=seed,
        ours="".join("01"[int(robust)] for robust in ours),
        theirs="".join("01"[int(robust)] for robust in theirs),
        our_seconds=our_seconds,
        their_seconds=their_seconds,
    )
    say(f"{run.recipe} {attack} seed {seed}: {ours.mean():.2%} and {theirs.mean():.2%}, {our_seconds:.0f} s and"
        f" {their_seconds:.0f} s")  # fmt: skip
    return run


def _ours(model: nn.Module, images: Images, attack: str, seed: int) -> Flags:
    name, count = _parse(attack)
    whole = images.whole()
    suite: AttackConfig | Suite
    if count:
        suite = AttackConfig(
            eps=images.eps, step_size=images.step_size, norm=images.norm, steps=(count,), losses=("ce",)
        )
    else:
        quick = get_suite("quick", eps=images.eps, norm=images.norm)
        suite = replace(quick, entries=(quick.entry(name),))
    verdicts = evaluate(
        model, whole.images, whole.labels, attack=suite, rows=whole.rows, seed=seed, batch_size=images.batch_size
    )
    return verdicts.outcomes[name].final[:, -1] if count else verdicts.robust_correct


def _theirs(model: nn.Module, images: Images, attack: str, seed: int) -> Flags:
    device = next(model.parameters()).device
    name, count = _parse(attack)
    correct: list[Tensor] = []
    with own_randomness(seed):
        for block in images.blocks:
            x, y = to_unit(block.images.to(device)), block.labels.to(device)
            start = None
            if attack.endswith(SHARED):
                rng = PerExampleRNG(seed=seed, names=("evaluate", name), indices=block.rows.tolist())
                start = ball_around(x, images.eps, images.norm).random_start(rng)
            if count:
                settings = {"eps": images.eps, "step_size": images.step_size, "num_steps": count}
                settings |= {} if images.norm == LINF else {"loss": "ce in l2"}
                correct.append(foolbox_pgd(model, x, y, **settings, freeze=True, start=start))
            elif start is not None:
                correct.append(apgd_from(model, x, y, eps=images.eps, start=start, norm=images.norm))
            else:
                correct.append(
                    autoattack(model, x, y, eps=images.eps, part=name, seed=seed, batch_size=len(x), norm=images.norm)
                )
    return torch.cat(correct).cpu().numpy()


def _parse(attack: str) -> tuple[str, int]:
    """Our name of the attack, which seeds its random starts, and PGD's number of steps: ("ce", 20) for "pgd-20"."""
    name = attack.removesuffix(SHARED)
    return ("ce", int(name.removeprefix("pgd-"))) if name.startswith("pgd-") else (name, 0)


def _timed(run: Callable[[], Flags]) -> tuple[float, Flags]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


def _write(options: Options, settings: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    cases = dict.fromkeys((run.model, run.attack) for run in runs)
    report = {
        "machine": machine(options.device),
        "options": asdict(options),
        "settings": settings,
        "runs": [run.describe() for run in runs],
        "summary": [summary([run for run in runs if (run.model, run.attack) == case]) for case in cases],
    }
    write_report(options.output, report)
    return report


def _runs_so_far(output: Path | None, settings: dict[str, Any]) -> list[Run]:
    if output is None or not output.is_file():
        return []
    report = json.loads(output.read_text())
    if report.get("settings") != settings:
        raise InputError(f"{output} has results for other settings, {report.get('settings')}: give another --output")
    return [Run(**{name: run[name] for name in Run.__dataclass_fields__}) for run in report["runs"]]


if __name__ == "__main__":
    command(main)
