"""torchvision's residual networks, as trained on ImageNet in the paper; without pretrained weights."""

from torch import nn

from bat_core.errors import InputError
from bat_core.models.base import MODELS, ImageShape, ToUnitRange

DEPTHS = (18, 34, 50, 101, 152)
STRIDE = 32  # total stride from the image to the last feature map


@MODELS.register("resnet50", pattern=r"resnet(?P<depth>\d+)", form="resnet<depth>")
def resnet(*, num_classes: int, image_shape: ImageShape, depth: int) -> nn.Module:
    """ResNet-depth for large photographs: a 7x7 stem with a total stride of 4, then four stages.

    Source: He et al. 2016, Deep residual learning for image recognition, arXiv:1512.03385.
    """
    from torchvision import models

    if depth not in DEPTHS:
        raise InputError(f"model 'resnet{depth}': depth must be one of {', '.join(map(str, DEPTHS))}")
    channels, height, width = image_shape
    if channels != 3 or min(height, width) < STRIDE:
        raise InputError(
            f"model 'resnet{depth}' needs colour images of at least {STRIDE}x{STRIDE}, not"
            f" {channels}x{height}x{width}: use small_cnn, preact_resnet18 or a wide ResNet"
        )
    return nn.Sequential(ToUnitRange(), models.get_model(f"resnet{depth}", num_classes=num_classes))
