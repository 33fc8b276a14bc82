"""Builds models by name. Every model takes images in [0, 1] and normalises them itself."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bat_core.errors import InputError, brief_repr
from bat_core.registry import Registry

ImageShape: TypeAlias = tuple[int, int, int]
ModelFactory: TypeAlias = Callable[..., nn.Module]
MAX_CLASSES, MAX_CHANNELS, MAX_SIDE = 100_000, 64, 8192
MAX_SIZE = 4096  # depth or width in the name of a family's member
MAX_PARAMETERS = 2**31
MODELS: Registry[ModelFactory] = Registry("model", "bat_core.models")


def build_model(name: str, *, num_classes: int, image_shape: ImageShape) -> nn.Module:
    """A freshly initialised classifier; the weights are drawn from torch's global generator.

    Args:
        name: one of `model_names()`, or a member of a family such as wrn_<depth>_<width>.
        image_shape: (C, H, W).
    Returns:
        A module that takes (B, C, H, W) in [0, 1] and returns (B, num_classes) logits.
    Raises:
        ValueError: unknown name, or a size that the family does not support.
    """
    factory, captured = MODELS.find(name)
    _check_shape(num_classes, image_shape)
    sizes = {key: _size(name, text) if text.isdecimal() else text for key, text in captured.items()}

    def build() -> nn.Module:
        return factory(num_classes=num_classes, image_shape=image_shape, **sizes)

    if sizes:  # a member of a family: its size is counted before memory is taken
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in build().parameters())
        if count > MAX_PARAMETERS:
            raise InputError(f"model {name!r} has {count} parameters: at most {MAX_PARAMETERS} are supported")
    return build()


def _size(name: str, text: str) -> int:
    if len(text) > len(str(MAX_SIZE)) or int(text) > MAX_SIZE:
        raise InputError(f"model {brief_repr(name)} is too large: depth and width are at most {MAX_SIZE}")
    return int(text)


def _check_shape(num_classes: int, image_shape: ImageShape) -> None:
    """Check the sizes that a model's description names before anything of that size is allocated."""
    if not 1 <= num_classes <= MAX_CLASSES:
        raise InputError(f"num_classes={brief_repr(num_classes)} must be 1 to {MAX_CLASSES}")
    if len(image_shape) != 3 or not all(
        1 <= size <= most for size, most in zip(image_shape, (MAX_CHANNELS, MAX_SIDE, MAX_SIDE), strict=True)
    ):
        raise InputError(
            f"image_shape={brief_repr(image_shape)} must have 1 to {MAX_CHANNELS} channels, and a height and width of"
            f" 1 to {MAX_SIDE}"
        )


def model_names() -> tuple[str, ...]:
    """Every model's name, sorted. A family is listed by its default member."""
    return MODELS.names()


class ToUnitRange(nn.Module):
    """[0, 1] -> [-1, 1], as in the paper's footnote 1. Normalisation is part of the model, so eps is in [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def require_size(name: str, image_shape: ImageShape, *, multiple: int) -> None:
    """Check that height and width are multiples of the model's total stride, `multiple`.

    Raises:
        InputError: they are not.
    """
    _, height, width = image_shape
    if height % multiple or width % multiple:
        raise InputError(
            f"model {name!r} needs a height and width that are multiples of {multiple}, not {height}x{width}"
        )


def global_average(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C)."""
    return torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1)
