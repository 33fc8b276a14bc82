"""How fast attacks and evaluation are, side by side with foolbox, torchattacks and AutoAttack's own code.

python benchmarks/evaluate.py                                                   # digits, trains a model first
python benchmarks/evaluate.py --dataset cifar10 --data-dir DIR --model MODEL_FOLDER --output evaluate.json

Every contender gets the same model in evaluation mode, the same images, budget and step size. They take
turns on each batch of images, and each turn begins with another one. A speed-up is the other's time over
ours of the same turn: the median over turns, and the least and the most. Parts:

a  whole PGD curves, which we read off one trajectory a loss and a user of a library runs one by one
b  the worst case over a suite, with examples dropped as they fall and without
c  searches in bfloat16 with float32 verdicts, against float32 throughout
d  milliseconds a gradient step

torchattacks is no dependency: it takes part where it can be imported (pip install --no-deps torchattacks).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
from common import Flags, Images, Training, command, discordant, machine, met, points, say, write_report
from cyclopts import Parameter
from peers import apgd, foolbox_pgd, torchattacks, torchattacks_pgd
from timing import Comparison, Measured, Report, interleaved
from torch import Tensor, nn

from bat_core.attacks import APGD, pgd
from bat_core.checkpoint import load_model
from bat_core.config import FIGURE_1_STEPS, AttackConfig
from bat_core.data import Split, load_dataset, to_unit
from bat_core.errors import InputError
from bat_core.evaluate import classified, evaluate
from bat_core.suites import Suite, get_suite
from bat_core.verdicts import Verdicts

STEPS_TIMED = 20  # of part d
BF16_STEPS = 50  # of part c


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """Which model, which images, how often."""

    parts: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("a", "b", "c", "d")
    """What to measure: a (curves), b (dropping), c (bfloat16), d (steps)."""
    dataset: str = "digits"
    """Images: digits (embedded), cifar10, svhn."""
    data_dir: Path | None = None
    """Folder with the images."""
    model: Path | None = None
    """Folder of a trained model. Default: one is trained and kept in --cache."""
    n: int = 200
    """Test images."""
    batch_size: int = 200
    """Images at once."""
    repeats: int = 3
    """Turns on each batch of images."""
    steps: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = FIGURE_1_STEPS
    """Where the curves of part a are read."""
    threads: int = 2
    """Threads that torch may use."""
    device: str = "cpu"
    """cpu or cuda."""
    output: Path | None = None
    """A JSON file for everything that was measured."""


@dataclass(frozen=True)
class Bench:
    """The model under attack, its images, and how it is measured."""

    model: nn.Module
    images: Images
    options: Options

    @property
    def budget(self) -> dict[str, float]:
        return {"eps": self.images.eps, "step_size": self.images.step_size}

    def unit(self, block: Split) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and labels, on the device."""
        return to_unit(block.images.to(self.options.device)), block.labels.to(self.options.device)

    def judging(self, attack: AttackConfig | Suite, precision: str = "float32") -> Callable[[Split], Verdicts]:
        """What evaluates one block as our users do."""

        def run(block: Split) -> Verdicts:
            return evaluate(
                self.model, block.images, block.labels,
                rows=block.rows, attack=attack, precision=precision, batch_size=len(block),
            )  # fmt: skip

        return run

    def run(self, contenders: Mapping[str, Callable[[Split], Any]], blocks: tuple[Split, ...] = ()) -> Measured[Any]:
        """Contenders take turns on these images."""
        options = self.options
        return interleaved(contenders, blocks or self.images.blocks, repeats=options.repeats, device=options.device)

    def correct_batch(self) -> Split:
        """One batch that the model classifies correctly: some attacks leave out what it does not."""
        size = self.images.batch_size
        whole = self.images.whole()
        with torch.no_grad():
            right = torch.cat([classified(self.model(x), y) for x, y in map(self.unit, self.images.blocks)])
        return whole.take(right.cpu().nonzero().squeeze(1)[:size])


def main(options: Options = Options()) -> dict[str, Any]:
    """Measure attacks and evaluation side by side with other libraries; the top of the file describes the parts."""
    if unknown := set(options.parts) - set(PARTS):
        raise InputError(f"--parts {sorted(unknown)[0]!r} is unknown: give some of {', '.join(PARTS)}")
    if options.repeats < 1 or options.batch_size < 1:
        raise InputError("--repeats and --batch-size must be at least 1")
    torch.set_num_threads(options.threads)
    dataset = load_dataset(options.dataset, options.data_dir)
    model = load_model(options.model)[0] if options.model else options.trained(dataset)
    images = Images.of(dataset, n=options.n, batch_size=options.batch_size)
    bench = Bench(model.to(options.device), images, options)
    _warm_up(bench)
    if not torchattacks():
        say("torchattacks is left out: it cannot be imported")
    report: dict[str, Any] = {"machine": machine(options.device), "options": asdict(options), "parts": {}}
    for name in options.parts:
        say(f"part {name}")
        part = PARTS[name](bench)
        part.show()
        report["parts"][name] = part.describe()
        write_report(options.output, report)
    return report


def _warm_up(bench: Bench) -> None:
    """The first calls build kernels, and are not timed."""
    attack = AttackConfig(**bench.budget, steps=(2,), losses=("ce",))
    for precision in ("float32", "bfloat16"):
        bench.judging(attack, precision)(bench.images.blocks[0])


# a: whole curves


def curves(bench: Bench) -> Report:
    """PGD read at several numbers of steps: one trajectory against an attack for each number."""
    contenders: dict[str, Callable[[Split], Flags]] = {}
    for loss in ("ce", "cw"):
        contenders[f"ours {loss}"] = _our_curve(bench, loss, "float32")
        contenders[f"ours bf16 {loss}"] = _our_curve(bench, loss, "bfloat16")
        contenders[f"foolbox {loss}"] = _each(bench, partial(foolbox_pgd, loss=loss))
        contenders[f"foolbox frozen {loss}"] = _each(bench, partial(foolbox_pgd, loss=loss, freeze=True))
    if torchattacks():
        contenders["torchattacks ce"] = _each(bench, _torchattacks_correct)
    measured = bench.run(contenders)
    finals = {name: np.concatenate(parts) for name, parts in measured.results.items()}
    rivals = [("foolbox", ("ce", "cw")), ("foolbox frozen", ("ce", "cw"))]
    rivals += [("torchattacks", ("ce",))] if torchattacks() else []
    comparisons = [
        Comparison(
            what=f"{' + '.join(losses).upper()}{'' if len(losses) > 1 else ' alone'}, {precision}, vs {rival}",
            ours=measured.total(*(f"{mine} {loss}" for loss in losses)),
            other=measured.total(*(f"{rival} {loss}" for loss in losses)),
            target=5,
            accuracy=_apart([(finals[f"{mine} {loss}"], finals[f"{rival} {loss}"]) for loss in losses]),
        )
        for rival, losses in rivals
        for mine, precision in (("ours", "float32"), ("ours bf16", "bfloat16"))
    ]
    accuracies = {name: final.mean(axis=0).tolist() for name, final in finals.items()}
    title = f"a: PGD read at {', '.join(map(str, bench.options.steps))} steps, n = {len(bench.images)}"
    return Report(title, comparisons, measured.seconds, {"accuracies": accuracies})


def _our_curve(bench: Bench, loss: str, precision: str) -> Callable[[Split], Flags]:
    attack = AttackConfig(**bench.budget, steps=bench.options.steps, losses=(loss,))
    judged = bench.judging(attack, precision)
    return lambda block: judged(block).outcomes[loss].final


def _each(bench: Bench, attack: Callable[..., Tensor]) -> Callable[[Split], Flags]:
    """One attack for each number of steps."""

    def run(block: Split) -> Flags:
        x, y = bench.unit(block)
        ran = [attack(bench.model, x, y, **bench.budget, num_steps=count) for count in bench.options.steps]
        return torch.stack(ran, dim=1).cpu().numpy()

    return run


def _torchattacks_correct(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> Tensor:
    x_adv = torchattacks_pgd(model, x, y, **settings)
    with torch.no_grad():
        return classified(model(x_adv), y)


def _apart(curves: list[tuple[Flags, Flags]]) -> str:
    largest = max(float(np.abs(one.mean(axis=0) - other.mean(axis=0)).max()) for one, other in curves)
    return f"curves at most {100 * largest:.1f} points apart"


# b: dropping examples as they fall


def dropping(bench: Bench) -> Report:
    """The worst case over a suite: attacks that let an example go when it falls, against attacks that do not."""
    comparisons, seconds, details = [], {}, {}
    for name in ("quick", "paper+quick"):
        suite = get_suite(name, **bench.budget)
        keeping = replace(suite, entries=tuple(replace(entry, drop=False) for entry in suite.entries))
        measured = bench.run({f"{name}, dropping": bench.judging(suite), f"{name}, keeping": bench.judging(keeping)})
        (dropped, ours), (kept, other) = measured.seconds.items()
        one, another = (Verdicts.concat(measured.results[which]).robust_correct for which in (dropped, kept))
        differ = int((one != another).sum())
        says = f"{one.mean():.2%} robust; {differ} of {len(one)} verdicts differ"
        comparisons.append(Comparison(what=f"{dropped} vs keeping", ours=ours, other=other, target=2, accuracy=says))
        seconds |= measured.seconds
        details[name] = {"robust_acc": one.mean(), "robust_acc_keeping": another.mean(), "differ": differ}
    return Report(f"b: worst case, n = {len(bench.images)}", comparisons, seconds, {"verdicts": details})


# c: searches in bfloat16


def reduced_precision(bench: Bench) -> Report:
    """Searches in bfloat16 and in float32, both judged in float32."""
    comparisons, seconds, details = [], {}, {}
    attacks: dict[str, AttackConfig | Suite] = {
        f"PGD-{BF16_STEPS} {loss.upper()}": AttackConfig(**bench.budget, steps=(BF16_STEPS,), losses=(loss,))
        for loss in ("ce", "cw")
    }
    for name, attack in {**attacks, "quick": get_suite("quick", **bench.budget)}.items():
        contenders = {f"{name} {kind}": bench.judging(attack, kind) for kind in ("bfloat16", "float32")}
        measured = bench.run(contenders)
        half, single = (Verdicts.concat(measured.results[contender]) for contender in contenders)
        for reading in ("final", "worst so far") if name != "quick" else ("worst case",):
            one, other = _reading(half, reading), _reading(single, reading)
            only_half, only_single, p = discordant(one, other)
            difference = points(one, other)
            details[f"{name}, {reading}"] = {
                "bfloat16": one.mean(), "float32": other.mean(), "points": difference, "sign_test_p": p,
                "broken_in_float32_only": only_half, "broken_in_bfloat16_only": only_single,
            }  # fmt: skip
            says = (
                f"{one.mean():.2%} vs {other.mean():.2%}: {difference:+.2f} points,"
                f" within 0.2: {met(abs(difference) <= 0.2)}; broken only in bf16 {only_single},"
                f" only in fp32 {only_half}, p = {p:.2g}"
            )
            ours, theirs = measured.seconds.values()
            comparisons.append(
                Comparison(what=f"{name}, {reading}", ours=ours, other=theirs, target=1.5, accuracy=says)
            )
        seconds |= measured.seconds
    title = f"c: searched in bfloat16 (ours) vs float32 (other), verdicts in float32, n = {len(bench.images)}"
    return Report(title, comparisons, seconds, {"verdicts": details})


def _reading(verdicts: Verdicts, reading: str) -> Flags:
    (first, *_) = verdicts.outcomes.values()
    return first.final[:, -1] if reading == "final" else verdicts.robust_correct


# d: one step


def steps(bench: Bench) -> Report:
    """Seconds of PGD's and APGD's gradient steps on one batch that the model classifies correctly."""
    model, count, eps = bench.model, STEPS_TIMED, bench.images.eps
    batch, settings = bench.correct_batch(), {**bench.budget, "num_steps": count}
    generator = torch.Generator(bench.options.device).manual_seed(0)
    attacks: dict[str, tuple[int, Callable[[Tensor, Tensor], Tensor]]] = {
        "ours PGD": (count, partial(pgd, model, **settings, generator=generator)),
        "foolbox PGD": (count, partial(foolbox_pgd, model, **settings)),
        "foolbox PGD, weights frozen": (
            count,
            partial(foolbox_pgd, model, **settings, freeze=True),
        ),
        "pyautoattack APGD-CE": (count + 1, partial(apgd, model, eps=eps, num_steps=count)),
        "ours APGD-CE": (count, partial(APGD(eps=eps, num_steps=count), model, generator=generator)),
    }
    if torchattacks():
        attacks["torchattacks PGD"] = (count, partial(torchattacks_pgd, model, **settings))
    contenders = {name: _on(bench, attack) for name, (_, attack) in attacks.items()}
    measured = bench.run(contenders, (batch,))
    per_step = {name: [t / attacks[name][0] for t in times] for name, times in measured.seconds.items()}
    pairs = [("ours PGD", name, 1.0) for name in attacks if not name.startswith("ours")]
    pairs.append(("ours APGD-CE", "pyautoattack APGD-CE", None))
    comparisons = [
        Comparison(
            what=f"{mine} vs {rival}",
            ours=per_step[mine],
            other=per_step[rival],
            target=target,
            accuracy=f"{1000 * median(per_step[mine]):.1f} vs {1000 * median(per_step[rival]):.1f} ms a gradient step",
        )
        for mine, rival, target in pairs
    ]
    title = f"d: seconds a gradient step, batch of {len(batch)}, {count} steps, float32"
    return Report(title, comparisons, per_step, {"batch": len(batch)})


def _on(bench: Bench, attack: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Split], Tensor]:
    return lambda block: attack(*bench.unit(block))


PARTS: dict[str, Callable[[Bench], Report]] = {"a": curves, "b": dropping, "c": reduced_precision, "d": steps}

if __name__ == "__main__":
    command(main)
