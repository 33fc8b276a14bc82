"""Random noise in the ball: the baseline for every attack."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bat_core.attacks.base import ATTACKS, Attack, Iterate, LogitsFn, Problem
from bat_core.errors import InputError
from bat_core.rng import BatchRNG


@ATTACKS.register("noise")
@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """`num_steps` random points at the edge of the ball: in L-inf its corners, +-eps at every pixel."""

    takes_target: ClassVar[bool] = False

    num_steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_steps < 1:
            raise InputError(f"attack.num_steps={self.num_steps} must be at least 1")

    def iterates(
        self,
        logits_fn: LogitsFn,  # noqa: ARG002
        problem: Problem,
        rng: BatchRNG,
        active: Tensor | None,
    ) -> Iterator[Iterate]:
        for step in range(1, self.num_steps + 1):
            if (kept := problem.to_keep(active, step - 1)) is not None:
                if len(kept) == 0:
                    return
                problem, rng = problem.keep(kept.on_device), rng.take(kept.on_cpu)
            yield Iterate(step, problem.rows, problem.ball.extreme(rng.restart(step)))
