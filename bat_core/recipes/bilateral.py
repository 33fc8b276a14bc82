"""Bilateral adversarial training: one targeted step from a random start, with a perturbed label.

Source: Wang and Zhang 2019, sections 4 and 5.1. R- random start, MC most confusing target,
LS label smoothing, LA label adversary.
"""

from bat_core.attacks import FGSM
from bat_core.recipes.base import RECIPES, Adversarial, Recipe, Smooth


def _one_step(eps: float) -> FGSM:
    return FGSM(eps=eps, target="mc", random_start=True)


@RECIPES.register("R-MC")
def r_mc(*, eps: float = 8 / 255) -> Recipe:
    """The image alone is attacked (Table 3)."""
    return Recipe(attack=_one_step(eps))


@RECIPES.register("R-MC-LS")
def r_mc_ls(*, eps: float = 8 / 255, eps_y: float = 0.5) -> Recipe:
    """With label smoothing (Table 5)."""
    return Recipe(attack=_one_step(eps), label=Smooth(eps_y))


@RECIPES.register("R-MC-LA")
def r_mc_la(*, eps: float = 8 / 255, beta: float = 9.0, gamma: float = 0.01) -> Recipe:
    """With the adversarial label: the paper's method (Tables 5 to 8, Figure 1)."""
    return Recipe(attack=_one_step(eps), label=Adversarial(beta, gamma))
