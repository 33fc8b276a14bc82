"""The base of all attacks: checks, targets, restarts and the registry."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, TypeAlias

import torch
from torch import Tensor

from bat_core.attacks.cycles import ALL_AT_ONCE, READ_EVERY, Cycle, Passes
from bat_core.correctness import is_correct
from bat_core.device import DROP_EVERY, is_read, to_device
from bat_core.errors import InputError, check_choice
from bat_core.losses import largest_other, min_classes
from bat_core.norms import LINF, Norm, check_budget, check_norm
from bat_core.registry import Registry
from bat_core.rng import BatchRNG, as_rng
from bat_core.threat import BallChecks, LpBall, ball_around

LogitsFn: TypeAlias = Callable[[Tensor], Tensor]
TargetName: TypeAlias = Literal["mc", "ll", "random", "every"]
Target: TypeAlias = TargetName | Tensor | None

TARGETS: tuple[TargetName, ...] = ("mc", "ll", "random", "every")
MAX_TARGETS = 9  # the largest number of targets for "every", as in AutoAttack
ATTACKS: Registry[type["Attack"]] = Registry("attack", "bat_core.attacks")


@dataclass(frozen=True)
class Problem:
    """The input of a search: the balls around M images, their classes y (M,) and their target classes (M,), if any.

    `rows` (M,) are the positions of the images in the caller's batch. `passes` is how they go through the network.
    """

    ball: LpBall
    y: Tensor
    target: Tensor | None
    rows: Tensor
    passes: Passes = ALL_AT_ONCE

    def keep(self, kept: Tensor) -> "Problem":
        """The examples at the positions `kept` (K,) int64."""
        target = None if self.target is None else self.target[kept]
        return replace(self, ball=self.ball.take(kept), y=self.y[kept], target=target, rows=self.rows[kept])

    def to_keep(self, active: Tensor | None, step: int | None = None, cycle: Cycle | None = None) -> "Kept | None":
        """The examples that the search goes on with: those still `active` (the whole batch's mask) and not in a cycle.

        None if no example is to be dropped. Finding out waits for a GPU. So there, examples are dropped only once in
        many steps (0, 1, ...). An example that is attacked for longer than necessary keeps its result: the first step
        that broke it counts, and in a cycle nothing new is met.
        """
        device, going = self.rows.device, []
        if active is not None and (step is None or is_read(step, device, every=DROP_EVERY)):
            going.append(active[self.rows])
        if cycle is not None and step is not None and is_read(step, device, every=READ_EVERY):
            going.append(cycle.period == 0)
        if not going:
            return None
        positions = torch.stack(going).all(0).cpu().nonzero().squeeze(1)
        return None if len(positions) == len(self.rows) else Kept(positions, to_device(positions, device))


@dataclass(frozen=True)
class Kept:
    """Positions (K,) int64 of the examples that a search goes on with, in the CPU's memory and on the device."""

    on_cpu: Tensor
    on_device: Tensor

    def __len__(self) -> int:
        return len(self.on_cpu)


@dataclass(frozen=True)
class Iterate:
    """One point of a search: the images x (M, C, H, W) at positions `rows` (M,) of the batch.

    Step 0 is the start. `logits` are logits_fn(x) if the search computed them, else None. `cycle` is set if the
    search looks for cycles: examples whose period is known may be missing from later points.
    """

    step: int
    rows: Tensor
    x: Tensor
    logits: Tensor | None = None
    cycle: Cycle | None = None


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack within the ball of radius `eps` in `norm`; call it on a batch.

    Subclasses implement `iterates`. Only the base class creates the balls, resolves targets, repeats searches and
    checks their results, so no attack can exceed its budget.

    `eps` is in the unit of the images: 8/255, or 0.5 in L2. `target` is None (untargeted), "mc" (most confusing: the
    likeliest wrong class), "ll" (least likely class), "random" (a uniformly random wrong class), "every" (the nine
    likeliest wrong classes, one search each) or a (B,) int64 tensor. Named targets except "random" are chosen from the
    logits of the clean images. `restarts` is the number of searches per target, each from another start. The worst case
    over all searches counts for each example.
    """

    takes_target: ClassVar[bool] = True
    may_repeat: ClassVar[bool] = False  # whether a step depends on the last point alone, so that a search may cycle
    pools: ClassVar[bool] = False  # whether images of several batches are attacked side by side

    eps: float
    norm: Norm = LINF
    target: Target = None
    restarts: int = 1

    def __post_init__(self) -> None:
        check_norm("attack.norm", self.norm)
        check_budget("attack.eps", self.eps, self.norm)
        if isinstance(self.target, str):
            check_choice("attack.target", self.target, TARGETS)
        if self.target is not None and not self.takes_target:
            raise InputError(f"attack.target={self.target!r}: {type(self).__name__} takes no target: leave it out")
        if self.restarts < 1:
            raise InputError(f"attack.restarts={self.restarts} must be at least 1")

    @property
    def min_classes(self) -> int:
        """The smallest number of classes at which the attack exists."""
        return 2

    @property
    def classes_rule(self) -> str:
        """What `min_classes` comes from, for error messages."""
        return f"attack {type(self).__name__}"

    def check_available(self) -> None:  # noqa: B027 (most attacks need nothing)
        """Raises InputError if the attack cannot run here, for example because a package is missing."""

    def __call__(
        self,
        logits_fn: LogitsFn,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | BatchRNG | None = None,
        clean_logits: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """Adversarial images for x.

        Args:
            logits_fn: (B, C, H, W) -> (B, K), in the mode in which it is attacked.
            x: (B, C, H, W) float in [0, 1].  y: (B,) integers of any type.
            generator: source of the random start and random target.
            clean_logits: returns logits_fn(x) if the caller needs it too; saves a forward pass.
        Returns:
            x_adv like x, detached, in [0, 1], within eps of x.
        Raises:
            ValueError: x outside [0, 1] or not floating point.
            RuntimeError: the search left the ball.
        """
        ball, y = ball_around(x.detach(), self.eps, self.norm), _indices(y)
        worst: Tensor | None = None
        checks = BallChecks()
        for problem, rng in self._searches(logits_fn, ball, y, as_rng(generator), clean_logits):
            found = self.search(logits_fn, problem, rng).detach()
            checks.add(ball, found)
            if worst is not None:
                with torch.no_grad():
                    correct = is_correct(logits_fn(worst), y)
                found = torch.where(correct[:, None, None, None], found, worst)
            worst = found
        assert worst is not None
        checks.read()
        return worst

    def trajectory(
        self,
        logits_fn: LogitsFn,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | BatchRNG | None = None,
        active: Tensor | None = None,
        passes: Passes = ALL_AT_ONCE,
    ) -> Iterator[Iterate]:
        """Every point that the searches visit, one search after another.

        One PGD trajectory contains every PGD-k with k up to its number of steps.

        Args:
            active: (B,) bool, the examples to attack; default all. The caller may clear entries between two points,
                for example when an example is broken; the search then drops these examples (on a GPU a few steps
                later, see `Problem.to_keep`).
            passes: how many images go through the network at once, and whether examples whose search repeats itself
                leave it. Attacks whose steps cannot repeat ignore it.
        Raises:
            ValueError, RuntimeError: as `__call__`; every point is checked to be in its ball (on a GPU at the latest
                when the trajectory ends).
        """
        ball, y = ball_around(x.detach(), self.eps, self.norm), _indices(y)
        rows: Tensor | None = None
        checks = BallChecks()

        def clean_logits() -> Tensor:
            return passes.logits(logits_fn, ball.x)

        for problem, rng in self._searches(logits_fn, ball, y, as_rng(generator), clean_logits):
            problem = replace(problem, passes=passes)  # noqa: PLW2901
            if (kept := problem.to_keep(active)) is not None:
                if len(kept) == 0:
                    break
                problem, rng = problem.keep(kept.on_device), rng.take(kept.on_cpu)  # noqa: PLW2901
            within = ball
            for iterate in self.iterates(logits_fn, problem, rng, active):
                if iterate.rows is not rows:
                    rows = iterate.rows
                    within = ball if len(rows) == len(x) else ball.take(rows)
                checks.add(within, iterate.x)
                yield iterate
        checks.read()

    def search(self, logits_fn: LogitsFn, problem: Problem, rng: BatchRNG) -> Tensor:
        """The result of one search: its last point, unless a subclass overrides this."""
        *_, last = self.iterates(logits_fn, problem, rng, None)
        return last.x

    @abstractmethod
    def iterates(
        self, logits_fn: LogitsFn, problem: Problem, rng: BatchRNG, active: Tensor | None
    ) -> Iterator[Iterate]:
        """One search: points in the problem's balls, away from y or, if given, towards `problem.target`.

        `active` covers the whole batch. Implementations drop examples that are no longer active where that is cheap.
        """

    def _searches(
        self,
        logits_fn: LogitsFn,
        ball: LpBall,
        y: Tensor,
        rng: BatchRNG,
        clean_logits: Callable[[], Tensor] | None,
    ) -> Iterator[tuple[Problem, BatchRNG]]:
        """Each search, with its own target and source of randomness."""
        rows = torch.arange(len(y), device=y.device)
        targets = choose_targets(self.target, logits_fn, ball.x, y, rng=rng, clean_logits=clean_logits)
        for number, target in enumerate(target for target in targets for _ in range(self.restarts)):
            yield Problem(ball, y, target, rows), rng.restart(number)


def _indices(y: Tensor) -> Tensor:
    """Class indices of any integer type as int64."""
    return y if y.is_floating_point() else y.long()


class LossAttack(Attack):
    """An attack on a loss, which decides how many classes it needs."""

    loss: str

    @property
    def min_classes(self) -> int:
        return min_classes(self.loss, targeted=self.target is not None)

    @property
    def classes_rule(self) -> str:
        return f"loss {'targeted ' if self.target is not None else ''}{self.loss}"


def choose_targets(
    target: Target,
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    rng: BatchRNG,
    clean_logits: Callable[[], Tensor] | None = None,
) -> list[Tensor | None]:
    """The target classes of each example, one (B,) int64 tensor per search.

    Returns:
        [None] for an untargeted attack, several entries for "every", else one.
    Raises:
        ValueError: unknown target name, or a tensor that is not (B,) int64.
    Source: paper, eq. 23 (ll) and eq. 24 (mc); "every": Croce and Hein 2020, arXiv:2003.01690.
    """
    if target is None:
        return [None]
    if isinstance(target, Tensor):
        if target.shape != y.shape or target.dtype != torch.int64:
            raise InputError(f"target is {tuple(target.shape)} {target.dtype}: it must be {tuple(y.shape)} torch.int64")
        return [target]
    check_choice("attack.target", target, TARGETS)
    with torch.no_grad():
        logits = logits_fn(x) if clean_logits is None else clean_logits()
    if target == "mc":
        return [largest_other(logits, y).indices]
    if target == "ll":
        return [largest_other(-logits, y).indices]
    if target == "every":
        wrong = logits.scatter(1, y[:, None], -torch.inf)
        return list(wrong.topk(min(MAX_TARGETS, logits.shape[1] - 1), dim=1).indices.unbind(1))
    return [(y + 1 + rng.integers(logits.shape[1] - 1, y)) % logits.shape[1]]
