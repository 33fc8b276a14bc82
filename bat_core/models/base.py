"""Builds models by name. Every model takes images in [0, 1] and normalises them itself."""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bat_core.errors import InputError
from bat_core.registry import Registry

ImageShape: TypeAlias = tuple[int, int, int]
ModelFactory: TypeAlias = Callable[..., nn.Module]
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
    sizes = {key: int(text) if text.isdecimal() else text for key, text in captured.items()}
    return factory(num_classes=num_classes, image_shape=image_shape, **sizes)


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
