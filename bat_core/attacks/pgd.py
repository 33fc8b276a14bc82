"""Projected gradient descent, as a call and as a trajectory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bat_core.attacks.base import ATTACKS, Attack, LogitsFn, Target, choose_target
from bat_core.errors import InputError, check_amount
from bat_core.losses import get_loss
from bat_core.rng import Draws, as_draws
from bat_core.threat import LinfBall


@dataclass(frozen=True)
class Iterate:
    """One point x^step of a trajectory (step 0 is the start).

    `logits` are logits_fn's at x where the search needed them, None at the last point, where it did not.
    """

    step: int
    x: Tensor
    logits: Tensor | None


@ATTACKS.register("pgd")
@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """`num_steps` signed gradient steps of size `step_size` on `loss`, see `pgd`."""

    step_size: float
    num_steps: int
    loss: str = "ce"
    random_start: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_amount("attack.step_size", self.step_size)
        if self.num_steps < 1:
            raise InputError(f"attack.num_steps={self.num_steps} must be at least 1")
        get_loss(self.loss)

    def search(self, logits_fn: LogitsFn, ball: LinfBall, y: Tensor, target: Tensor | None, draws: Draws) -> Tensor:
        *_, last = self.iterates(logits_fn, ball, y, target, draws)
        return last.x

    def iterates(
        self, logits_fn: LogitsFn, ball: LinfBall, y: Tensor, target: Tensor | None, draws: Draws
    ) -> Iterator[Iterate]:
        """x^0, x^1 ... x^num_steps, each as soon as it is known (eq. 3 and 4)."""
        loss_fn = get_loss(self.loss)
        label = y if target is None else target
        ascent = self.step_size if target is None else -self.step_size
        x_adv = ball.random_start(draws) if self.random_start else ball.x
        for step in range(self.num_steps):
            x_adv = x_adv.detach().requires_grad_()
            with torch.enable_grad():
                logits = logits_fn(x_adv)
                total = loss_fn(logits, label).sum()
            (gradient,) = torch.autograd.grad(total, x_adv)
            x_adv = x_adv.detach()
            yield Iterate(step, x_adv, logits.detach())
            x_adv = ball.project(x_adv + ascent * gradient.sign())
        yield Iterate(self.num_steps, x_adv, None)

    def trajectory(
        self, logits_fn: LogitsFn, x: Tensor, y: Tensor, *, generator: torch.Generator | Draws | None = None
    ) -> Iterator[Iterate]:
        """The whole trajectory of one attack on x: it holds every PGD-k with k <= num_steps.

        Args and errors as `Attack.__call__`; every iterate is checked to be in the ball.
        """
        draws = as_draws(generator)
        ball = LinfBall.around(x.detach(), self.eps)
        target = choose_target(self.target, logits_fn, x, y, draws=draws)
        for iterate in self.iterates(logits_fn, ball, y, target, draws):
            ball.check(iterate.x)
            yield iterate


def pgd(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    num_steps: int,
    loss: str = "ce",
    target: Target = None,
    random_start: bool = True,
    generator: torch.Generator | Draws | None = None,
) -> Tensor:
    """Move x inside the L-inf ball so that the loss grows, by signed gradient steps (eq. 3, 4).

    A targeted attack lowers the loss to its target instead.

    Args:
        logits_fn: (B, C, H, W) -> (B, K).
        x: (B, C, H, W) float in [0, 1].  y: (B,) int64.
        eps, step_size: in the unit of x (8/255).  num_steps: >= 1.
        loss: "ce" | "cw".  target: None | "mc" | "ll" | "random" | (B,) int64.
        random_start: start uniformly in the ball, else at x.
    Returns:
        x_adv like x, detached, in [0, 1], within eps of x: the last iterate.
    Raises:
        ValueError: eps or step_size outside (0, 1], num_steps < 1, unknown loss or target.
    Source: Madry et al. 2018, arXiv:1706.06083; targeted form, paper section 4.2.
    """
    attack = PGD(eps=eps, step_size=step_size, num_steps=num_steps, loss=loss, target=target, random_start=random_start)
    return attack(logits_fn, x, y, generator=generator)
