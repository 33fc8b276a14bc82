"""What bilateral training is compared with."""

from bat_core.attacks import PGD
from bat_core.recipes.base import RECIPES, Recipe


@RECIPES.register("Undefended")
def undefended() -> Recipe:
    """Plain training on clean images."""
    return Recipe()


@RECIPES.register("Madry")
def madry(*, eps: float = 8 / 255) -> Recipe:
    """PGD7-2: seven steps of a quarter of the budget from a random start.

    Source: Madry et al. 2018, arXiv:1706.06083 (steps of 2 pixels at a budget of 8).
    """
    return Recipe(attack=PGD(eps=eps, step_size=eps / 4, num_steps=7))
