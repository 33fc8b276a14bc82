"""Bilateral adversarial training: one targeted step from a random start, with a perturbed label.

Source: Wang and Zhang 2019, sections 4 and 5.1; RAND and MOSA from the authors' release. In names, R- means random
start, MC most confusing target, LS label smoothing and LA label adversary.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bat_core.attacks import FGSM, PGD, LogitsFn
from bat_core.attacks.gradient import FixedSteps, input_gradient
from bat_core.errors import InputError
from bat_core.losses import cross_entropy, largest_other
from bat_core.norms import LINF, Norm
from bat_core.recipes.base import RECIPES, Adversarial, CleanLogits, Recipe, Smooth
from bat_core.rng import BatchRNG
from bat_core.threat import ball_around


def _one_step(eps: float, norm: Norm) -> FGSM:
    return FGSM(eps=eps, norm=norm, target="mc", random_start=True)


@RECIPES.register("MC")
def mc(*, eps: float = 8 / 255, norm: Norm = LINF) -> Recipe:
    """One step towards the most confusing class from the clean image (Table 3)."""
    return Recipe(attack=FGSM(eps=eps, norm=norm, target="mc"))


@RECIPES.register("R-MC")
def r_mc(*, eps: float = 8 / 255, norm: Norm = LINF) -> Recipe:
    """One step towards the most confusing class from a random start; only the image is attacked (Table 3)."""
    return Recipe(attack=_one_step(eps, norm))


@RECIPES.register("R-FGSM-LS")
def r_fgsm_ls(*, eps: float = 8 / 255, eps_y: float = 0.5, norm: Norm = LINF) -> Recipe:
    """One untargeted step with label smoothing (Table 5)."""
    return Recipe(attack=FGSM(eps=eps, norm=norm, random_start=True), label=Smooth(eps_y))


@RECIPES.register("R-MC-LS")
def r_mc_ls(*, eps: float = 8 / 255, eps_y: float = 0.5, norm: Norm = LINF) -> Recipe:
    """R-MC with label smoothing (Table 5)."""
    return Recipe(attack=_one_step(eps, norm), label=Smooth(eps_y))


@RECIPES.register("R-MC-LA")
def r_mc_la(*, eps: float = 8 / 255, beta: float = 9.0, gamma: float = 0.01, norm: Norm = LINF) -> Recipe:
    """R-MC with the adversarial label: the paper's method (Tables 5 to 8, Figure 1)."""
    return Recipe(attack=_one_step(eps, norm), label=Adversarial(beta, gamma))


@RECIPES.register("R-MC-LA-5F")
def r_mc_la_five_passes(*, eps: float = 8 / 255, beta: float = 9.0, gamma: float = 0.01, norm: Norm = LINF) -> Recipe:
    """R-MC-LA with one pass fewer: target and label come from the attack's own forward pass at its random start.

    A step costs five passes instead of the paper's six. Not in the paper.
    """
    return SharedForward(attack=_one_step(eps, norm), label=Adversarial(beta, gamma))


@RECIPES.register("R-MC-LA-2step")
def r_mc_la_two_steps(*, eps: float = 16 / 255, beta: float = 100.0, gamma: float = 0.01, norm: Norm = LINF) -> Recipe:
    """Two steps of half the budget, for budgets at which one step leaks the label: the ImageNet recipe (Table 9)."""
    attack = PGD(eps=eps, norm=norm, step_size=eps / 2, num_steps=2, target="mc")
    return Recipe(attack=attack, label=Adversarial(beta, gamma))


@RECIPES.register("R-RAND-LA")
def r_rand_la(*, eps: float = 8 / 255, beta: float = 9.0, gamma: float = 0.01, norm: Norm = LINF) -> Recipe:
    """One step towards a random wrong class, with the adversarial label."""
    return Recipe(attack=FGSM(eps=eps, norm=norm, target="random", random_start=True), label=Adversarial(beta, gamma))


@RECIPES.register("R-MOSA-LA")
def r_mosa_la(*, eps: float = 8 / 255, beta: float = 9.0, gamma: float = 0.01, norm: Norm = LINF) -> Recipe:
    """One step towards the class with the nearest decision boundary, estimated from the weights of the last layer."""
    return NearestBoundary(attack=_one_step(eps, norm), label=Adversarial(beta, gamma))


@dataclass(frozen=True, kw_only=True)
class SharedForward(Recipe):
    """One targeted step that shares its forward pass with the label: clean images never pass the network."""

    def craft(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, rng: BatchRNG) -> tuple[Tensor, Tensor]:
        assert isinstance(self.attack, FGSM)
        ball = ball_around(x, self.attack.eps, self.attack.norm)
        start = ball.random_start(rng).requires_grad_()
        with torch.enable_grad():
            logits = logits_fn(start)
            values = -cross_entropy(logits, largest_other(logits.detach(), y).indices)
            gradient = input_gradient(values, start)
        x_adv = FixedSteps(self.attack.eps).advance(ball, start.detach(), gradient, values.detach())
        return ball.check(x_adv), self.label(y, logits.detach)


@dataclass(frozen=True, kw_only=True)
class NearestBoundary(Recipe):
    """The target is the class with the smallest ratio of logit gap to distance between class weights."""

    def check(self, model: nn.Module, num_classes: int) -> None:
        super().check(model, num_classes)
        if (rows := len(class_weights(model))) != num_classes:
            raise InputError(
                "recipe R-MOSA-LA needs a network whose last linear layer has one row per class: it has"
                f" {rows} rows for {num_classes} classes, so use another model or recipe"
            )

    def perturb(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, rng: BatchRNG, clean_logits: CleanLogits) -> Tensor:
        assert self.attack is not None
        target = nearest_boundary(clean_logits(), y, class_weights(logits_fn))
        return replace(self.attack, target=target)(logits_fn, x, y, generator=rng)


def nearest_boundary(logits: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """The class other than y with the least (z_y - z_k) / ||w_y - w_k||.

    Args:
        logits: (B, K) of the clean images.  y: (B,) int64.  weights: (K, D), one row per class.
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
        ValueError: the network has no linear layer.
    """
    layers = (
        [layer for layer in model.modules() if isinstance(layer, nn.Linear)] if isinstance(model, nn.Module) else []
    )
    if not layers:
        raise InputError("recipe R-MOSA-LA needs a network that ends in a linear layer: use another model or recipe")
    return layers[-1].weight.detach()
