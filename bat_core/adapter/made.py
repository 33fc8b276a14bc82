"""What factories return, and the one module in it that classifies images."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bat_core.adapter.importing import user_code
from bat_core.errors import InputError

HOLDERS = ("model", "net", "network", "module", "backbone", "classifier")  # attributes that hold the network
RULE = "it must return a torch.nn.Module"


class Function(nn.Module):
    """A callable from images to logits, as a module. The modules that it refers to are its children."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleList({id(module): module for module in _referred_to(function)}.values())

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def as_module(factory: Any, *, what: str) -> nn.Module:
    """The module that a factory stands for: a module, or a function or class that is called without arguments.

    A (model, ...) tuple and a mapping stand for the only module in them, a returned function or callable object for
    itself, and another object for the only module among its usual attributes (model, net, ...).

    Raises:
        InputError: the factory raises, or does not return exactly one module.
    """
    made = factory
    for _ in range(2):  # a factory may return a class
        if isinstance(made, nn.Module) or (made is not factory and not isinstance(made, type)):
            break
        if isinstance(made, torch.jit.ScriptFunction):
            break
        with user_code(f"{what}: the factory must be callable without arguments, and failed"):
            made = made()
    return _module_in(made, what)


def holder(module: nn.Module) -> str:
    """The name of the only usual attribute that holds a module; empty if there is none, or more than one."""
    found = [name for name in HOLDERS if isinstance(getattr(module, name, None), nn.Module)]
    return found[0] if len(found) == 1 else ""


def _module_in(made: Any, what: str) -> nn.Module:
    if isinstance(made, nn.Module):
        return made
    if callable(made):
        return Function(made)
    if isinstance(made, list | tuple):
        parts = list(made)
    elif isinstance(made, Mapping):
        parts = list(made.values())
    else:
        parts = [getattr(made, name, None) for name in HOLDERS]
    modules = {id(part): part for part in parts if isinstance(part, nn.Module)}
    if len(modules) == 1:
        return next(iter(modules.values()))
    kind = type(made).__name__
    if modules:
        raise InputError(f"{what} returns a {kind} with {len(modules)} modules: return the one that classifies images")
    raise InputError(f"{what} returns {kind}: {RULE}")


def _referred_to(function: Any) -> Iterator[nn.Module]:
    """The modules in a callable's attributes, closure and bound arguments."""
    if isinstance(function, functools.partial):
        yield from _referred_to(function.func)
    inner = getattr(function, "__func__", function)
    held = [*getattr(function, "args", ()), *(getattr(function, "keywords", None) or {}).values()]
    held += [getattr(function, "__self__", None), *_cells(inner), *getattr(function, "__dict__", {}).values()]
    for one in held:
        if isinstance(one, nn.Module):
            yield one
        elif one is getattr(function, "__self__", None) and one is not None:
            yield from (value for value in getattr(one, "__dict__", {}).values() if isinstance(value, nn.Module))


def _cells(function: Any) -> Iterator[Any]:
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
