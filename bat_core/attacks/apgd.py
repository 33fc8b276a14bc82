"""Auto-PGD: projected gradient ascent with adaptive step sizes."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bat_core.attacks.base import ATTACKS, LogitsFn, Problem
from bat_core.attacks.gradient import GradientAttack, StepRule
from bat_core.correctness import is_correct
from bat_core.rng import BatchRNG
from bat_core.threat import LpBall

FIRST_PERIOD, PERIOD_DECREMENT, MIN_PERIOD = 0.22, 0.03, 0.06  # periods between checkpoints, as shares of num_steps
MIN_RISING = 0.75  # the search has stalled if the objective rose in less than this share of a period's steps
MOMENTUM = 0.75  # weight of the new step relative to the last one


@ATTACKS.register("apgd")
@dataclass(frozen=True, kw_only=True)
class APGD(GradientAttack):
    """Auto-PGD, whose step size adapts itself: APGD-CE with loss "ce", and APGD-T with loss "dlr" and target "every".

    The initial step size is twice the budget. At checkpoints, whose distance shrinks, an example whose objective has
    stalled returns to its best point and halves its step size.

    Source: Croce and Hein 2020, arXiv:2003.01690, algorithm 1.
    """

    num_steps: int = 100

    def rule(self, ball: LpBall) -> StepRule:
        return _AutoSteps(ball, self.num_steps)

    def search(self, logits_fn: LogitsFn, problem: Problem, rng: BatchRNG) -> Tensor:
        """The first misclassified point of each example, or its last point if there was none."""
        found = torch.zeros_like(problem.y, dtype=torch.bool)
        x_adv = problem.ball.x
        for iterate in self.iterates(logits_fn, problem, rng, None):
            x_adv = torch.where(found[:, None, None, None], x_adv, iterate.x)
            if iterate.logits is not None:
                found |= ~is_correct(iterate.logits, problem.y)
        return x_adv


class _AutoSteps:
    """Per-example step sizes, best points and progress since the last checkpoint."""

    def __init__(self, ball: LpBall, num_steps: int) -> None:
        count = len(ball.x)
        self.checkpoints = checkpoints(num_steps)
        self.step = 0
        self.period_start = 0
        self.size = torch.full((count, 1, 1, 1), 2 * ball.eps, dtype=ball.x.dtype, device=ball.x.device)
        self.best = torch.full((count,), -math.inf, device=ball.x.device)
        self.best_before = self.best.clone()  # the best value at the last checkpoint
        self.halved_before = torch.ones(count, dtype=torch.bool, device=ball.x.device)
        self.rises = torch.zeros(count, device=ball.x.device)
        self.last_value = self.best.clone()
        self.best_x = self.best_gradient = self.last_x = ball.x

    def keep(self, kept: Tensor) -> None:
        for name in (
            "size", "best", "best_before", "halved_before", "rises", "last_value", "best_x", "best_gradient", "last_x",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[kept])

    def advance(self, ball: LpBall, x: Tensor, gradient: Tensor, values: Tensor) -> Tensor:
        if self.step > 0:
            self.rises += values > self.last_value
        self.last_value = values
        better = values > self.best
        self.best = torch.where(better, values, self.best)
        self.best_x = torch.where(better[:, None, None, None], x, self.best_x)
        self.best_gradient = torch.where(better[:, None, None, None], gradient, self.best_gradient)
        if self.step in self.checkpoints:
            halve = self._halve()[:, None, None, None]
            x = torch.where(halve, self.best_x, x)
            gradient = torch.where(halve, self.best_gradient, gradient)
        next_x = ball.step(x, gradient, self.size)
        if self.step > 0:
            next_x = ball.project(x + MOMENTUM * (next_x - x) + (1 - MOMENTUM) * (x - self.last_x))
        self.last_x = x
        self.step += 1
        return next_x

    def _halve(self) -> Tensor:
        """Halve the step sizes of examples that have stalled, and return their mask."""
        stalled = self.rises < MIN_RISING * (self.step - self.period_start)
        stuck = ~self.halved_before & (self.best <= self.best_before)
        halve = stalled | stuck
        self.size = torch.where(halve[:, None, None, None], self.size / 2, self.size)
        self.halved_before, self.best_before = halve, self.best
        self.rises = torch.zeros_like(self.rises)
        self.period_start = self.step
        return halve


def checkpoints(num_steps: int) -> frozenset[int]:
    """The steps at which step sizes are updated: 22, 41, 57, 70, 80, 87, 93, 99 for 100 steps."""
    period = max(int(FIRST_PERIOD * num_steps), 1)
    found, step = [], period
    while step < num_steps:
        found.append(step)
        period = max(period - max(int(PERIOD_DECREMENT * num_steps), 1), int(MIN_PERIOD * num_steps), 1)
        step += period
    return frozenset(found)
