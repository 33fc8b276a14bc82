"""Projected gradient descent."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bat_core.attacks.base import ATTACKS, LogitsFn, Target
from bat_core.attacks.gradient import FixedSteps, GradientAttack, StepRule
from bat_core.norms import LINF, Norm, check_budget
from bat_core.rng import BatchRNG
from bat_core.threat import LpBall


@ATTACKS.register("pgd")
@dataclass(frozen=True, kw_only=True)
class PGD(GradientAttack):
    """`num_steps` gradient steps of size `step_size` on `loss`; see `pgd`."""

    may_repeat: ClassVar[bool] = True
    pools: ClassVar[bool] = True

    step_size: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_budget("attack.step_size", self.step_size, self.norm)

    def rule(self, ball: LpBall) -> StepRule:  # noqa: ARG002
        return FixedSteps(self.step_size)


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
    restarts: int = 1,
    norm: Norm = LINF,
    generator: torch.Generator | BatchRNG | None = None,
) -> Tensor:
    """Maximise the loss within the ball around x by gradient steps (eq. 3, 4): signed in L-inf, normalised in L2.

    A targeted attack minimises the loss with respect to its target instead.

    Args:
        logits_fn: (B, C, H, W) -> (B, K).
        x: (B, C, H, W) float in [0, 1].  y: (B,) int64.
        eps, step_size: in the unit of x (8/255, or 0.5 in L2).  num_steps: >= 1.
        loss: "ce" | "cw" | "dlr" | "pm" | "scaled-ce".
        target: None | "mc" | "ll" | "random" | "every" | (B,) int64 tensor.
        random_start: start uniformly in the ball, else at x.
        norm: "linf" | "l2".
        restarts: the number of searches, each from another start. A misclassified result takes precedence.
    Returns:
        x_adv like x, detached, in [0, 1], within eps of x: the last iterate.
    Raises:
        ValueError: eps or step_size out of range, num_steps < 1, unknown loss or target.
    Source: Madry et al. 2018, arXiv:1706.06083; targeted form, paper section 4.2.
    """
    attack = PGD(
        eps=eps,
        step_size=step_size,
        num_steps=num_steps,
        loss=loss,
        target=target,
        random_start=random_start,
        restarts=restarts,
        norm=norm,
    )
    return attack(logits_fn, x, y, generator=generator)
