"""Same attack, same accuracy: our PGD against foolbox's, our APGD against AutoAttack's own code.

python benchmarks/agreement.py                                                      # digits, trains three models
python benchmarks/agreement.py --models A B C --data-dir DIR --output agreement.json  # trained models' folders

Same model, images, budget, step size and number of steps. PGD is read at its last iterate. Our APGD is that of suite
quick, AutoAttack's that of its standard version; each part alone on what is classified correctly. A difference is ours
less theirs: below zero our attack is the stronger.

Random starts differ, so each attack runs with several seeds, and "by chance" is the difference of means that 95 of 100
such comparisons of an attack with itself would stay within. An attack that is called "shared" gives both the same
start instead: then hardly an image may differ. Run again with the same --output, what is there is not computed again.
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
from bat_core.rng import PerExampleRNG
from bat_core.suites import Suite, get_suite
from bat_core.threat import LinfBall

ATTACKS = ("pgd-20", "pgd-100", "apgd-ce", "apgd-t", f"pgd-20{SHARED}", f"apgd-ce{SHARED}")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Which models, which images, which seeds."""

    models: Annotated[tuple[Path, ...], Parameter(consume_multiple=True)] = ()
    """Folders of trained models. Default: one is trained by each of --recipes."""
    recipes: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("R-MC-LA", "R-MC", "Madry")
    """Recipes of the models that are trained where none are named."""
    dataset: str | None = None
    """Images: digits, cifar10, svhn. Default: those that the first model was trained on, or digits."""
    data_dir: Path | None = None
    """Folder with the images."""
    attacks: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ATTACKS
    """What to compare: pgd-20, pgd-100, apgd-ce, apgd-t; pgd-20-shared, apgd-ce-shared from one start, once."""
    n: int | None = None
    """Test images. Default: 1,000, or all there are if there are fewer."""
    batch_size: int = 200
    """Images at once."""
    seeds: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0, 1, 2)
    """Seeds of the random starts."""
    threads: int = 2
    """Threads that torch may use."""
    device: str = "cpu"
    """cpu or cuda."""
    output: Path | None = None
    """A JSON file for the results."""


def main(options: Options = Options()) -> dict[str, Any]:
    """Compare the accuracies that our attacks and other libraries' leave; see the top of the file."""
    if unknown := set(options.attacks) - set(ATTACKS):
        raise InputError(f"--attacks {sorted(unknown)[0]!r} is unknown: give some of {', '.join(ATTACKS)}")
    torch.set_num_threads(options.threads)
    dataset, folders = _models(options)
    n = min(1000, len(dataset.test)) if options.n is None else options.n
    images = Images.of(dataset, n=n, batch_size=options.batch_size)
    settings = {"dataset": dataset.name, "eps": images.eps, "step_size": images.step_size, "n": n}
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
        ours="".join("01"[int(stands)] for stands in ours),
        theirs="".join("01"[int(stands)] for stands in theirs),
        our_seconds=our_seconds,
        their_seconds=their_seconds,
    )
    say(f"{run.recipe} {attack} seed {seed}: {ours.mean():.2%} and {theirs.mean():.2%}, {our_seconds:.0f} s and"
        f" {their_seconds:.0f} s")  # fmt: skip
    return run


def _ours(model: nn.Module, images: Images, attack: str, seed: int) -> Flags:
    name, count = _parse(attack)
    whole, budget = images.whole(), {"eps": images.eps, "step_size": images.step_size}
    suite: AttackConfig | Suite
    if count:
        suite = AttackConfig(**budget, steps=(count,), losses=("ce",))
    else:
        quick = get_suite("quick", **budget)
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
                start = LinfBall.around(x, images.eps).random_start(rng)
            if count:
                settings = {"eps": images.eps, "step_size": images.step_size, "num_steps": count}
                correct.append(foolbox_pgd(model, x, y, **settings, freeze=True, start=start))
            elif start is not None:
                correct.append(apgd_from(model, x, y, eps=images.eps, start=start))
            else:
                correct.append(autoattack(model, x, y, eps=images.eps, part=name, seed=seed, batch_size=len(x)))
    return torch.cat(correct).cpu().numpy()


def _parse(attack: str) -> tuple[str, int]:
    """Our name of the attack, by which its starts are drawn, and PGD's number of steps: "ce", 20 of "pgd-20"."""
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
        raise InputError(f"{output} holds results of other settings, {report.get('settings')}: name another --output")
    return [Run(**{name: run[name] for name in Run.__dataclass_fields__}) for run in report["runs"]]


if __name__ == "__main__":
    command(main)
