"""Pre-activation ResNet-18, the standard network for fast adversarial training."""

import torch.nn.functional as F
from torch import Tensor, nn

from bat_core.errors import InputError
from bat_core.models.base import MODELS, ImageShape, ToUnitRange, global_average, require_size


@MODELS.register("preact_resnet18", pattern=r"preact_resnet18(?:_(?P<width>\d+))?", form="preact_resnet18_<width>")
def preact_resnet18(*, num_classes: int, image_shape: ImageShape, width: int = 64) -> nn.Module:
    """Four stages of two blocks, `width` to 8 `width` channels, for small images (stem without stride).

    Source: He et al. 2016, Identity mappings in deep residual networks, arXiv:1603.05027.
    """
    if width < 1:
        raise InputError("model 'preact_resnet18': width must be at least 1")
    require_size("preact_resnet18", image_shape, multiple=8)
    return PreActResNet18(num_classes, image_shape[0], width)


class PreActResNet18(nn.Module):
    """(B, C, H, W) in [0, 1] -> (B, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__()
        self.normalize = ToUnitRange()
        self.stem = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.blocks = nn.Sequential(
            PreActBlock(width, width, stride=1),
            PreActBlock(width, width, stride=1),
            PreActBlock(width, 2 * width, stride=2),
            PreActBlock(2 * width, 2 * width, stride=1),
            PreActBlock(2 * width, 4 * width, stride=2),
            PreActBlock(4 * width, 4 * width, stride=1),
            PreActBlock(4 * width, 8 * width, stride=2),
            PreActBlock(8 * width, 8 * width, stride=1),
        )
        self.norm = nn.BatchNorm2d(8 * width)
        self.head = nn.Linear(8 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(self.normalize(x)))
        return self.head(global_average(F.relu(self.norm(x))))


class PreActBlock(nn.Module):
    """Norm, activation and convolution, twice; the shortcut is a 1x1 convolution if the shape changes."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        changes = stride != 1 or in_channels != channels
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.norm1(x))
        skip = x if self.shortcut is None else self.shortcut(out)
        out = self.conv1(out)
        return self.conv2(F.relu(self.norm2(out))) + skip
