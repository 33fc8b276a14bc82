"""`timm:NAME`: the networks of the package timm, with random weights."""

import difflib
from functools import partial
from typing import Any

from torch import nn

from bat_core.adapter.importing import user_code
from bat_core.errors import InputError
from bat_core.models.base import MODELS, ImageShape, ModelFactory, ToUnitRange

PREFIX = "timm:"


@MODELS.register_open(f"{PREFIX}<name>", pattern=rf"{PREFIX}[\w.]+")
def from_timm(name: str) -> ModelFactory:
    """The builder of one of timm's networks, for images in [0, 1], which it maps to [-1, 1]."""
    return partial(_normalised, name.removeprefix(PREFIX))


def timm_network(name: str, *, num_classes: int, image_shape: ImageShape) -> nn.Module:
    """timm's network `name` for images that are already normalised; its weights come from torch's global generator.

    Raises:
        InputError: timm is not installed, has no such network, or cannot build it for these images.
    """
    try:
        import timm  # noqa: PLC0415 (an optional package)
    except ImportError as error:
        raise InputError(
            f"model '{PREFIX}{name}' needs the package timm, which is not installed: pip install 'bat-sweeps[timm]'"
        ) from error
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ": timm.list_models() lists the known ones"
        raise InputError(f"unknown timm network {architecture!r}{hint}")
    with user_code(f"model '{PREFIX}{name}' for images {image_shape}"):
        return sized_network(timm, name, num_classes=num_classes, image_shape=image_shape)


def sized_network(timm: Any, name: str, *, num_classes: int, image_shape: ImageShape) -> nn.Module:
    """`timm.create_model` with random weights, for images of this shape. Raises whatever timm does."""
    wanted: dict[str, Any] = {"pretrained": False, "num_classes": num_classes, "in_chans": image_shape[0]}
    try:  # transformers must know the size of the images, and convolutional networks refuse it
        network = timm.create_model(name, img_size=image_shape[1:], **wanted)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        network = timm.create_model(name, **wanted)
    assert isinstance(network, nn.Module)
    return network


def _normalised(name: str, *, num_classes: int, image_shape: ImageShape) -> nn.Module:
    return nn.Sequential(ToUnitRange(), timm_network(name, num_classes=num_classes, image_shape=image_shape))
