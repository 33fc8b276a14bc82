"""Square Attack: a random search that queries logits only, without gradients."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bat_core.attacks.base import ATTACKS, Iterate, LogitsFn, LossAttack, Problem
from bat_core.attacks.square_l2 import propose, start, start_numbers, step_numbers
from bat_core.correctness import is_finite
from bat_core.errors import InputError, check_amount
from bat_core.losses import objective
from bat_core.norms import L2
from bat_core.rng import BatchRNG

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # the area halves at these queries of 10,000
SCHEDULED = 10_000


@ATTACKS.register("square")
@dataclass(frozen=True, kw_only=True)
class Square(LossAttack):
    """Tries squares of +-eps at random positions and keeps those that increase the margin; in L2, bumps.

    It uses no gradients: if it breaks images that gradient attacks cannot break, gradients are masked. `num_steps`
    is the number of queries, `area` the initial squares' share of the image.

    Source: Andriushchenko et al. 2020, arXiv:1912.00049, algorithms 1 to 3, with the schedule of its appendix. As
    in AutoAttack, the schedule is not scaled to the number of queries.
    """

    num_steps: int = 5000
    loss: str = "cw"
    area: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        objective(self.loss)
        check_amount("attack.area", self.area)
        if self.num_steps < 1:
            raise InputError(f"attack.num_steps={self.num_steps} must be at least 1")

    @torch.no_grad()
    def iterates(
        self, logits_fn: LogitsFn, problem: Problem, rng: BatchRNG, active: Tensor | None
    ) -> Iterator[Iterate]:
        _, channels, height, width = problem.ball.x.shape
        first, each = self._counts(channels, height, width)
        numbers = rng.uniform(problem.ball.x.new_empty(len(problem.rows), first + self.num_steps * each))
        x = self._start(problem, numbers[:, :first])
        numbers = numbers[:, first:].view(len(problem.rows), self.num_steps, each)
        best = torch.full((len(x),), -torch.inf, device=x.device)
        candidate = x
        for step in range(self.num_steps + 1):
            logits = logits_fn(candidate)
            values = self._values(logits, problem)
            better = values > best
            best = torch.where(better, values, best)
            x = torch.where(better[:, None, None, None], candidate, x)
            yield Iterate(step, problem.rows, candidate, logits)
            if step == self.num_steps:
                return
            if (kept := problem.to_keep(active, step)) is not None:
                if len(kept) == 0:
                    return
                problem, at = problem.keep(kept.on_device), kept.on_device
                x, best, numbers = x[at], best[at], numbers[at]
            side = square_side(self.area, step, height, width)
            candidate = self._with_square(problem, x, numbers[:, step], side)

    def search(self, logits_fn: LogitsFn, problem: Problem, rng: BatchRNG) -> Tensor:
        """The point with the largest margin."""
        best, x_adv = None, problem.ball.x
        for iterate in self.iterates(logits_fn, problem, rng, None):
            assert iterate.logits is not None
            values = self._values(iterate.logits, problem)
            better = torch.ones_like(values, dtype=torch.bool) if best is None else values > best
            x_adv = torch.where(better[:, None, None, None], iterate.x, x_adv)
            best = values if best is None else torch.where(better, values, best)
        return x_adv

    def _values(self, logits: Tensor, problem: Problem) -> Tensor:
        """The objective (M,); the largest where the model has no finite answer, as such an image is misclassified."""
        values = objective(self.loss)(logits, problem.y, problem.target)
        return values.masked_fill(~is_finite(logits), torch.inf)

    def _counts(self, channels: int, height: int, width: int) -> tuple[int, int]:
        """How many random numbers an image takes for its start (stripes), and per query (position and signs)."""
        if self.norm == L2:
            return start_numbers(channels, height, width), step_numbers(channels)
        return channels * width, 2 + channels

    def _start(self, problem: Problem, numbers: Tensor) -> Tensor:
        """Vertical stripes of +-eps; in L2, a tiling of bumps."""
        if self.norm == L2:
            return start(problem.ball, numbers)
        _, channels, _, width = problem.ball.x.shape
        return problem.ball.project(problem.ball.x + self.eps * _sign(numbers.view(-1, channels, 1, width)))

    def _with_square(self, problem: Problem, x: Tensor, numbers: Tensor, side: int) -> Tensor:
        """x with a square of side `side` set to +-eps around the clean image; `numbers` give position and signs."""
        if self.norm == L2:
            return propose(problem.ball, x, numbers, side)
        height, width = x.shape[2:]
        tops = (numbers[:, 0] * (height - side + 1)).long()
        lefts = (numbers[:, 1] * (width - side + 1)).long()
        down, across = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        in_rows = (down >= tops[:, None]) & (down < tops[:, None] + side)
        in_columns = (across >= lefts[:, None]) & (across < lefts[:, None] + side)
        inside = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
        signs = _sign(numbers[:, 2:])[:, :, None, None]
        return torch.where(inside, problem.ball.project(problem.ball.x + self.eps * signs), x)


def square_side(area: float, step: int, height: int, width: int) -> int:
    """Side length of the square in pixels after `step` queries; its area halves as the search proceeds."""
    share = area / 2 ** sum(step >= query for query in HALVINGS)
    return min(max(round((share * height * width) ** 0.5), 1), height, width)


def _sign(numbers: Tensor) -> Tensor:
    """Map uniform numbers in [0, 1) to -1 or 1."""
    return torch.where(numbers < 0.5, -1.0, 1.0).to(numbers.dtype)
