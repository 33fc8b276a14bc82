"""A convolutional network that is small enough to train interactively on a laptop."""

from collections.abc import Callable

from torch import nn

from bat_core.errors import InputError
from bat_core.models.base import MODELS, ImageShape, ToUnitRange

SMALL_IMAGE = 16  # up to this height three layers suffice, and the feature maps are too small to be halved twice
GROUPS = 8


@MODELS.register("small_cnn", pattern=r"small_cnn(?:_(?P<width>\d+))?", form="small_cnn_<width>")
def small_cnn(*, num_classes: int, image_shape: ImageShape, width: int = 32) -> nn.Module:
    """Three 3x3 convolutions for images up to 16 pixels, five for larger ones; batch norm after each."""
    return _build(num_classes, image_shape, width, nn.BatchNorm2d)


@MODELS.register("small_cnn_gn", pattern=r"small_cnn_gn(?:_(?P<width>\d+))?", form="small_cnn_gn_<width>")
def small_cnn_gn(*, num_classes: int, image_shape: ImageShape, width: int = 32) -> nn.Module:
    """`small_cnn` with group norm. It is independent of the batch, so N workers compute the same as one."""
    if width % GROUPS:
        raise InputError(f"model 'small_cnn_gn_{width}': width must be a multiple of {GROUPS}")
    return _build(num_classes, image_shape, width, lambda channels: nn.GroupNorm(GROUPS, channels))


def _build(num_classes: int, image_shape: ImageShape, width: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    if width < 1:
        raise InputError("model 'small_cnn': width must be at least 1")
    in_channels, height, _ = image_shape
    # (channels, stride) per convolution
    plan = [(width, 1), (2 * width, 2), (2 * width, 1)]
    if height > SMALL_IMAGE:
        plan = [(width, 1), (2 * width, 2), (2 * width, 1), (4 * width, 2), (4 * width, 1)]
    layers: list[nn.Module] = [ToUnitRange()]
    for channels, stride in plan:
        layers += [
            nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False),
            norm(channels),
            nn.ReLU(inplace=True),
        ]
        in_channels = channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_channels, num_classes))
