"""The speed of attacks and evaluation, compared with foolbox, torchattacks and AutoAttack's own code.

python benchmarks/evaluate.py                                                   # digits, trains a model first
python benchmarks/evaluate.py --dataset cifar10 --data-dir DIR --model MODEL --output evaluate.json

All contenders get the same model in evaluation mode, images, budget and step size. They take turns, in parts b to d on
each batch, in the others on all images; each turn starts with another contender. A speed-up is the other's time divided
by ours in the same turn, given as median, minimum and maximum over turns. Parts:

a  whole PGD curves: we read one trajectory per loss at all steps; with other libraries each point is a separate attack
b  the worst case over a suite, with and without dropping examples as they are broken
c  searches in bfloat16 with float32 verdicts, compared with float32 throughout
d  milliseconds per gradient step
e  PGD until a search repeats itself, against every step: passes of images through the network, and seconds
f  verifying suites against one another: accuracy, images that only one of two breaks, passes, and seconds

foolbox also computes gradients of the weights, which no attack needs; "foolbox frozen" is foolbox with these gradients
disabled by the user. torchattacks is not a dependency: it is included if it can be imported
(pip install --no-deps torchattacks).
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter
from support.common import EVAL_PIXELS, Images, Training, command, machine, say, write_report
from support.evaluate_peers import OURS, curves, gradient_steps
from support.evaluate_ways import cycles, dropping, reduced_precision, verifying
from support.peers import torchattacks
from support.timing import BenchSetup, Report
from torch import nn

from bat_core.checkpoint import load_model
from bat_core.config import FIGURE_1_STEPS, AttackConfig
from bat_core.data import Dataset, load_dataset
from bat_core.errors import InputError, check_choice
from sweeps.engine.evaluation.model_sources import find_models


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Which model, which images, how many repeats."""

    parts: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("a", "b", "c", "d", "e", "f")
    """What to measure: a (curves), b (dropping), c (bfloat16), d (steps), e (cycles), f (verifying suites)."""
    dataset: str = "digits"
    """Images: digits (embedded), cifar10, svhn."""
    data_dir: Path | None = None
    """Folder with the images."""
    model: str | None = None
    """A model, as `sweeps/evaluate.py` takes it. Default: train one and keep it in --cache."""
    pixels: float = EVAL_PIXELS
    """The budget, in pixels of the data set; a step is a quarter of it."""
    recipe: str = "R-MC-LA"
    """Recipe of the model that is trained, at 8 pixels."""
    n: int = 200
    """Number of test images."""
    batch_size: int = 200
    """Images per batch."""
    repeats: int = 3
    """Turns per batch, or on all images."""
    steps: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = FIGURE_1_STEPS
    """Steps of the curves in part a."""
    precisions: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = tuple(OURS)
    """Precisions of our searches in part a. bfloat16 is slow on processors that do not compute in it."""
    suites: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("quick", "paper+quick")
    """Suites of part b."""
    verifying: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("fast", "quick", "standard")
    """Suites of part f."""
    threads: int = 2
    """Number of torch's CPU threads."""
    device: str = "cpu"
    """cpu or cuda."""
    output: Path | None = None
    """JSON file for all measurements."""


def main(options: Options = Options()) -> dict[str, Any]:
    """Compare the speed of attacks and evaluation with other libraries. The top of the file describes the parts."""
    if unknown := set(options.parts) - set(PARTS):
        raise InputError(f"unknown --parts {sorted(unknown)[0]!r}: give one or more of {', '.join(PARTS)}")
    for precision in options.precisions:
        check_choice("--precisions", precision, tuple(OURS))
    if options.repeats < 1 or options.batch_size < 1:
        raise InputError("--repeats and --batch-size must be at least 1")
    torch.set_num_threads(options.threads)
    dataset = load_dataset(options.dataset, options.data_dir)
    model = _model(options, dataset)
    images = Images.of(dataset, n=options.n, batch_size=options.batch_size, pixels=options.pixels)
    bench = BenchSetup(model.to(options.device), images, options.repeats, options.device)
    _warm_up(bench)
    if not torchattacks():
        say("torchattacks is skipped: it cannot be imported")
    report: dict[str, Any] = {"machine": machine(options.device), "options": asdict(options), "parts": {}}
    for name in options.parts:
        say(f"part {name}")
        part = PARTS[name](bench, options)
        part.show()
        report["parts"][name] = part.describe()
        write_report(options.output, report)
    return report


def _model(options: Options, dataset: Dataset) -> nn.Module:
    if options.model is None:
        model, _ = load_model(options.trained(dataset, options.recipe))
        return model
    sources = find_models((options.model,), weights=None, downloads=options.cache)
    if len(sources) != 1:
        raise InputError(f"--model {options.model!r} names {len(sources)} models: name one")
    return sources[0].load().eval()


def _warm_up(bench: BenchSetup) -> None:
    """Run untimed calls first, because the first calls compile kernels."""
    attack = AttackConfig(**bench.budget, steps=(2,), losses=("ce",))
    for precision in ("float32", "bfloat16"):
        bench.evaluation(attack, precision)(bench.images.blocks[0])


PARTS: dict[str, Callable[[BenchSetup, Options], Report]] = {
    "a": lambda bench, o: curves(bench, steps=o.steps, precisions=o.precisions, batch_size=o.batch_size),
    "b": lambda bench, o: dropping(bench, o.suites),
    "c": lambda bench, _: reduced_precision(bench),
    "d": lambda bench, o: gradient_steps(bench, o.batch_size),
    "e": lambda bench, o: cycles(bench, steps=o.steps, batch_size=o.batch_size),
    "f": lambda bench, o: verifying(bench, o.verifying, batch_size=o.batch_size),
}

if __name__ == "__main__":
    command(main)
