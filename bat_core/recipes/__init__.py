"""Training recipes by the paper's names. A new file here that registers functions adds recipes."""

from bat_core.recipes.base import (
    RECIPES,
    Adversarial,
    Label,
    OneHot,
    Recipe,
    Smooth,
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
    "get_recipe",
    "recipe_names",
    "recipe_params",
]
