"""The suite `fast` on many models, compared image by image with `quick` and `standard`.

python benchmarks/ladder.py --sets recipes masked --cache outputs/ladder --output benchmarks/results/ladder.json
python benchmarks/ladder.py --sets cifar10 --cifar10 DIR --cache outputs/ladder --output benchmarks/results/ladder.json
python benchmarks/ladder.py --sets given --models MODEL... --dataset cifar10 --data-dir DIR --eps 2/255 --output ...
python benchmarks/ladder.py --table --output benchmarks/results/ladder.json

Sets of models: recipes (every recipe on digits), masked (every kind of `masking.py` on digits), deep (a narrow
pre-activation ResNet-18 on digits, by three recipes), cifar10 (every recipe on a part of CIFAR-10), given (--models, as
`sweeps/evaluate.py` takes them). Each model's result is added to --output as soon as it is known, and a model that is
there is not measured again. --table prints the table of docs/evaluation.md.

The suites take turns on each block of images, each turn starting with another suite. Time is this process's CPU time.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter
from masking import KINDS, SCALES, trained, trial
from support.common import CONSOLE, Flags, command, machine, say, write_report
from torch import nn

from bat_core.config import RecipeConfig
from bat_core.data import Dataset, Split, load_dataset
from bat_core.errors import InputError
from bat_core.evaluate import evaluate
from bat_core.masking.checks import IMAGES, examine
from bat_core.recipes import recipe_names, recipe_params
from bat_core.stats import Z95, Interval
from bat_core.suites import get_suite
from sweeps.engine.cli.options import Amount
from sweeps.engine.evaluation.model_sources import find_models

SUITES = ("fast", "quick", "standard")
SETS = ("recipes", "masked", "cifar10", "deep", "given")
CIFAR10_NETWORK = "small_cnn_8"
DEEP, DEEP_RECIPES = "preact_resnet18_8", ("R-MC-LA", "Madry", "TRADES")
SAME = {"BAT"}  # names of recipes that train the model of another name
SEED = 31  # of training; no model of this seed was seen when the ladder was made


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """Which models and images."""

    sets: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("recipes", "masked")
    """Sets of models."""
    models: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Models of the set given."""
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Measure only these models of the sets, by name."""
    dataset: str = "digits"
    """Images of the set given."""
    data_dir: Path | None = None
    """Their folder."""
    cifar10: Path | None = None
    """Folder of CIFAR-10, for the set cifar10."""
    eps: Amount | None = None
    """Budget of the set given. Default: 8 pixels of the data set."""
    n: int | None = None
    """Most images per model. Default: all."""
    block: int = 500
    """Images in a turn."""
    network: str = "small_cnn_16"
    """Network of the recipes on digits."""
    epochs: int = 8
    """Epochs of the recipes on digits."""
    threads: int = 1
    """Number of torch's CPU threads."""
    cache: Path = Path("outputs/ladder")
    """Folder for trained models."""
    output: Path = Path("outputs/ladder.json")
    """JSON file for all measurements."""
    table: bool = False
    """Print the tables of the measurements that are there, as Markdown, and measure nothing."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model to measure, the images and the budget."""

    name: str
    group: str
    make: Callable[[], nn.Module]
    images: Split
    dataset: str
    eps: float
    checked: bool = False  # whether the checks for gradient masking are run with each suite's verdicts


def main(options: Options = Options()) -> dict[str, Any]:
    """Compare the suite fast with quick and standard on many models. The top of the file describes the sets."""
    if unknown := set(options.sets) - set(SETS):
        raise InputError(f"unknown --sets {sorted(unknown)[0]!r}: give one or more of {', '.join(SETS)}")
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {"models": []}
    if not options.table:
        report["machine"] = machine("cpu")
        known = {(one["name"], one["group"], one["dataset"]) for one in report["models"]}
        for case in cases(options):
            wanted = not options.only or case.name in options.only
            if wanted and (case.name, case.group, case.dataset) not in known:
                report["models"].append(measure(case, options, turn=len(report["models"])))
                write_report(options.output, report)
    if report["models"]:
        show(report["models"])
    return report


def cases(options: Options) -> Iterator[Case]:
    """Every model of the chosen sets. A model is trained or loaded when it is measured."""
    if {"recipes", "masked", "deep"} & set(options.sets):
        digits = load_dataset("digits")
        if "recipes" in options.sets:
            yield from (
                _trained(digits, recipe, "recipes", options, {"model": options.network}) for recipe in _recipe_names()
            )
        if "masked" in options.sets:
            yield from (_masked(digits, kind, options) for kind in KINDS)
        if "deep" in options.sets:
            yield from (_trained(digits, recipe, "deep", options, {"model": DEEP}) for recipe in DEEP_RECIPES)
    if "cifar10" in options.sets:
        part = load_dataset("cifar10", options.cifar10, train_size=SCALES["cifar10"].train_size)
        for recipe in _recipe_names():
            yield _trained(part, recipe, "cifar10", options, {"model": CIFAR10_NETWORK})
    if "given" in options.sets:
        dataset = load_dataset(options.dataset, options.data_dir)
        eps = options.eps or 8 * dataset.pixel
        for source in find_models(options.models, weights=None, downloads=options.cache):
            yield Case(
                name=source.name,
                group="given",
                make=source.load,
                images=dataset.test.take(slice(options.n)).in_memory(),
                dataset=dataset.name,
                eps=eps,
            )


def _recipe_names() -> list[str]:
    return [name for name in recipe_names() if name not in SAME]


def _trained(dataset: Dataset, recipe: str, group: str, options: Options, settings: Mapping[str, Any]) -> Case:
    config = replace(trial(dataset, "Madry", SEED), **settings)
    params = {"eps": config.attack.eps} if "eps" in recipe_params(recipe) else {}
    config = replace(config, recipe=RecipeConfig(name=recipe, params=params))
    train = replace(config.train, precision="float32")  # much faster where the processor does not compute in bfloat16
    config = replace(config, train=replace(train, epochs=options.epochs) if group in {"recipes", "deep"} else train)
    return Case(
        name=recipe,
        group=group,
        make=lambda: trained(config, dataset, options.cache),
        images=dataset.test.take(slice(options.n)).in_memory(),
        dataset=dataset.name,
        eps=config.attack.eps,
    )


def _masked(digits: Dataset, kind: str, options: Options) -> Case:
    config = trial(digits, KINDS[kind].recipe, SEED)
    if KINDS[kind].recipe != "FGSM":  # which leaks labels only in a training of its own
        config = replace(config, model=options.network, train=replace(config.train, epochs=options.epochs))

    def make() -> nn.Module:
        model = trained(config, digits, options.cache)
        wrap = KINDS[kind].wrap
        return wrap(model) if wrap else model

    return Case(
        name=kind,
        group="masked",
        make=make,
        images=digits.test.take(slice(options.n)).in_memory(),
        dataset="digits",
        eps=config.attack.eps,
        checked=True,
    )


def measure(case: Case, options: Options, *, turn: int) -> dict[str, Any]:
    """Attack one model with each suite: who stands, passes of images through the network, CPU seconds."""
    model = case.make().eval()
    stands: dict[str, list[Flags]] = {name: [] for name in SUITES}
    seconds: dict[str, list[float]] = {name: [] for name in SUITES}
    passes = dict.fromkeys(SUITES, 0)
    clean = 0
    for number, positions in enumerate(torch.arange(len(case.images)).split(options.block)):
        first = (turn + number) % len(SUITES)
        for name in SUITES[first:] + SUITES[:first]:
            block = case.images.take(positions)
            torch.manual_seed(SEED)  # for models that are random at inference
            counted = _Passes(model)
            began = time.process_time()
            suite = get_suite(name, eps=case.eps)
            verdicts = evaluate(
                model, block.images, block.labels, attack=suite, rows=positions, batch_size=options.block
            )
            seconds[name].append(time.process_time() - began)
            passes[name] += counted.stop()
            stands[name].append(verdicts.robust_correct)
            say(f"{case.name}, block {number + 1}: {name} {seconds[name][-1]:.1f} s, {verdicts.robust_acc:.2%}")
        clean += int(verdicts.clean_correct.sum())
    robust = {name: np.concatenate(parts) for name, parts in stands.items()}
    return {
        "name": case.name,
        "group": case.group,
        "dataset": case.dataset,
        "eps": case.eps,
        "n": len(case.images),
        "clean": clean,
        "standing": {name: int(flags.sum()) for name, flags in robust.items()},
        "passes": passes,
        "cpu_seconds": seconds,
        "compared": {f"{one} with {other}": _compared(robust[one], robust[other]) for one, other in PAIRS},
        "checks": _checks(case, model, robust) if case.checked else {},
    }


PAIRS = (("fast", "quick"), ("fast", "standard"), ("quick", "standard"))


def _compared(one: Flags, other: Flags) -> dict[str, int]:
    """Images that only the other suite broke (missed), and that only this one broke (gained)."""
    return {"missed": int((one & ~other).sum()), "gained": int((other & ~one).sum())}


def _checks(case: Case, model: nn.Module, robust: Mapping[str, Flags]) -> dict[str, dict[str, Any]]:
    """The masking status by each suite's verdicts, and its flags."""
    part, found = case.images.take(slice(IMAGES)), {}
    for name, flags in robust.items():
        torch.manual_seed(SEED)
        verified = torch.from_numpy(flags[: len(part)])
        findings = examine(model, part.images, part.labels, eps=case.eps, depth="full", verified=verified)
        found[name] = {"status": findings.masking_status, "flags": [flag.name for flag in findings.flags]}
    return found


class _Passes:
    """Counts the images that go through a model."""

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        self._hook = model.register_forward_pre_hook(self._see)

    def _see(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.count += len(inputs[0])

    def stop(self) -> int:
        self._hook.remove()
        return self.count


def paired_interval(missed: int, gained: int, n: int) -> Interval:
    """The 95 % interval of the difference of two accuracies on the same n images, in [-1, 1].

    Source: Agresti and Min 2005, Statistics in Medicine 24 (Wald's interval with half an image added to each cell).
    """
    missed_share, gained_share = (missed + 0.5) / (n + 2), (gained + 0.5) / (n + 2)
    centre = missed_share - gained_share
    half = Z95 * np.sqrt((missed_share + gained_share - centre**2) / (n + 2))
    return Interval(float(centre - half), float(centre + half))


def show(models: Sequence[Mapping[str, Any]]) -> None:
    """Print one row per model, and the pooled counts, as Markdown."""
    columns = [
        "model",
        "n",
        *SUITES,
        "missed, gained: quick",
        "missed, gained: standard",
        "passes an image",
        "CPU s",
        "checks",
    ]
    rows = [_row(one) for one in models]
    CONSOLE.print(_pipes(columns, rows), markup=False, highlight=False, soft_wrap=True)
    groups = {group: [one for one in models if one["group"] == group] for group in SETS}
    pools = {"all": _each_once(models), **{name: members for name, members in groups.items() if members}}
    pools["not masked"] = [one for one in pools["all"] if not _is_masked(one)]
    columns = ["models", "number", "images", "compared", "missed", "gained", "points (95 %)", "passes", "CPU time"]
    rows = [_pooled(name, members, pair) for name, members in pools.items() for pair in PAIRS]
    CONSOLE.print("\n" + _pipes(columns, rows), markup=False, highlight=False, soft_wrap=True)


def _each_once(models: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The models without those of the set masked that the set recipes has too: Madry and R-MC-LA."""
    recipes = {one["name"] for one in models if one["group"] == "recipes"}
    return [one for one in models if one["group"] != "masked" or one["name"] not in recipes]


def _is_masked(one: Mapping[str, Any]) -> bool:
    return any(found["status"] == "masked" for found in one["checks"].values())


def _row(one: Mapping[str, Any]) -> list[str]:
    n = one["n"]
    cells = [f"{one['name']} ({one['dataset']}, {one['group']})", str(n)]
    cells += [f"{one['standing'][name] / n:.2%}" for name in SUITES]
    cells += [
        f"{pair['missed']}, {pair['gained']}" for pair in (one["compared"][f"fast with {name}"] for name in SUITES[1:])
    ]
    cells += [", ".join(f"{one['passes'][name] / n:.0f}" for name in SUITES)]
    cells += [", ".join(f"{sum(one['cpu_seconds'][name]):.1f}" for name in SUITES)]
    return [*cells, ", ".join(found["status"] for found in one["checks"].values()) or "-"]


def _pooled(name: str, members: Sequence[Mapping[str, Any]], pair: tuple[str, str]) -> list[str]:
    one, other = pair
    n, missed, gained = (sum(counts) for counts in zip(*(_counts(member, pair) for member in members), strict=True))
    low, high = paired_interval(missed, gained, n)
    passes, seconds = (
        sum(total(member[key][other]) for member in members) / sum(total(member[key][one]) for member in members)
        for key, total in (("passes", int), ("cpu_seconds", sum))
    )
    points = f"{100 * (missed - gained) / n:+.3f} ({100 * low:+.3f} to {100 * high:+.3f})"
    cells = [name, str(len(members)), str(n), f"{one} with {other}", str(missed), str(gained), points]
    return [*cells, f"{passes:.1f}x fewer", f"{seconds:.1f}x faster"]


def _counts(member: Mapping[str, Any], pair: tuple[str, str]) -> tuple[int, int, int]:
    found = member["compared"][" with ".join(pair)]
    return member["n"], found["missed"], found["gained"]


def _pipes(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    command(main)
