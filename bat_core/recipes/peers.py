"""Alternatives to bilateral training: TRADES, and one-step methods that avoid catastrophic overfitting."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bat_core.attacks import FGSM, PGD, LogitsFn
from bat_core.attacks.gradient import FixedSteps, input_gradient
from bat_core.errors import check_finite
from bat_core.losses import cross_entropy
from bat_core.norms import LINF, Norm
from bat_core.recipes.base import RECIPES, CleanLogits, Recipe
from bat_core.rng import BatchRNG
from bat_core.threat import BALLS, ball_around

TRADES_START = 0.001  # standard deviation of TRADES' initial noise, in the unit of x


@RECIPES.register("Fast-AT")
def fast_at(*, eps: float = 8 / 255, rel_step_size: float = 1.25, norm: Norm = LINF) -> Recipe:
    """One untargeted step, longer than the budget, from a random start.

    Source: Wong et al. 2020, arXiv:2001.03994 (10 pixels for a budget of 8).
    """
    return Recipe(attack=PGD(eps=eps, norm=norm, step_size=rel_step_size * eps, num_steps=1))


@RECIPES.register("N-FGSM")
def n_fgsm(*, eps: float = 8 / 255, noise: float = 2.0, norm: Norm = LINF) -> Recipe:
    """One untargeted step as long as the budget, from noise of twice the budget, without projection to the ball.

    In L2 the noise is uniform in the ball of twice the budget, and the step follows the normalised gradient.

    Source: de Jorge et al. 2022, arXiv:2202.01181 (noise k = 2, step alpha = eps).
    """
    return NoisyStep(attack=FGSM(eps=eps, norm=norm), noise=noise)


@dataclass(frozen=True, kw_only=True)
class NoisyStep(Recipe):
    """`noise` is a multiple of eps; training images are at most (noise + 1) eps away from the clean images."""

    noise: float

    def __post_init__(self) -> None:
        check_finite("recipe.noise", self.noise)

    def perturb(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, rng: BatchRNG, clean_logits: CleanLogits) -> Tensor:  # noqa: ARG002
        assert self.attack is not None
        eps, ball = self.attack.eps, BALLS[self.attack.norm]
        start = (x + ball.noise(rng, x, self.noise * eps)).requires_grad_()
        with torch.enable_grad():
            gradient = input_gradient(cross_entropy(logits_fn(start), y), start)
        return (start.detach() + eps * ball.direction(gradient)).clamp(0, 1)

    @property
    def max_distance(self) -> float:
        assert self.attack is not None
        return (self.noise + 1) * self.attack.eps


@RECIPES.register("TRADES")
def trades(*, eps: float = 8 / 255, num_steps: int = 10, weight: float = 6.0, norm: Norm = LINF) -> Recipe:
    """TRADES: cross-entropy on clean images plus `weight` times the divergence to adversarial images.

    Source: Zhang et al. 2019, arXiv:1901.08573 (1/lambda = 6; ten steps of a quarter of the budget).
    """
    return Trades(attack=PGD(eps=eps, norm=norm, step_size=eps / 4, num_steps=int(num_steps)), weight=weight)


@dataclass(frozen=True, kw_only=True)
class Trades(Recipe):
    """The attack maximises the divergence KL(p(x) || p(x_adv)); the loss penalises it."""

    weight: float

    def __post_init__(self) -> None:
        check_finite("recipe.weight", self.weight, strict=True)

    def perturb(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, rng: BatchRNG, clean_logits: CleanLogits) -> Tensor:  # noqa: ARG002
        assert isinstance(self.attack, PGD)
        ball, steps = ball_around(x, self.attack.eps, self.attack.norm), FixedSteps(self.attack.step_size)
        log_p = F.log_softmax(clean_logits().float(), dim=1)
        x_adv = ball.project(x + TRADES_START * rng.normal(x))
        for _ in range(self.attack.num_steps):
            x_adv = x_adv.detach().requires_grad_()
            with torch.enable_grad():
                values = divergence(log_p, logits_fn(x_adv))
                gradient = input_gradient(values, x_adv)
            x_adv = steps.advance(ball, x_adv.detach(), gradient, values.detach())
        return ball.check(x_adv)

    def loss(self, model: nn.Module, x: Tensor, x_adv: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        clean, adversarial = model(x), model(x_adv)  # separate passes, each with its own batch statistics
        log_p = F.log_softmax(clean.float(), dim=1)
        return cross_entropy(clean, label) + self.weight * divergence(log_p, adversarial), adversarial


def divergence(log_p: Tensor, logits: Tensor) -> Tensor:
    """KL(p || softmax(logits)) of each example, (B,), from log p (B, K) and logits (B, K)."""
    return F.kl_div(F.log_softmax(logits.float(), dim=1), log_p, reduction="none", log_target=True).sum(1)
