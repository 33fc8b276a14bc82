"""Wide residual networks in the form used by the paper's authors."""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from bat_core.errors import InputError
from bat_core.models.base import MODELS, ImageShape, ToUnitRange, global_average, require_size

SLOPE = 0.1  # of the leaky ReLU


@MODELS.register("wrn_28_10", pattern=r"wrn_(?P<depth>\d+)_(?P<width>\d+)", form="wrn_<depth>_<width>")
def wide_resnet(*, num_classes: int, image_shape: ImageShape, depth: int, width: int) -> nn.Module:
    """WRN-depth-width: three stages of (depth - 4) / 6 blocks, 16, 32 and 64 times `width` channels.

    Source: Zagoruyko and Komodakis 2016, arXiv:1605.07146, in the form of the authors of BAT: leaky ReLU with slope
    0.1, and shortcuts by average pooling and zero-padded channels.
    """
    if depth < 10 or (depth - 4) % 6:
        raise InputError(f"model 'wrn_{depth}_{width}': depth must be 6n + 4, such as 10, 16, 22, 28 or 34")
    if width < 1:
        raise InputError(f"model 'wrn_{depth}_{width}': width must be at least 1")
    require_size(f"wrn_{depth}_{width}", image_shape, multiple=4)
    return WideResNet(num_classes, image_shape[0], blocks=(depth - 4) // 6, width=width)


class WideResNet(nn.Module):
    """(B, C, H, W) in [0, 1] -> (B, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int, *, blocks: int, width: int) -> None:
        super().__init__()
        self.normalize = ToUnitRange()
        self.stem = _conv3x3(in_channels, 16, stride=1)
        channels = (16, 16 * width, 32 * width, 64 * width)
        stages: list[nn.Module] = []
        for stage in range(3):
            for block in range(blocks):
                first = block == 0
                stages.append(
                    PreActBlock(
                        channels[stage] if first else channels[stage + 1],
                        channels[stage + 1],
                        stride=2 if first and stage > 0 else 1,
                    )
                )
        self.blocks = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(channels[3])
        self.head = nn.Linear(channels[3], num_classes)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(self.normalize(x)))
        x = F.leaky_relu(self.norm(x), SLOPE)
        return self.head(global_average(x))


class PreActBlock(nn.Module):
    """Norm, activation and convolution, twice, with a parameter-free shortcut."""

    def __init__(self, in_channels: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv3x3(in_channels, channels, stride=stride)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels, stride=1)
        self.stride = stride
        self.new_channels = channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        out = F.leaky_relu(self.norm1(x), SLOPE)
        out = self.conv1(out)
        out = self.conv2(F.leaky_relu(self.norm2(out), SLOPE))
        return out + self._shortcut(x)

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = F.avg_pool2d(x, self.stride)
        if self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return x


def _conv3x3(in_channels: int, channels: int, *, stride: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (9 * channels)))
    return conv
