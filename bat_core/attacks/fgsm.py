"""The fast gradient sign method."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from bat_core.attacks.base import ATTACKS, LogitsFn, Target
from bat_core.attacks.gradient import FixedSteps, GradientAttack, StepRule
from bat_core.rng import BatchRNG
from bat_core.threat import LinfBall


@ATTACKS.register("fgsm")
@dataclass(frozen=True, kw_only=True)
class FGSM(GradientAttack):
    """One signed gradient step of size `eps`; see `fgsm`."""

    num_steps: int = field(default=1, init=False)
    random_start: bool = False

    def rule(self, ball: LinfBall) -> StepRule:  # noqa: ARG002
        return FixedSteps(self.eps)


def fgsm(
    logits_fn: LogitsFn,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    target: Target = None,
    random_start: bool = False,
    generator: torch.Generator | BatchRNG | None = None,
) -> Tensor:
    """One cross-entropy gradient step of length eps, projected to the ball and to [0, 1].

    Args:
        logits_fn: (B, C, H, W) -> (B, K).
        x: (B, C, H, W) float in [0, 1].  y: (B,) int64.  eps: in the unit of x (8/255).
        target: None | "mc" | "ll" | "random" | "every" | (B,) int64 tensor.
        random_start: step from a uniformly random point in the ball, as the recipes with prefix R- do.
    Returns:
        x_adv like x, detached, in [0, 1], within eps of x.
    Raises:
        ValueError: eps outside (0, 1], unknown target.
    Source: Goodfellow et al. 2015, arXiv:1412.6572; targeted form, paper section 4.2.
    """
    return FGSM(eps=eps, target=target, random_start=random_start)(logits_fn, x, y, generator=generator)
