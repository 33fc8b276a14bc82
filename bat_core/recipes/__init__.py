"""Training recipes under the paper's names. A new file that registers functions here adds recipes."""

from bat_core.recipes.base import (
    RECIPES,
    Adversarial,
    Label,
    OneHot,
    Recipe,
    Smooth,
    budget_params,
    get_recipe,
    recipe_names,
    recipe_params,
)

__all__ = [
    "RECIPES",
    "Adversarial",
    "Label",
    "OneHot",
    "Recipe",
    "Smooth",
    "budget_params",
    "get_recipe",
    "recipe_names",
    "recipe_params",
]
