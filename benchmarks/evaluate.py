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
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter
from support.common import (
    EVAL_PIXELS,
    Flags,
    Images,
    Training,
    command,
    discordant,
    machine,
    points,
    say,
    write_report,
    yes_or_no,
)
from support.peers import apgd, foolbox_pgd, torchattacks, torchattacks_pgd
from support.timing import BenchSetup, Comparison, Report
from torch import Tensor, nn

from bat_core.attacks import APGD, pgd
from bat_core.checkpoint import load_model
from bat_core.config import FIGURE_1_STEPS, AttackConfig
from bat_core.correctness import is_correct
from bat_core.data import Dataset, Split, load_dataset
from bat_core.errors import InputError, check_choice
from bat_core.suites import Suite, get_suite
from bat_core.verdicts import Verdicts
from sweeps.engine.evaluation.model_sources import find_models

BF16_STEPS = 50  # attack steps in part c
BF16_POINTS = 0.2  # tolerated difference of accuracies in part c, in percentage points
TIMED_STEPS = 20  # attack steps in part d
OURS = {"float32": "ours", "bfloat16": "ours in bfloat16"}  # contenders of part a by the precision of the search


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


def curves(bench: BenchSetup, options: Options) -> Report:
    """Part a: PGD at several numbers of steps, from one trajectory or with one attack per number.

    Each contender gets all images, in batches of --batch-size: ours as `evaluate` divides them, the others in a loop.
    """
    losses, counts = ("ce", "cw"), options.steps
    contenders: dict[str, Callable[[Split], Flags]] = {}
    for loss in losses:
        for precision in options.precisions:
            contenders[f"{OURS[precision]} {loss}"] = _our_curve(bench, loss, options, precision)
        contenders[f"foolbox {loss}"] = _each(bench, partial(foolbox_pgd, loss=loss), options)
        contenders[f"foolbox frozen {loss}"] = _each(bench, partial(foolbox_pgd, loss=loss, freeze=True), options)
    rivals = {"foolbox": losses, "foolbox frozen": losses}
    if torchattacks():
        contenders["torchattacks ce"] = _each(bench, _torchattacks_correct, options)
        rivals["torchattacks"] = ("ce",)
    measured = bench.run(contenders, (bench.images.whole(),))
    final = {name: found for name, (found,) in measured.results.items()}
    comparisons = [
        Comparison(
            what=f"{'CE + CW' if len(shared) > 1 else 'CE alone'}, {mine} vs {rival}",
            ours=measured.total(*(f"{mine} {loss}" for loss in shared)),
            other=measured.total(*(f"{rival} {loss}" for loss in shared)),
            target=10,
            accuracy=_apart([(final[f"{mine} {loss}"], final[f"{rival} {loss}"]) for loss in shared]),
        )
        for rival, shared in rivals.items()
        for mine in (OURS[precision] for precision in options.precisions)
    ]
    accuracies = {name: one.mean(axis=0).tolist() for name, one in final.items()}
    title = (
        f"a: PGD read at {', '.join(map(str, counts))} steps, n = {len(bench.images)}:"
        f" {max(counts)} gradients a loss off one trajectory, {sum(counts)} one by one"
    )
    return Report(title, comparisons, measured.seconds, {"accuracies": accuracies})


def _our_curve(bench: BenchSetup, loss: str, options: Options, precision: str) -> Callable[[Split], Flags]:
    attack = AttackConfig(**bench.budget, steps=options.steps, losses=(loss,))
    judged = bench.evaluation(attack, precision, batch_size=options.batch_size)
    return lambda block: judged(block).outcomes[loss].final


def _each(bench: BenchSetup, attack: Callable[..., Tensor], options: Options) -> Callable[[Split], Flags]:
    """One attack per number of steps, on one batch after another: (N, len(--steps))."""

    def one_batch(batch: Split) -> Tensor:
        x, y = bench.unit(batch)
        correct = [attack(bench.model, x, y, **bench.budget, num_steps=count) for count in options.steps]
        return torch.stack(correct, dim=1)

    def run(block: Split) -> Flags:
        batches = torch.arange(len(block)).split(options.batch_size)
        return torch.cat([one_batch(block.take(batch)) for batch in batches]).cpu().numpy()

    return run


def _torchattacks_correct(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> Tensor:
    x_adv = torchattacks_pgd(model, x, y, **settings)
    with torch.no_grad():
        return is_correct(model(x_adv), y)


def _apart(curves: list[tuple[Flags, Flags]]) -> str:
    largest = max(float(np.abs(one.mean(axis=0) - other.mean(axis=0)).max()) for one, other in curves)
    return f"at most {100 * largest:.1f} points apart"


def dropping(bench: BenchSetup, options: Options) -> Report:
    """Part b: the worst case over a suite, with and without dropping broken examples."""
    comparisons, seconds, details = [], {}, {}
    for name in options.suites:
        suite = get_suite(name, **bench.budget)
        keeping = replace(suite, entries=tuple(replace(entry, skip_broken=False) for entry in suite.entries))
        measured = bench.run(
            {f"{name}, dropping": bench.evaluation(suite), f"{name}, keeping": bench.evaluation(keeping)}
        )
        (_, ours), (_, other) = measured.seconds.items()
        one, another = (Verdicts.concat(parts).robust_correct for parts in measured.results.values())
        differ = int((one != another).sum())
        says = f"{one.mean():.2%} robust; {differ} of {len(one)} verdicts differ (identical: {yes_or_no(not differ)})"
        comparisons.append(
            Comparison(what=f"{name}, dropping vs keeping", ours=ours, other=other, target=2, accuracy=says)
        )
        seconds |= measured.seconds
        details[name] = {"robust_acc": one.mean(), "robust_acc_keeping": another.mean(), "differ": differ}
    return Report(f"b: worst case, n = {len(bench.images)}", comparisons, seconds, {"verdicts": details})


def reduced_precision(bench: BenchSetup, options: Options) -> Report:  # noqa: ARG001
    """Part c: searches in bfloat16 and in float32, both with float32 verdicts."""
    attacks: dict[str, AttackConfig | Suite] = {
        f"PGD-{BF16_STEPS} {loss.upper()}": AttackConfig(**bench.budget, steps=(BF16_STEPS,), losses=(loss,))
        for loss in ("ce", "cw")
    }
    attacks["quick"] = get_suite("quick", **bench.budget)
    comparisons, seconds, details = [], {}, {}
    for name, attack in attacks.items():
        measured = bench.run({f"{name} {kind}": bench.evaluation(attack, kind) for kind in ("bfloat16", "float32")})
        half, single = (Verdicts.concat(parts) for parts in measured.results.values())
        for reading in ("worst",) if name == "quick" else ("final", "worst"):
            what = f"{name}, {reading}"
            details[what] = _paired(_reading(half, reading), _reading(single, reading))
            ours, other = measured.seconds.values()
            comparisons.append(
                Comparison(what=what, ours=ours, other=other, target=1.5, accuracy=_in_words(details[what]))
            )
        seconds |= measured.seconds
    title = f"c: searched in bfloat16 (ours) and float32 (other), judged in float32, n = {len(bench.images)}"
    return Report(title, comparisons, seconds, {"verdicts": details})


def _reading(verdicts: Verdicts, reading: str) -> Flags:
    (first, *_) = verdicts.outcomes.values()
    return first.final[:, -1] if reading == "final" else verdicts.robust_correct


def _paired(half: Flags, single: Flags) -> dict[str, float]:
    only_single_broke, only_half_broke, p = discordant(half, single)
    return {
        "bfloat16": float(half.mean()),
        "float32": float(single.mean()),
        "points": points(half, single),
        "only_bfloat16_broke": only_half_broke,
        "only_float32_broke": only_single_broke,
        "sign_test_p": p,
    }


def _in_words(pair: dict[str, float]) -> str:
    return (
        f"{pair['bfloat16']:.2%} and {pair['float32']:.2%}: {pair['points']:+.2f} points"
        f" (within {BF16_POINTS}: {yes_or_no(abs(pair['points']) <= BF16_POINTS)});"
        f" only one broke {pair['only_bfloat16_broke']} and {pair['only_float32_broke']}, p = {pair['sign_test_p']:.2g}"
    )


def steps(bench: BenchSetup, options: Options) -> Report:
    """Part d: a gradient step of PGD and of APGD, on one batch that the model classifies correctly."""
    model, batch = bench.model, bench.correct_batch(options.batch_size)
    settings = {**bench.budget, "num_steps": TIMED_STEPS}
    generator = torch.Generator(bench.device).manual_seed(0)
    our_apgd = APGD(eps=bench.images.eps, num_steps=TIMED_STEPS)
    attacks: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "ours PGD": partial(pgd, model, **settings, generator=generator),
        "ours APGD-CE": partial(our_apgd, model, generator=generator),
        "foolbox PGD": partial(foolbox_pgd, model, **settings),
        "foolbox PGD frozen": partial(foolbox_pgd, model, **settings, freeze=True),
        "pyautoattack APGD-CE": partial(apgd, model, eps=bench.images.eps, num_steps=TIMED_STEPS),
    }
    if torchattacks():
        attacks["torchattacks PGD"] = partial(torchattacks_pgd, model, **settings)
    measured = bench.run({name: _on(bench, attack) for name, attack in attacks.items()}, (batch,))
    gradients = {name: TIMED_STEPS + (name == "pyautoattack APGD-CE") for name in attacks}
    per_step = {name: [taken / gradients[name] for taken in times] for name, times in measured.seconds.items()}
    rivals = [("ours PGD", name, 1.0) for name in attacks if not name.startswith("ours")]
    comparisons = [
        Comparison(
            what=f"{mine} vs {rival}",
            ours=per_step[mine],
            other=per_step[rival],
            target=target,
            accuracy=f"{1000 * median(per_step[mine]):.1f} and {1000 * median(per_step[rival]):.1f} ms",
        )
        for mine, rival, target in [*rivals, ("ours APGD-CE", "pyautoattack APGD-CE", None)]
    ]
    title = f"d: seconds a gradient step, batch of {len(batch)}, {TIMED_STEPS} steps, float32"
    return Report(title, comparisons, per_step, {"batch": len(batch)})


def _on(bench: BenchSetup, attack: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Split], Tensor]:
    return lambda block: attack(*bench.unit(block))


def cycles(bench: BenchSetup, options: Options) -> Report:
    """Part e: both losses to the last of `--steps`, with searches that end in their cycle and with every step."""
    attack = AttackConfig(**bench.budget, steps=options.steps)
    passed: dict[str, int] = {}
    contenders = {
        name: _counted(bench, passed, name, bench.evaluation(attack, cycles=ends, batch_size=options.batch_size))
        for name, ends in (("cycles", True), ("every step", False))
    }
    whole = bench.images.whole()
    measured = bench.run(contenders, (whole,))
    one, other = (parts[0] for parts in measured.results.values())
    differ = sum(
        int(
            (outcome.final != other.outcomes[name].final).sum()
            + (outcome.broken_at != other.outcomes[name].broken_at).sum()
        )
        for name, outcome in one.outcomes.items()
    )
    fewer = passed["every step"] / passed["cycles"]
    ours, theirs = measured.seconds.values()
    comparison = Comparison(
        what=f"CE + CW to {options.steps[-1]} steps, ends in a cycle vs every step",
        ours=ours,
        other=theirs,
        target=3,
        accuracy=f"{fewer:.2f}x fewer passes (at least 5: {yes_or_no(fewer >= 5)}); {differ} verdicts differ",
    )
    return Report(f"e: cycles, n = {len(whole)}", [comparison], measured.seconds, {"passes": passed, "differ": differ})


def verifying(bench: BenchSetup, options: Options) -> Report:
    """Part f: suites that verify. The first is compared with each of the others."""
    passed: dict[str, int] = {}
    contenders = {
        name: _counted(
            bench, passed, name, bench.evaluation(get_suite(name, **bench.budget), batch_size=options.batch_size)
        )
        for name in options.verifying
    }
    whole = bench.images.whole()
    measured = bench.run(contenders, (whole,))
    robust = {name: parts[0].robust_correct for name, parts in measured.results.items()}
    (first, mine), *others = robust.items()
    comparisons, details = [], {}
    for name, theirs in others:
        missed, gained, _ = discordant(mine, theirs)
        details[name] = {"missed": missed, "gained": gained, "points": points(mine, theirs)}
        says = (
            f"{mine.mean():.2%} and {theirs.mean():.2%}; broken by {name} alone {missed}, by {first} alone {gained};"
            f" {passed[first] / len(whole):.0f} and {passed[name] / len(whole):.0f} passes an image"
        )
        ours, other = measured.seconds[first], measured.seconds[name]
        comparisons.append(Comparison(what=f"{first} vs {name}", ours=ours, other=other, target=2, accuracy=says))
    accuracies = {name: float(flags.mean()) for name, flags in robust.items()}
    found = {"passes": passed, "robust_acc": accuracies, "compared": details, "n": len(whole)}
    return Report(f"f: verifying suites, n = {len(whole)}", comparisons, measured.seconds, found)


def _counted(
    bench: BenchSetup, passed: dict[str, int], name: str, run: Callable[[Split], Verdicts]
) -> Callable[[Split], Verdicts]:
    """`run`, with the number of images that go through the network put into `passed`."""

    def count(block: Split) -> Verdicts:
        passed[name] = 0
        hook = bench.model.register_forward_pre_hook(
            lambda _, inputs: passed.update({name: passed[name] + len(inputs[0])})
        )
        try:
            return run(block)
        finally:
            hook.remove()

    return count


PARTS = {"a": curves, "b": dropping, "c": reduced_precision, "d": steps, "e": cycles, "f": verifying}

if __name__ == "__main__":
    command(main)
