"""Gradient attacks, composed of a loss, a target, a start, a step rule and restarts."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bat_core.attacks.base import Iterate, LogitsFn, LossAttack, Problem
from bat_core.attacks.cycles import CycleFinder
from bat_core.errors import InputError
from bat_core.losses import AttackLoss, objective
from bat_core.rng import BatchRNG
from bat_core.threat import LpBall


class StepRule(Protocol):
    """Computes the next point of a search. It may keep state for each example."""

    def advance(self, ball: LpBall, x: Tensor, gradient: Tensor, values: Tensor) -> Tensor:
        """The next point in the ball, from x (M, ...), the objective's `values` (M,) there and its gradient."""
        ...

    def keep(self, kept: Tensor) -> None:
        """Drop the state of all examples but those at the positions `kept` (K,) int64."""
        ...


@dataclass(frozen=True, kw_only=True)
class GradientAttack(LossAttack):
    """`num_steps` gradient ascent steps on `loss`, with the step rule of a subclass.

    `loss` is "ce", "cw", "dlr", "pm" or "scaled-ce" (`bat_core.losses`). With `random_start` the search starts
    uniformly in the ball, else at x. `eot` is the number of passes over which gradients are averaged; only randomised
    models need more than one (expectation over transformation, Athalye et al. 2018, arXiv:1802.00420).
    """

    num_steps: int
    loss: str = "ce"
    random_start: bool = True
    eot: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        objective(self.loss)
        for name in ("num_steps", "eot"):
            if getattr(self, name) < 1:
                raise InputError(f"attack.{name}={getattr(self, name)} must be at least 1")

    @abstractmethod
    def rule(self, ball: LpBall) -> StepRule:
        """The step rule for one search in `ball`."""

    def iterates(
        self, logits_fn: LogitsFn, problem: Problem, rng: BatchRNG, active: Tensor | None
    ) -> Iterator[Iterate]:
        start = problem.ball.random_start(rng) if self.random_start else problem.ball.x
        yield from self.iterates_from(start, logits_fn, problem, active)

    def iterates_from(
        self, x: Tensor, logits_fn: LogitsFn, problem: Problem, active: Tensor | None
    ) -> Iterator[Iterate]:
        """The points of a search that starts at x (M, C, H, W)."""
        rule = self.rule(problem.ball)
        cycles = CycleFinder(x, self.num_steps) if self._looks_for_cycles(problem) else None
        count = len(x)
        for step in range(self.num_steps):
            logits, values, gradient = self._gradient(logits_fn, x, problem, count)
            cycle = cycles.observe(step, x) if cycles else None
            yield Iterate(step, problem.rows, x, logits if self.eot == 1 else None, cycle)
            last = step + 1 == self.num_steps
            if (kept := problem.to_keep(active, step, None if last else cycle)) is not None:
                if len(kept) == 0:
                    return
                problem = problem.keep(kept.on_device)
                x, gradient, values = x[kept.on_device], gradient[kept.on_device], values[kept.on_device]
                rule.keep(kept.on_device)
                if cycles:
                    cycles.keep(kept.on_device)
            x = rule.advance(problem.ball, x, gradient, values)
        yield Iterate(self.num_steps, problem.rows, x)

    def _looks_for_cycles(self, problem: Problem) -> bool:
        return problem.passes.cycles and self.may_repeat and self.eot == 1

    def _gradient(
        self, logits_fn: LogitsFn, x: Tensor, problem: Problem, began_with: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (M, K), objective (M,) and its gradient with respect to x, computed in one or several passes."""
        objective_fn, y, target = objective(self.loss), problem.y, problem.target

        def run(part: Tensor | slice) -> tuple[Tensor, ...]:
            towards = None if target is None else target[part]
            return _input_gradient(logits_fn, objective_fn, x[part], y[part], towards, self.eot)

        logits, values, gradient = problem.passes.gather(run, len(x), x.device, began_with=began_with)
        return logits, values, gradient


def _input_gradient(
    logits_fn: LogitsFn, objective_fn: AttackLoss, x: Tensor, y: Tensor, target: Tensor | None, eot: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (M, K), objective (M,) and its gradient with respect to x, averaged over `eot` passes."""
    x = x.detach().requires_grad_()
    passes = []
    for _ in range(eot):
        with torch.enable_grad():
            logits = logits_fn(x)
            values = objective_fn(logits, y, target)
            # If the model detaches its gradient, the attack does not move; `masking.checks` reports that.
            gradient = input_gradient(values, x)
        passes.append((logits.detach(), values.detach(), gradient))
    if eot == 1:
        return passes[0]
    logits, values, gradient = (torch.stack(parts).mean(0) for parts in zip(*passes, strict=True))
    return logits, values, gradient


def input_gradient(values: Tensor, x: Tensor, *, retain_graph: bool = False) -> Tensor:
    """The gradient of the sum of `values` with respect to x; zero if the model detaches it."""
    if not values.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(values.sum(), x, allow_unused=True, retain_graph=retain_graph)
    return torch.zeros_like(x) if gradient is None else gradient


@dataclass(frozen=True)
class FixedSteps:
    """Steps of a fixed length in the ball's norm (eq. 4): signed in L-inf, along the gradient in L2.

    Pixels whose gradient is NaN do not move.
    """

    size: float

    def advance(self, ball: LpBall, x: Tensor, gradient: Tensor, values: Tensor) -> Tensor:  # noqa: ARG002
        return ball.step(x, gradient, self.size)

    def keep(self, kept: Tensor) -> None:
        """There is no state to drop."""
