"""Bilateral adversarial training: one targeted step from a random start, with a perturbed label.

Source: Wang and Zhang 2019, sections 4 and 5.1; RAND and MOSA from the authors' release. R- random start,
MC most confusing target, LS label smoothing, LA label adversary.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bat_core.attacks import FGSM, PGD, LogitsFn
from bat_core.attacks.gradient import FixedSteps, input_gradient
from bat_core.errors import InputError
from bat_core.losses import cross_entropy, largest_other
from bat_core.recipes.base import RECIPES, Adversarial, CleanLogits, Recipe, Smooth
from bat_core.rng import BatchRNG
from bat_core.threat import LinfBall


def _one_step(eps: float) -> FGSM:
    return FGSM(eps=eps, target="mc", random_start=True)


@RECIPES.register("MC")
def mc(*, eps: float = 8 / 255) -> Recipe:
    """One step towards the most confusing class, from the clean image (Table 3)."""
    return Recipe(attack=FGSM(eps=eps, target="mc"))


@RECIPES.register("R-MC")
def r_mc(*, eps: float = 8 / 255) -> Recipe:
    """The image alone is attacked (Table 3)."""
    return Recipe(attack=_one_step(eps))


@RECIPES.register("R-FGSM-LS")
def r_fgsm_ls(*, eps: float = 8 / 255, eps_y: float = 0.5) -> Recipe:
    """One untargeted step with label smoothing (Table 5)."""
    return Recipe(attack=FGSM(eps=eps, random_start=True), label=Smooth(eps_y))


@RECIPES.register("R-MC-LS")
def r_mc_ls(*, eps: float = 8 / 255, eps_y: float = 0.5) -> Recipe:
    """With label smoothing (Table 5)."""
    return Recipe(attack=_one_step(eps), label=Smooth(eps_y))


@RECIPES.register("R-MC-LA")
def r_mc_la(*, eps: float = 8 / 255, beta: float = 9.0, gamma: float = 0.01) -> Recipe:
    """With the adversarial label: the paper's method (Tables 5 to 8, Figure 1)."""
    return Recipe(attack=_one_step(eps), label=Adversarial(beta, gamma))


@RECIPES.register("R-MC-LA-5F")
def r_mc_la_five_passes(*, eps: float = 8 / 255, beta: float = 9.0, gamma: float = 0.01) -> Recipe:
    """R-MC-LA a sixth cheaper: target and label are read from the attack's own forward pass, at its random start.

    Five passes a step where the paper's method takes six; not in the paper.
    """
    return SharedForward(attack=_one_step(eps), label=Adversarial(beta, gamma))


@RECIPES.register("R-MC-LA-2step")
def r_mc_la_two_steps(*, eps: float = 16 / 255, beta: float = 100.0, gamma: float = 0.01) -> Recipe:
    """Two steps of half the budget, for budgets at which one step leaks the label: ImageNet's recipe (Table 9)."""
    attack = PGD(eps=eps, step_size=eps / 2, num_steps=2, target="mc")
    return Recipe(attack=attack, label=Adversarial(beta, gamma))


@RECIPES.register("R-RAND-LA")
def r_rand_la(*, eps: float = 8 / 255, beta: float = 9.0, gamma: float = 0.01) -> Recipe:
    """Towards a wrong class drawn for each image."""
    return Recipe(attack=FGSM(eps=eps, target="random", random_start=True), label=Adversarial(beta, gamma))


@RECIPES.register("R-MOSA-LA")
def r_mosa_la(*, eps: float = 8 / 255, beta: float = 9.0, gamma: float = 0.01) -> Recipe:
    """Towards the class whose boundary is nearest, as the last layer's weights have it."""
    return NearestBoundary(attack=_one_step(eps), label=Adversarial(beta, gamma))


@dataclass(frozen=True, kw_only=True)
class SharedForward(Recipe):
    """One targeted step whose start is all that passes the network: clean images never do."""

    def craft(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, rng: BatchRNG) -> tuple[Tensor, Tensor]:
        assert isinstance(self.attack, FGSM)
        ball = LinfBall.around(x, self.attack.eps)
        start = ball.random_start(rng).requires_grad_()
        with torch.enable_grad():
            logits = logits_fn(start)
            gained = -cross_entropy(logits, largest_other(logits.detach(), y).indices)
            gradient = input_gradient(gained, start)
        x_adv = FixedSteps(self.attack.eps).advance(ball, start.detach(), gradient, gained.detach())
        return ball.check(x_adv), self.label(y, logits.detach)


@dataclass(frozen=True, kw_only=True)
class NearestBoundary(Recipe):
    """The target is the class with the smallest gap of logits for the distance between the classes' weights."""

    def perturb(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, rng: BatchRNG, clean_logits: CleanLogits) -> Tensor:
        assert self.attack is not None
        target = nearest_boundary(clean_logits(), y, class_weights(logits_fn))
        return replace(self.attack, target=target)(logits_fn, x, y, generator=rng)


def nearest_boundary(logits: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """The class other than y with the least (z_y - z_k) / ||w_y - w_k||.

    Args:
        logits: (B, K) of the clean images.  y: (B,) int64.  weights: (K, D), a row a class.
    Returns:
        (B,) int64.
    Source: the authors' release, target MOSA; the distance to a linear boundary, Moosavi-Dezfooli et al. 2016,
        arXiv:1511.04599.
    """
    gap = logits.gather(1, y[:, None]) - logits
    distance = torch.cdist(weights.float(), weights.float())[y]
    return (gap / distance).scatter(1, y[:, None], torch.inf).argmin(1)


def class_weights(model: LogitsFn) -> Tensor:
    """The rows (K, D) of a network's last linear layer.

    Raises:
        ValueError: it has none.
    """
    layers = (
        [layer for layer in model.modules() if isinstance(layer, nn.Linear)] if isinstance(model, nn.Module) else []
    )
    if not layers:
        raise InputError("recipe R-MOSA-LA needs a network that ends in a linear layer")
    return layers[-1].weight.detach()
