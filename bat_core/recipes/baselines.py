"""What bilateral training is compared with."""

from bat_core.attacks import FGSM, PGD
from bat_core.recipes.base import RECIPES, Recipe


@RECIPES.register("Undefended")
def undefended() -> Recipe:
    """Plain training on clean images."""
    return Recipe()


@RECIPES.register("FGSM")
def fgsm(*, eps: float = 8 / 255) -> Recipe:
    """One untargeted step from the clean image, which leaks the label (Table 3).

    Source: Goodfellow et al. 2015, arXiv:1412.6572; label leaking, Kurakin et al. 2017, arXiv:1611.01236.
    """
    return Recipe(attack=FGSM(eps=eps))


@RECIPES.register("R-FGSM")
def r_fgsm(*, eps: float = 8 / 255) -> Recipe:
    """One untargeted step from a random start (Table 3)."""
    return Recipe(attack=FGSM(eps=eps, random_start=True))


@RECIPES.register("Madry")
def madry(*, eps: float = 8 / 255) -> Recipe:
    """PGD7-2: seven steps of a quarter of the budget from a random start.

    Source: Madry et al. 2018, arXiv:1706.06083 (steps of 2 pixels at a budget of 8).
    """
    return Recipe(attack=PGD(eps=eps, step_size=eps / 4, num_steps=7))
