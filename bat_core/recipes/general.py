"""Bilateral training with all settings as parameters, for searches. The named recipes are special cases."""

from bat_core.attacks import PGD
from bat_core.attacks.base import Target
from bat_core.errors import check_choice
from bat_core.norms import LINF, Norm
from bat_core.recipes.base import RECIPES, Adversarial, Label, OneHot, Recipe, Smooth

LABELS = ("one-hot", "smooth", "adversarial")
TARGETS = ("none", "mc", "ll", "random")


@RECIPES.register("BAT")
def bat(
    *,
    eps: float = 8 / 255,
    num_steps: int = 1,
    rel_step_size: float = 1.0,
    target: str = "mc",
    random_start: bool = True,
    label: str = "adversarial",
    beta: float = 9.0,
    gamma: float = 0.01,
    eps_y: float = 0.5,
    norm: Norm = LINF,
) -> Recipe:
    """Any attack on the image with any label. The defaults are R-MC-LA.

    Args:
        eps: in the unit of x and in `norm`.  rel_step_size: a share of eps.  num_steps: >= 1.
        target: "none", "mc", "ll" or "random".  label: "one-hot", "smooth" (eps_y) or "adversarial" (beta, gamma).
    Source: Wang and Zhang 2019, sections 4 and 5.1.
    """
    check_choice("recipe.label", label, LABELS)
    check_choice("recipe.target", target, TARGETS)
    labels: dict[str, Label] = {"one-hot": OneHot(), "smooth": Smooth(eps_y), "adversarial": Adversarial(beta, gamma)}
    targets: dict[str, Target] = {"none": None, "mc": "mc", "ll": "ll", "random": "random"}
    attack = PGD(
        eps=eps,
        norm=norm,
        step_size=rel_step_size * eps,
        num_steps=int(num_steps),
        target=targets[target],
        random_start=random_start,
    )
    return Recipe(attack=attack, label=labels[label])
