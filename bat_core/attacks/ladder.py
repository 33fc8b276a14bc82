"""A ladder of short, diverse searches: the nearer an image has come to the boundary, the more of them it gets."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bat_core.attacks.apgd import APGD
from bat_core.attacks.base import ATTACKS, Attack, Iterate, LogitsFn, Problem
from bat_core.attacks.cycles import ALL_AT_ONCE, Passes
from bat_core.attacks.gradient import GradientAttack, StepRule, input_gradient
from bat_core.correctness import is_correct
from bat_core.losses import cw_margin
from bat_core.rng import BatchRNG
from bat_core.threat import LpBall

MOST_TARGETS = 9  # likeliest wrong classes of which the nearest are tried, as in AutoAttack
DLR_TARGETS = 3  # wrong classes from which on the targeted DLR loss exists
DIVERSE_STEPS = 2  # of a whole budget each, before a diverse start


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search of a stage, or one for each of the classes whose boundaries are nearest.

    `nearest` are places in the order of boundaries: (0, 1) stands for two searches, towards the two nearest classes.
    An untargeted search has none. A "diverse" start is `diverse_start`. `rule` is "auto" (Auto-PGD) or "cosine" (from
    twice the budget down to 0).
    """

    loss: str
    steps: int
    nearest: tuple[int, ...] = ()
    start: Literal["random", "diverse"] = "random"
    rule: Literal["auto", "cosine"] = "auto"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Searches for the images whose best margin, relative to the spread of the logits, came within `within` of 0."""

    within: float
    searches: tuple[Search, ...]


STAGES = (
    Stage(
        within=math.inf,
        searches=(
            Search(loss="pm", steps=10),
            Search(loss="dlr", steps=10, nearest=(0, 1)),
            Search(loss="cw", steps=20, start="diverse", rule="cosine"),
            Search(loss="dlr", steps=10, nearest=(2,)),
        ),
    ),
    Stage(
        within=0.12,
        searches=(Search(loss="pm", steps=20, rule="cosine"), Search(loss="dlr", steps=20, nearest=(0, 1))),
    ),
    Stage(
        within=0.08,
        searches=(
            Search(loss="dlr", steps=20, nearest=(2, 3, 4, 5, 6, 7, 8)),
            Search(loss="cw", steps=20, start="diverse", rule="cosine"),
            Search(loss="cw", steps=20, start="diverse", rule="cosine"),
        ),
    ),
    Stage(
        within=0.05,
        searches=(
            Search(loss="dlr", steps=50, nearest=(0, 1, 2, 3)),
            Search(loss="pm", steps=50),
            Search(loss="scaled-ce", steps=50),
        ),
    ),
    Stage(within=0.02, searches=(Search(loss="dlr", steps=100, nearest=(0, 1, 2, 3)), Search(loss="ce", steps=100))),
)


@ATTACKS.register("ladder")
@dataclass(frozen=True, kw_only=True)
class Ladder(Attack):
    """Stages of short searches. An image that a search breaks is left alone; so is one that stays far from all.

    Steps are numbered through over all searches. The targets of targeted searches are the classes with the nearest
    boundary in a linear approximation around the clean image, found once the first search is over, for the images
    that stand.

    Source: order of targets, arXiv:2407.02240; losses, see `bat_core.losses`; diverse starts, arXiv:2003.06878.
    """

    takes_target: ClassVar[bool] = False
    pools: ClassVar[bool] = True

    stages: tuple[Stage, ...] = STAGES

    def iterates(
        self, logits_fn: LogitsFn, problem: Problem, rng: BatchRNG, active: Tensor | None
    ) -> Iterator[Iterate]:
        size = int(problem.rows.max()) + 1 if active is None and len(problem.rows) else 0
        standing = torch.ones(size, dtype=torch.bool, device=problem.y.device) if active is None else active
        climb = _Climb(logits_fn, problem, rng, standing)
        for stage in self.stages:
            for search in stage.searches:
                yield from climb.run(search, stage.within)

    def search(self, logits_fn: LogitsFn, problem: Problem, rng: BatchRNG) -> Tensor:
        """For each image the first misclassified point, or the last one visited if there was none."""
        standing = torch.ones(int(problem.rows.max()) + 1, dtype=torch.bool, device=problem.y.device)
        x_adv, y = problem.ball.x.clone(), torch.zeros(len(standing), dtype=torch.int64, device=problem.y.device)
        y[problem.rows] = problem.y
        for iterate in self.iterates(logits_fn, problem, rng, standing):
            going = standing[iterate.rows]
            x_adv[iterate.rows] = torch.where(going[:, None, None, None], iterate.x, x_adv[iterate.rows])
            with torch.no_grad():
                logits = logits_fn(iterate.x) if iterate.logits is None else iterate.logits
            standing[iterate.rows] &= is_correct(logits, y[iterate.rows])
        return x_adv


def left_after_first_stage(
    ladder: Ladder, logits_fn: LogitsFn, x: Tensor, y: Tensor, *, generator: BatchRNG, passes: Passes = ALL_AT_ONCE
) -> Tensor:
    """(B,) bool: images that the first stage of the ladder does not break, and that its later stages leave alone.

    Args:
        x: (B, C, H, W) float in [0, 1].  y: (B,) int64.
        generator: as for the ladder itself, whose first stage is run again.
    """
    first, second, *_ = ladder.stages
    probe = replace(ladder, stages=(first, replace(second, searches=(Search(loss="pm", steps=1),))))
    steps = sum(search.steps + 1 for search in first.searches)
    standing = torch.ones(len(x), dtype=torch.bool, device=x.device)
    near = torch.zeros_like(standing)
    for iterate in probe.trajectory(logits_fn, x, y, generator=generator, active=standing, passes=passes):
        if iterate.step >= steps:
            near[iterate.rows] = True
            continue
        with torch.no_grad():
            logits = passes.logits(logits_fn, iterate.x) if iterate.logits is None else iterate.logits
        standing[iterate.rows] &= is_correct(logits, y[iterate.rows])
    return standing & ~near


class _Climb:
    """One run through the stages: how near each image has come, and the targets found for it."""

    def __init__(self, logits_fn: LogitsFn, problem: Problem, rng: BatchRNG, standing: Tensor) -> None:
        self._logits_fn, self._problem, self._rng, self._standing = logits_fn, problem, rng, standing
        self._margin = torch.full((len(standing),), -math.inf, device=standing.device)  # by row
        self._labels = torch.zeros(len(standing), dtype=torch.int64, device=standing.device)  # by row
        self._labels[problem.rows] = problem.y
        self._targets: Tensor | None = None  # (M, T) for the M images of the problem, nearest first
        self._searches, self._step = 0, 0

    def run(self, search: Search, within: float) -> Iterator[Iterate]:
        """One search on the images that stand and came within `within`: all of its points."""
        rows = self._problem.rows
        chosen = (self._standing[rows] & (self._margin[rows] >= -within)).nonzero().squeeze(1)
        number, self._searches = self._searches, self._searches + 1
        if len(chosen) == 0:
            return
        problem, rng = self._problem.keep(chosen), self._rng.take(chosen.cpu()).restart(number)
        targets: list[Tensor | None] = [None]
        if search.nearest:
            nearest = self._nearest(chosen)[chosen]
            targets = [nearest[:, place] for place in search.nearest if place < nearest.shape[1]]
            if nearest.shape[1] < DLR_TARGETS and search.loss == "dlr":
                search = replace(search, loss="cw")
        if targets:
            yield from self._side_by_side(search, problem, rng, targets)
        self._step += search.steps + 1

    def _side_by_side(
        self, search: Search, problem: Problem, rng: BatchRNG, targets: list[Tensor | None]
    ) -> Iterator[Iterate]:
        """The searches towards all targets at once. Each image is there once for each target."""
        copies, size = len(targets), len(self._standing)
        again = torch.arange(len(problem.rows), device=problem.rows.device).repeat(copies)
        copy = torch.arange(copies, device=again.device).repeat_interleave(len(problem.rows))
        many = problem.keep(again)
        target = None if targets[0] is None else torch.cat([one for one in targets if one is not None])
        many = replace(many, target=target, rows=many.rows + size * copy)
        standing = self._standing.repeat(copies)
        drawn = rng.take(again.cpu())
        ball = problem.ball
        attack = RULES[search.rule](eps=ball.eps, norm=ball.norm, loss=search.loss, num_steps=search.steps)
        diverse = search.start == "diverse"
        start = diverse_start(self._logits_fn, many, drawn) if diverse else many.ball.random_start(drawn)
        for iterate in attack.iterates_from(start, self._logits_fn, many, standing):
            for number in range(copies):
                mine = iterate.rows // size == number
                part = slice(None) if copies == 1 else mine
                rows = iterate.rows[part] % size
                if len(rows) == 0:
                    continue
                logits = None if iterate.logits is None else iterate.logits[part]
                if logits is not None:
                    self._see(rows, logits)
                yield Iterate(self._step + iterate.step, rows, iterate.x[part], logits)
            standing.view(copies, size).copy_(self._standing.expand(copies, size))

    def _see(self, rows: Tensor, logits: Tensor) -> None:
        """Note how near the points came to the boundary: the margin over the spread of the logits."""
        spread = (logits.amax(1) - logits.amin(1)).clamp(min=torch.finfo(logits.dtype).tiny)
        near = (cw_margin(logits, self._labels[rows]) / spread).to(self._margin.dtype)
        self._margin[rows] = torch.maximum(self._margin[rows], near.nan_to_num(nan=math.inf))

    def _nearest(self, chosen: Tensor) -> Tensor:
        """(M, T): the classes with the nearest boundaries, for the images at positions `chosen` of the problem."""
        if self._targets is None:
            problem = self._problem.keep(chosen)
            found = nearest_classes(self._logits_fn, problem)
            self._targets = torch.zeros(len(self._problem.y), found.shape[1], dtype=torch.int64, device=found.device)
            self._targets[chosen] = found
        return self._targets


def nearest_classes(logits_fn: LogitsFn, problem: Problem) -> Tensor:
    """The likeliest wrong classes of the clean images, in the order of their distance in a linear approximation.

    The distance to class k is (z_y - z_k) / ||grad (z_y - z_k)||: the L1 norm within the L-infinity ball, L2 in L2.

    Returns:
        (M, T) int64, T = min(9, K - 1).
    Source: arXiv:2407.02240, with the norm that belongs to the ball's.
    """
    x, y, dual = problem.ball.x, problem.y, problem.ball.dual
    (found,) = problem.passes.gather(
        lambda part: (_nearest_classes(logits_fn, x[part], y[part], dual),), len(y), y.device
    )
    return found


def _nearest_classes(logits_fn: LogitsFn, x: Tensor, y: Tensor, dual: Callable[[Tensor], Tensor]) -> Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        logits = logits_fn(x)
        likeliest = (
            logits.detach().scatter(1, y[:, None], -torch.inf).topk(min(MOST_TARGETS, logits.shape[1] - 1)).indices
        )
        distances = []
        for k in likeliest.unbind(1):
            gaps = (logits.gather(1, y[:, None]) - logits.gather(1, k[:, None])).squeeze(1)
            slope = input_gradient(gaps, x, retain_graph=True)
            distances.append(gaps.detach() / (dual(slope) + torch.finfo(gaps.dtype).tiny))
    order = torch.stack(distances, dim=1).nan_to_num(nan=math.inf).argsort(dim=1, stable=True)
    return likeliest.gather(1, order)


@dataclass(frozen=True, kw_only=True)
class _Cosine(GradientAttack):
    """Steps whose size falls from twice the budget to 0 as a cosine."""

    def rule(self, ball: LpBall) -> StepRule:
        return _CosineSteps(ball.eps, self.num_steps)


RULES: dict[str, type[GradientAttack]] = {"auto": APGD, "cosine": _Cosine}


class _CosineSteps:
    def __init__(self, eps: float, num_steps: int) -> None:
        self._eps, self._num_steps, self._step = eps, num_steps, 0

    def advance(self, ball: LpBall, x: Tensor, gradient: Tensor, values: Tensor) -> Tensor:  # noqa: ARG002
        size = self._eps * (1 + math.cos(math.pi * self._step / self._num_steps))
        self._step += 1
        return ball.step(x, gradient, size)

    def keep(self, kept: Tensor) -> None:
        """There is no state of single examples to drop."""


def diverse_start(logits_fn: LogitsFn, problem: Problem, rng: BatchRNG) -> Tensor:
    """Points (M, C, H, W) in the balls whose logits differ much: moved along a random direction of the logits.

    Source: Tashiro et al. 2020, arXiv:2003.06878 (output-diversified initialisation).
    """
    x, y = problem.ball.random_start(rng), problem.y
    weights: Tensor | None = None

    def run(part: Tensor | slice) -> tuple[Tensor, ...]:
        nonlocal weights
        z = x[part].detach().requires_grad_()
        with torch.enable_grad():
            logits = logits_fn(z)
            if weights is None:
                weights = 2 * rng.restart(1).uniform(logits.new_zeros(len(y), logits.shape[1])) - 1
            return (input_gradient((logits * weights[part]).sum(1), z),)

    for _ in range(DIVERSE_STEPS):
        (gradient,) = problem.passes.gather(run, len(x), x.device)
        x = problem.ball.step(x, gradient, problem.ball.eps)
    return x
