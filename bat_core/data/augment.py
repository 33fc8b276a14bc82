"""Conversion from uint8 to [0, 1], random crops and flips, on the device of the images."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bat_core.rng import BatchRNG

MID_GREY = 128


@dataclass(frozen=True)
class Augmentation:
    """Pad with `pad` pixels of mid-grey and crop at random; if `flip`, mirror left to right with probability 1/2."""

    pad: int = 0
    flip: bool = False

    def __call__(self, images: Tensor, rng: BatchRNG) -> Tensor:
        """uint8, or float in [0, 1], (B, C, H, W) -> the same, each image augmented independently."""
        if self.pad:
            images = self._crop(images, rng)
        if self.flip:
            mirrored = rng.integers(2, images).bool()[:, None, None, None]
            images = torch.where(mirrored, images.flip(3), images)
        return images

    def _crop(self, images: Tensor, rng: BatchRNG) -> Tensor:
        size, _, height, width = images.shape
        grey = MID_GREY / 255 if images.is_floating_point() else MID_GREY
        padded = F.pad(images, (self.pad,) * 4, value=grey)
        device = images.device
        top = rng.integers(2 * self.pad + 1, images)[:, None] + torch.arange(height, device=device)
        left = rng.integers(2 * self.pad + 1, images)[:, None] + torch.arange(width, device=device)
        each = torch.arange(size, device=device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[each, top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2)


NO_AUGMENTATION = Augmentation()
CROP_AND_FLIP = Augmentation(pad=4, flip=True)
CROP = Augmentation(pad=4)


def to_unit(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 -> [0, 1]; floating-point images are returned unchanged."""
    return images if images.is_floating_point() else images.to(dtype) / 255


def shifts(height: int, width: int) -> Augmentation:
    """Shifts by up to 1/8 of the shorter side, without mirroring: nothing is known about what the images show."""
    return Augmentation(pad=min(height, width) // 8)
