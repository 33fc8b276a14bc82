"""What every attack shares: its checks, its target, and the registry that finds it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from bat_core.errors import InputError, check_amount, check_choice
from bat_core.losses import largest_other
from bat_core.registry import Registry
from bat_core.rng import Draws, as_draws
from bat_core.threat import LinfBall

LogitsFn: TypeAlias = Callable[[Tensor], Tensor]
TargetName: TypeAlias = Literal["mc", "ll", "random"]
Target: TypeAlias = TargetName | Tensor | None

TARGETS: tuple[TargetName, ...] = ("mc", "ll", "random")
ATTACKS: Registry[type["Attack"]] = Registry("attack", "bat_core.attacks")


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attack within the L-infinity ball of radius `eps`, ready to be called on a batch.

    Subclasses write `search`. The base alone makes the ball, resolves the target and checks what
    comes back, so that no attack can leave its budget.

    `eps` is in the images' unit (8/255). `target` is None (untargeted), "mc" (most confusing: the
    likeliest wrong class), "ll" (least likely class), "random" (a uniform wrong class) or a (B,)
    int64 tensor; "mc" and "ll" are read from the clean images' logits.
    """

    eps: float
    target: Target = None

    def __post_init__(self) -> None:
        check_amount("attack.eps", self.eps)
        if isinstance(self.target, str):
            check_choice("attack.target", self.target, TARGETS)

    def __call__(
        self,
        logits_fn: LogitsFn,
        x: Tensor,
        y: Tensor,
        *,
        generator: torch.Generator | Draws | None = None,
        clean_logits: Callable[[], Tensor] | None = None,
    ) -> Tensor:
        """Adversarial images for x.

        Args:
            logits_fn: (B, C, H, W) -> (B, K), in the mode it is to be attacked in.
            x: (B, C, H, W) float in [0, 1].  y: (B,) int64.
            generator: source of the random start and random target.
            clean_logits: gives logits_fn(x) where the caller has use for it too; saves a forward pass.
        Returns:
            x_adv like x, detached, in [0, 1], within eps of x.
        Raises:
            ValueError: x outside [0, 1] or not floating point.
            RuntimeError: the search left the ball.
        """
        draws = as_draws(generator)
        ball = LinfBall.around(x.detach(), self.eps)
        target = choose_target(self.target, logits_fn, x, y, draws=draws, clean_logits=clean_logits)
        return ball.check(self.search(logits_fn, ball, y, target, draws).detach())

    @abstractmethod
    def search(self, logits_fn: LogitsFn, ball: LinfBall, y: Tensor, target: Tensor | None, draws: Draws) -> Tensor:
        """The attack itself: images in `ball`, away from y or (if given) towards the classes `target`."""


def choose_target(
    target: Target,
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    draws: Draws,
    clean_logits: Callable[[], Tensor] | None = None,
) -> Tensor | None:
    """The class each example is pushed towards: (B,) int64, or None for an untargeted attack.

    Raises:
        ValueError: unknown target name, or a tensor that is not (B,) int64.
    Source: paper, eq. 23 (ll) and eq. 24 (mc).
    """
    if target is None:
        return None
    if isinstance(target, Tensor):
        if target.shape != y.shape or target.dtype != torch.int64:
            raise InputError(f"target is {tuple(target.shape)} {target.dtype}; it must be {tuple(y.shape)} torch.int64")
        return target
    check_choice("attack.target", target, TARGETS)
    with torch.no_grad():
        logits = logits_fn(x) if clean_logits is None else clean_logits()
    if target == "mc":
        return largest_other(logits, y).indices
    if target == "ll":
        return largest_other(-logits, y).indices
    return (y + 1 + draws.integers(logits.shape[1] - 1, y)) % logits.shape[1]
