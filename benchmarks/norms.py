"""Does training in a norm help in that norm, and what does an L2 step cost?

python benchmarks/norms.py                                                          # digits
python benchmarks/norms.py --dataset cifar10 --data-dir DIR --train-size 2000 --val-size 200 \
    --model small_cnn_8 --epochs 6 --n 200 --output norms_cifar10.json

One model per seed is trained with --recipe in L-inf and one in L2, both at the data set's usual budgets, with equal
settings. Every model is attacked in both norms with --suite. For each norm the difference is the accuracy of the models
trained in it minus that of the models trained in the other, in points, with a 95 % interval (Student's) over seeds.

The cost is that of PGD on one model and the same images, run in turns: seconds of this process in L2 over those in
L-inf, by turn. A second run with the same --output reuses finished models' results and measures the cost again.
"""

import json
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from scipy.stats import t
from support.common import command, machine, say, write_report

from bat_core.attacks import PGD
from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Dataset, load_dataset, to_unit
from bat_core.errors import InputError
from bat_core.evaluate import evaluate
from bat_core.fit import fit
from bat_core.models import build_model
from bat_core.norms import NORMS, UNITS, Norm
from bat_core.recipes import budget_params
from bat_core.stats import wilson
from bat_core.suites import get_suite

OF_RUNS = ("dataset", "train_size", "val_size", "model", "recipe", "epochs", "suite", "n")  # options behind a run


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What is trained, on what, and how it is attacked."""

    dataset: str = "digits"
    """Images: digits, cifar10, svhn."""
    data_dir: Path | None = None
    """Folder with the images."""
    train_size: int | None = None
    """Number of training images. Default: all."""
    val_size: int | None = None
    """Number of validation images. Default: a tenth of the training images, at most 1,000."""
    model: str = "small_cnn_16"
    """Network."""
    recipe: str = "Madry"
    """Training recipe."""
    epochs: int = 20
    """Epochs."""
    seeds: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0, 1, 2)
    """Seeds."""
    suite: str = "quick"
    """Attacks."""
    n: int = 397
    """Number of test images."""
    turns: int = 7
    """How often each norm is timed."""
    threads: int = 1
    """Number of torch's CPU threads."""
    output: Path | None = None
    """JSON file for the results."""


def main(options: Options = Options()) -> dict[str, Any]:
    """Train in both norms, attack in both, and time both. The top of the file describes the method."""
    torch.set_num_threads(options.threads)
    dataset = load_dataset(options.dataset, options.data_dir, train_size=options.train_size, val_size=options.val_size)
    report: dict[str, Any] = {"machine": machine("cpu"), "options": asdict(options), "runs": _runs_so_far(options)}
    known = {(run["trained_in"], run["seed"]) for run in report["runs"]}
    for seed, norm in product(options.seeds, NORMS):
        if (norm, seed) not in known:
            report["runs"].append(judged(trained(dataset, options, norm, seed), dataset, options, norm, seed))
            write_report(options.output, report)
    report["differences"] = {norm: difference(report["runs"], norm) for norm in NORMS}
    report["cost"] = cost(dataset, options)
    write_report(options.output, report)
    for norm, found in report["differences"].items():
        say(f"{norm}: trained in it minus trained in the other: {found['points']:+.1f} points [{found['low']:+.1f},"
            f" {found['high']:+.1f}]")  # fmt: skip
    say(f"PGD in L2 over PGD in L-inf: {report['cost']['ratio']:.3f} (median of {options.turns} turns)")
    return report


def _runs_so_far(options: Options) -> list[dict[str, Any]]:
    if options.output is None or not options.output.is_file():
        return []
    report = json.loads(options.output.read_text())
    for name in OF_RUNS:
        if report["options"].get(name) != getattr(options, name):
            raise InputError(f"{options.output} has results of {name}={report['options'][name]}: give another --output")
    return [run for run in report["runs"] if run["seed"] in options.seeds]


def budget(dataset: Dataset, norm: Norm) -> float:
    """The data set's usual budget in a norm."""
    return UNITS * dataset.unit(norm)


def trained(dataset: Dataset, options: Options, norm: Norm, seed: int) -> torch.nn.Module:
    """A model trained in a norm."""
    eps = budget(dataset, norm)
    config = TrialConfig(
        data=DataConfig(name=options.dataset, train_size=options.train_size, val_size=options.val_size),
        model=options.model,
        recipe=RecipeConfig(name=options.recipe, params=budget_params(options.recipe, eps, norm)),
        train=TrainConfig(epochs=options.epochs),
        attack=AttackConfig(eps=eps, step_size=eps / 4, norm=norm),
        seed=seed,
    )
    *_, last = fit(config, dataset)
    return last.state.model.eval()


def judged(model: torch.nn.Module, dataset: Dataset, options: Options, norm: Norm, seed: int) -> dict[str, Any]:
    """A model's accuracy on clean images and under attack in each norm, with Wilson intervals."""
    test = dataset.test.take(slice(options.n))
    run: dict[str, Any] = {"trained_in": norm, "seed": seed, "n": len(test)}
    for attacked in NORMS:
        eps = budget(dataset, attacked)
        verdicts = evaluate(model, test.images, test.labels, attack=get_suite(options.suite, eps=eps, norm=attacked))
        run["clean"] = verdicts.clean_acc
        low, high = wilson(int(verdicts.robust_correct.sum()), len(verdicts))
        run[attacked] = {"eps": eps, "robust": verdicts.robust_acc, "low": low, "high": high}
    say(f"trained in {norm}, seed {seed}: clean {run['clean']:.1%}, L-inf {run['linf']['robust']:.1%},"
        f" L2 {run['l2']['robust']:.1%}")  # fmt: skip
    return run


def difference(runs: Sequence[Mapping[str, Any]], norm: Norm) -> dict[str, float]:
    """Points that training in a norm gains in it over training in the other: the mean over seeds, and its interval."""
    robust = {(run["trained_in"], run["seed"]): 100 * run[norm]["robust"] for run in runs}
    (other,) = [one for one in NORMS if one != norm]
    gains = [robust[norm, seed] - robust[other, seed] for seed in sorted({run["seed"] for run in runs})]
    mean = statistics.fmean(gains)
    half = math.inf
    if len(gains) > 1:
        half = float(t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / math.sqrt(len(gains))
    return {"points": mean, "low": mean - half, "high": mean + half, "seeds": len(gains)}


def cost(dataset: Dataset, options: Options) -> dict[str, Any]:
    """CPU seconds of PGD-20 in each norm, in turns, on an untrained network: the work of a step is the same."""
    torch.manual_seed(0)
    model = build_model(options.model, num_classes=dataset.num_classes, image_shape=dataset.image_shape).eval()
    test = dataset.test.take(slice(min(options.n, 200)))
    x, y = to_unit(test.images[:]), test.labels
    seconds: dict[str, list[float]] = {norm: [] for norm in NORMS}
    for turn in range(options.turns + 1):
        for norm in NORMS:
            eps = budget(dataset, norm)
            attack = PGD(eps=eps, step_size=eps / 4, num_steps=20, norm=norm)
            started = time.process_time()
            attack(model, x, y, generator=torch.Generator().manual_seed(turn))
            if turn:  # the first warms up
                seconds[norm].append(time.process_time() - started)
    ratios = [two / inf for two, inf in zip(seconds["l2"], seconds["linf"], strict=True)]
    return {"seconds": seconds, "ratios": ratios, "ratio": statistics.median(ratios)}


if __name__ == "__main__":
    command(main)
