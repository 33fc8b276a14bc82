"""Parts a and d of the evaluation benchmark: our attacks beside those of other libraries."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bat_core.attacks import APGD, pgd
from bat_core.config import AttackConfig
from bat_core.correctness import is_correct
from bat_core.data import Split
from support.common import Flags
from support.peers import apgd, foolbox_pgd, torchattacks, torchattacks_pgd
from support.timing import BenchSetup, Comparison, Report

TIMED_STEPS = 20  # attack steps in part d
OURS = {"float32": "ours", "bfloat16": "ours in bfloat16"}  # contenders of part a by the precision of the search


def curves(bench: BenchSetup, *, steps: Sequence[int], precisions: Sequence[str], batch_size: int) -> Report:
    """Part a: PGD at several numbers of steps, from one trajectory or with one attack per number.

    Each contender gets all images, in batches of `batch_size`: ours as `evaluate` divides them, the others in a loop.
    """
    losses = ("ce", "cw")
    each = partial(_each, bench, steps=steps, batch_size=batch_size)
    contenders: dict[str, Callable[[Split], Flags]] = {}
    for loss in losses:
        for precision in precisions:
            contenders[f"{OURS[precision]} {loss}"] = _our_curve(bench, loss, precision, steps, batch_size)
        contenders[f"foolbox {loss}"] = each(partial(foolbox_pgd, loss=loss))
        contenders[f"foolbox frozen {loss}"] = each(partial(foolbox_pgd, loss=loss, freeze=True))
    rivals = {"foolbox": losses, "foolbox frozen": losses}
    if torchattacks():
        contenders["torchattacks ce"] = each(_torchattacks_correct)
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
        for mine in (OURS[precision] for precision in precisions)
    ]
    accuracies = {name: one.mean(axis=0).tolist() for name, one in final.items()}
    title = (
        f"a: PGD read at {', '.join(map(str, steps))} steps, n = {len(bench.images)}:"
        f" {max(steps)} gradients a loss off one trajectory, {sum(steps)} one by one"
    )
    return Report(title, comparisons, measured.seconds, {"accuracies": accuracies})


def _our_curve(
    bench: BenchSetup, loss: str, precision: str, steps: Sequence[int], batch_size: int
) -> Callable[[Split], Flags]:
    attack = AttackConfig(**bench.budget, steps=tuple(steps), losses=(loss,))
    judged = bench.evaluation(attack, precision, batch_size=batch_size)
    return lambda block: judged(block).outcomes[loss].final


def _each(
    bench: BenchSetup, attack: Callable[..., Tensor], *, steps: Sequence[int], batch_size: int
) -> Callable[[Split], Flags]:
    """One attack per number of steps, on one batch after another: (N, len(steps))."""

    def one_batch(batch: Split) -> Tensor:
        x, y = bench.unit(batch)
        correct = [attack(bench.model, x, y, **bench.budget, num_steps=count) for count in steps]
        return torch.stack(correct, dim=1)

    def run(block: Split) -> Flags:
        batches = torch.arange(len(block)).split(batch_size)
        return torch.cat([one_batch(block.take(batch)) for batch in batches]).cpu().numpy()

    return run


def _torchattacks_correct(model: nn.Module, x: Tensor, y: Tensor, **settings: Any) -> Tensor:
    x_adv = torchattacks_pgd(model, x, y, **settings)
    with torch.no_grad():
        return is_correct(model(x_adv), y)


def _apart(curves: list[tuple[Flags, Flags]]) -> str:
    largest = max(float(np.abs(one.mean(axis=0) - other.mean(axis=0)).max()) for one, other in curves)
    return f"at most {100 * largest:.1f} points apart"


def gradient_steps(bench: BenchSetup, batch_size: int) -> Report:
    """Part d: a gradient step of PGD and of APGD, on one batch that the model classifies correctly."""
    model, batch = bench.model, bench.correct_batch(batch_size)
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
