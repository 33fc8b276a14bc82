"""What a source of models is: a prefix such as `timm:`, and how the name after it becomes a module."""

import contextlib
import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import ModuleType
from typing import ClassVar

from torch import nn

from bat_core.adapter.importing import FACTORY, user_code
from bat_core.adapter.normalize import Normalization
from bat_core.environment import environment
from bat_core.errors import InputError
from bat_core.registry import Registry

PLAIN = "package.module"  # the source of names without a known prefix
EXTRA = "bat-sweeps"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a model is built for. `dataset` is the data set's name; `image_shape` is (C, H, W)."""

    dataset: str
    num_classes: int
    image_shape: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Built:
    """What a source built: a module, the normalisation of its images, if the source knows one, and what to tell."""

    module: nn.Module
    normalization: Normalization | None = None
    said: tuple[str, ...] = ()


class Source(ABC):
    """Builds models by name. A subclass is one file, registered under its prefix."""

    form: ClassVar[str]  # as users write it, such as timm:NAME
    seeded: ClassVar[bool] = True  # building a name twice gives the same weights
    takes_weights: ClassVar[bool] = True  # whether --weights can replace the weights of the source

    def resolve(self, name: str) -> str:
        """The name as it is stored: valid in any working folder and process.

        Raises:
            InputError: the name cannot be valid.
        """
        return name

    def complete(self, name: str, target: Target) -> str:  # noqa: ARG002
        """The name with what it leaves to the data set."""
        return name

    def title(self, name: str) -> str:
        """What the model is called in tables."""
        return name

    @abstractmethod
    def load(self, name: str, target: Target | None) -> Built:
        """A model with the weights that the source has for it.

        Raises:
            InputError: the package is missing, or the name is unknown.
        """

    def architecture(self, name: str, target: Target | None) -> Built:
        """A model whose weights are still to be loaded or trained; they are drawn from torch's global generator.

        Raises:
            InputError: the package is missing, or the name is unknown.
        """
        return self.load(name, target)


SOURCES: Registry[type[Source]] = Registry("model source", "bat_core.adapter.sources")


def split_name(name: str) -> tuple[str, str] | None:
    """(prefix, rest) of the name of a model: `timm:resnet18` gives ("timm", "resnet18").

    A name without a known prefix that reads package.module:factory belongs to the source "package.module".
    """
    prefix, colon, rest = name.partition(":")
    if colon and rest and prefix in SOURCES.names() and prefix != PLAIN:
        return prefix, rest
    return (PLAIN, name) if FACTORY.fullmatch(name) else None


def find_source(name: str) -> tuple[Source, str]:
    """The source of a model, and the rest of its name.

    Raises:
        InputError: no source has such names.
    """
    found = split_name(name)
    if found is None:
        raise InputError(f"model {name!r} is none of {', '.join(source_forms())}")
    prefix, rest = found
    return SOURCES.find(prefix)[0](), rest


def source_forms() -> tuple[str, ...]:
    """How users write the names of every source, sorted."""
    return tuple(sorted(SOURCES.find(prefix)[0].form for prefix in SOURCES.names()))


def installed(package: str, *, extra: str, what: str) -> ModuleType:
    """Import an optional package.

    Raises:
        InputError: it is not installed, or its import fails.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package.partition(".")[0]:
            raise InputError(
                f"{what}: {package} needs the package {error.name!r}: pip install '{EXTRA}[{extra}]'"
            ) from error
        raise InputError(
            f"{what} needs the package {error.name!r}, which is not installed: pip install '{EXTRA}[{extra}]'"
        ) from error
    except Exception as error:
        with user_code(f"{what}: the package {package!r} cannot be imported"):
            raise error


def no_pickles() -> contextlib.AbstractContextManager[None]:
    """Let torch.load read tensors only in the body, whatever a package asks of it."""
    return environment({"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1"})
