"""Networks of users: `package.module:factory`, a function that returns a module."""

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bat_core.adapter.importing import import_object, user_code
from bat_core.errors import InputError
from bat_core.models.base import MODELS, ImageShape, ModelFactory

PACKAGES = ("timm", "torchvision")  # these prefixes name networks of a package
PATTERN = rf"(?!(?:{'|'.join(PACKAGES)}):)[A-Za-z_][\w.]*:[A-Za-z_]\w*"


@MODELS.register_open("package.module:factory", pattern=PATTERN)
def from_factory(reference: str) -> ModelFactory:
    """The builder of a user's network.

    The factory is called with `num_classes=` and `image_shape=` (C, H, W), each if its signature takes it by name (or
    has `**kwargs`), and returns a new module from (B, C, H, W) in [0, 1] to (B, num_classes) logits. Weights are drawn
    from the global generators of torch, numpy and random: all three follow the trial's seed while it runs.

    Raises:
        InputError: the module cannot be imported, or has no such function.
    """
    what = f"model {reference!r}"
    factory = import_object(reference, what=what)
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(
            f"{what} is {_a(factory)}, not a function that makes a network: write a function that returns a new module,"
            " so that the initial weights come from the trial's seed"
        )

    def build(*, num_classes: int, image_shape: ImageShape) -> nn.Module:
        arguments = accepted(factory, what, num_classes=num_classes, image_shape=image_shape)
        with all_generators(), user_code(f"{what}, called with {_shown(arguments)}"):
            made = factory(**arguments)
        if not isinstance(made, nn.Module):
            raise InputError(f"{what} returns {_a(made)}: it must return a torch.nn.Module")
        if any(is_lazy(tensor) for tensor in chain(made.parameters(), made.buffers())):
            with torch.no_grad(), user_code(f"{what} on images {image_shape}"):
                made.eval()(torch.zeros(2, *image_shape))
        return made.train()

    return build


def accepted(factory: Callable[..., Any], what: str, **offered: Any) -> dict[str, Any]:
    """The arguments among `offered` that a user's function takes by name; all of them if it has `**kwargs`.

    Raises:
        InputError: it needs an argument that is not offered.
    """
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # some functions written in C have no signature
        return {}
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        named |= set(offered)
    for p in parameters:
        required = p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if required and (p.name not in offered or p.kind is p.POSITIONAL_ONLY):
            raise InputError(
                f"{what} needs an argument {p.name!r}: give it a default; a factory is called with"
                f" {' and '.join(offered)} if it takes them by name, and with nothing else"
            )
    return {name: value for name, value in offered.items() if name in named}


@contextmanager
def all_generators() -> Iterator[None]:
    """Seed numpy's and Python's global generators from torch's in the body, and restore them after it."""
    theirs, numpys = random.getstate(), np.random.get_state()
    seed = int(torch.randint(2**31, ()))
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(theirs)
        np.random.set_state(numpys)


def _a(value: Any) -> str:
    return "a module" if isinstance(value, nn.Module) else f"of type {type(value).__name__}"


def _shown(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in arguments.items()) or "no arguments"
