"""Transfer attack: crafted on other models, evaluated on this one."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bat_core.attacks.base import ATTACKS, Attack, Iterate, LogitsFn, Problem
from bat_core.correctness import is_correct
from bat_core.errors import InputError
from bat_core.forward import evaluation_mode
from bat_core.rng import BatchRNG


@ATTACKS.register("transfer")
@dataclass(frozen=True, kw_only=True)
class Transfer(Attack):
    """The images of attack `crafted_by` on each of `sources`, applied to another model (Table 7).

    Sources are modules that take the same images; crafting runs them in evaluation mode. Crafting does not query
    the attacked model.
    """

    takes_target: ClassVar[bool] = False

    sources: tuple[nn.Module, ...]
    crafted_by: Attack

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise InputError("attack.sources is empty: a transfer attack needs at least one source model")
        if self.crafted_by.eps != self.eps:
            raise InputError(f"attack.crafted_by.eps={self.crafted_by.eps:g} must equal attack.eps={self.eps:g}")
        if self.crafted_by.norm != self.norm:
            raise InputError(f"attack.crafted_by.norm={self.crafted_by.norm} must equal attack.norm={self.norm}")

    @property
    def min_classes(self) -> int:
        return self.crafted_by.min_classes

    @property
    def classes_rule(self) -> str:
        return self.crafted_by.classes_rule

    def search(self, logits_fn: LogitsFn, problem: Problem, rng: BatchRNG) -> Tensor:
        """For each example, the image of the first source that the attacked model misclassifies, else the last one."""
        first, *others = [iterate.x for iterate in self.iterates(logits_fn, problem, rng, None)]
        for x_adv in others:
            with torch.no_grad():
                correct = is_correct(logits_fn(first), problem.y)
            first = torch.where(correct[:, None, None, None], x_adv, first)
        return first

    def iterates(
        self,
        logits_fn: LogitsFn,  # noqa: ARG002 (a black box: crafting does not query it)
        problem: Problem,
        rng: BatchRNG,
        active: Tensor | None,
    ) -> Iterator[Iterate]:
        for number, source in enumerate(self.sources):
            if (kept := problem.to_keep(active)) is not None:
                if len(kept) == 0:
                    return
                problem, rng = problem.keep(kept.on_device), rng.take(kept.on_cpu)
            with evaluation_mode(source):
                x_adv = self.crafted_by(source, problem.ball.x, problem.y, generator=rng)
            yield Iterate(number + 1, problem.rows, x_adv)
