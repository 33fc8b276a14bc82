"""`torchvision:NAME`: torchvision's classification networks, with random weights."""

from functools import partial
from typing import Any

from torch import nn

from bat_core.adapter.importing import user_code
from bat_core.errors import InputError, unknown_name
from bat_core.models.base import MODELS, ImageShape, ModelFactory, ToUnitRange

PREFIX = "torchvision:"
WITH_AUXILIARY = ("googlenet", "inception_v3")  # in training they return the auxiliary classifiers' logits too


@MODELS.register_open(f"{PREFIX}<name>", pattern=rf"{PREFIX}\w+")
def from_torchvision(name: str) -> ModelFactory:
    """The builder of one of torchvision's networks, for colour images in [0, 1], which it maps to [-1, 1].

    Raises:
        InputError: torchvision has no such network for classification.
    """
    return partial(_normalised, name.removeprefix(PREFIX))


def torchvision_network(name: str, *, num_classes: int, image_shape: ImageShape) -> nn.Module:
    """torchvision's network `name` for normalised colour images; its weights come from torch's global generator.

    Raises:
        InputError: there is no such network for classification, or it cannot be built for these images.
    """
    import torchvision.models

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise unknown_name("torchvision network", name, known)
    channels, height, width = image_shape
    if channels != 3:
        raise InputError(
            f"model '{PREFIX}{name}' needs colour images, not {channels}x{height}x{width}: use timm:NAME, whose"
            " networks take any number of channels, or small_cnn"
        )
    with user_code(f"model '{PREFIX}{name}' for images {image_shape}"):
        network = torchvision.models.get_model(
            name, weights=None, num_classes=num_classes, **architecture_options(name, height)
        )
    assert isinstance(network, nn.Module)
    return network


def architecture_options(name: str, image_size: int | None) -> dict[str, Any]:
    """What a builder is told besides classes: a transformer the size of the images, and no auxiliary classifiers."""
    options: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name in WITH_AUXILIARY else {}
    if image_size is not None and name.startswith("vit_"):
        options["image_size"] = image_size
    return options


def _normalised(name: str, *, num_classes: int, image_shape: ImageShape) -> nn.Module:
    return nn.Sequential(ToUnitRange(), torchvision_network(name, num_classes=num_classes, image_shape=image_shape))
