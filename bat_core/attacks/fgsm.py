"""The fast gradient sign method."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bat_core.attacks.base import ATTACKS, LogitsFn, Target
from bat_core.attacks.gradient import FixedSteps, GradientAttack, StepRule
from bat_core.norms import LINF, Norm
from bat_core.rng import BatchRNG
from bat_core.threat import LpBall


@ATTACKS.register("fgsm")
@dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack):
    """One gradient step of length `eps`; see `fgsm`."""

    num_steps: int = field(default=1, init=False)
    random_start: bool = False

    def rule(self, ball: LpBall) -> StepRule:  # noqa: ARG002
        return FixedSteps(self.eps)


def fgsm(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    target: Target = None,
    random_start: bool = False,
    norm: Norm = LINF,
    generator: torch.Generator | BatchRNG | None = None,
) -> Tensor:
    """One cross-entropy gradient step of length eps, projected to the ball and to [0, 1].

    Args:
        logits_fn: (B, C, H, W) -> (B, K).
        x: (B, C, H, W) float in [0, 1].  y: (B,) int64.  eps: in the unit of x (8/255).
        target: None | "mc" | "ll" | "random" | "every" | (B,) int64 tensor.
        random_start: step from a uniformly random point in the ball, as the recipes with prefix R- do.
        norm: "linf" | "l2", whose step follows the normalised gradient.
    Returns:
        x_adv like x, detached, in [0, 1], within eps of x.
    Raises:
        ValueError: eps out of range, unknown target.
    Source: Goodfellow et al. 2015, arXiv:1412.6572; targeted form, paper section 4.2.
    """
    attack = FGSM(eps=eps, target=target, random_start=random_start, norm=norm)
    return attack(logits_fn, x, y, generator=generator)
