"""Recipes of users: `package.module:recipe`, a function or class that returns a `Recipe`."""

import functools
import inspect
from typing import Any

from bat_core.adapter.importing import import_object, user_code
from bat_core.errors import InputError
from bat_core.recipes.base import RECIPES, Recipe, RecipeFactory

PLAIN = (bool, int, float, str)


@RECIPES.register_open("package.module:recipe", pattern=r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
def from_factory(reference: str) -> RecipeFactory:
    """The user's function, with a signature of the recipe's parameters: those whose defaults are plain values.

    Other parameters, such as the `attack` and `label` of a subclass of `Recipe`, keep their defaults.

    Raises:
        InputError: the module cannot be imported or has no such function, or a parameter has no default.
    """
    what = f"recipe {reference!r}"
    factory = import_object(reference, what=what)
    if not callable(factory):
        raise InputError(f"{what} is of type {type(factory).__name__}: it must be a function or class")
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} has no signature: its parameters and defaults must be known") from error
    parameters = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for p in parameters:
        if p.default is p.empty or p.kind is p.POSITIONAL_ONLY:
            raise InputError(f"{what}: parameter {p.name!r} needs a default and must be accepted by name")

    @functools.wraps(factory, assigned=("__doc__",), updated=())
    def build(**params: Any) -> Recipe:
        with user_code(what):
            recipe = factory(**params)
        if not isinstance(recipe, Recipe):
            raise InputError(f"{what} returns {type(recipe).__name__}: it must return a bat_core.recipes.Recipe")
        return recipe

    taken = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters if isinstance(p.default, PLAIN)]
    build.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    return build
