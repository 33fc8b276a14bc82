"""Baselines for bilateral training."""

from bat_core.attacks import FGSM, PGD
from bat_core.norms import LINF, Norm
from bat_core.recipes.base import RECIPES, Adversarial, Recipe


@RECIPES.register("Undefended")
def undefended() -> Recipe:
    """Plain training on clean images."""
    return Recipe()


@RECIPES.register("FGSM")
def fgsm(*, eps: float = 8 / 255, norm: Norm = LINF) -> Recipe:
    """One untargeted step from the clean image; prone to label leaking (Table 3).

    Source: Goodfellow et al. 2015, arXiv:1412.6572; label leaking, Kurakin et al. 2017, arXiv:1611.01236.
    """
    return Recipe(attack=FGSM(eps=eps, norm=norm))


@RECIPES.register("R-FGSM")
def r_fgsm(*, eps: float = 8 / 255, norm: Norm = LINF) -> Recipe:
    """One untargeted step from a random start (Table 3)."""
    return Recipe(attack=FGSM(eps=eps, norm=norm, random_start=True))


@RECIPES.register("LL")
def ll(*, eps: float = 8 / 255, norm: Norm = LINF) -> Recipe:
    """One step towards the least likely class from the clean image; also prone to label leaking (Table 3).

    Source: Kurakin et al. 2017, arXiv:1611.01236.
    """
    return Recipe(attack=FGSM(eps=eps, norm=norm, target="ll"))


@RECIPES.register("R-LL")
def r_ll(*, eps: float = 8 / 255, norm: Norm = LINF) -> Recipe:
    """One step towards the least likely class from a random start (Table 3)."""
    return Recipe(attack=FGSM(eps=eps, norm=norm, target="ll", random_start=True))


def _pgd7(eps: float, norm: Norm) -> PGD:
    return PGD(eps=eps, norm=norm, step_size=eps / 4, num_steps=7)


@RECIPES.register("Madry")
def madry(*, eps: float = 8 / 255, norm: Norm = LINF) -> Recipe:
    """PGD7-2: seven steps of a quarter of the budget, from a random start.

    Source: Madry et al. 2018, arXiv:1706.06083 (steps of 2 pixels for a budget of 8).
    """
    return Recipe(attack=_pgd7(eps, norm))


@RECIPES.register("Madry-LA")
def madry_la(*, eps: float = 8 / 255, beta: float = 9.0, gamma: float = 0.01, norm: Norm = LINF) -> Recipe:
    """PGD7-2 with the adversarial label (Table 5)."""
    return Recipe(attack=_pgd7(eps, norm), label=Adversarial(beta, gamma))


@RECIPES.register("PGD2-8")
def pgd2_8(*, eps: float = 8 / 255, norm: Norm = LINF) -> Recipe:
    """Two steps as long as the budget, from a random start; weaker than PGD7-2 in training (Table 1)."""
    return Recipe(attack=PGD(eps=eps, norm=norm, step_size=eps, num_steps=2))
