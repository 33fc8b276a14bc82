"""Normalisations of images that a model may expect, by name or by numbers."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bat_core.errors import InputError

FORM = "mean/std, such as 0.5/0.25 or 0.49,0.48,0.45/0.25,0.24,0.26"


@dataclass(frozen=True)
class Normalization:
    """(x - mean) / std, for each channel; one number serves all channels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __str__(self) -> str:
        """As --normalize takes it: a known name, or mean/std."""
        for name, known in NORMALIZATIONS.items():
            if known == self:
                return name
        return "/".join(",".join(f"{value:.4g}" for value in numbers) for numbers in (self.mean, self.std))

    def apply(self, x: Tensor) -> Tensor:
        """Normalise x (B, C, H, W)."""
        mean, std = (x.new_tensor(numbers).view(1, -1, 1, 1) for numbers in (self.mean, self.std))
        return (x - mean) / std

    def fits(self, channels: int) -> bool:
        """Whether it can be applied to images with this many channels."""
        return len(self.mean) in (1, channels)


NORMALIZATIONS = {
    "imagenet": Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": Normalization((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "mnist": Normalization((0.1307,), (0.3081,)),
    "half": Normalization((0.5,), (0.5,)),  # [-1, 1]
    "255": Normalization((0.0,), (1 / 255,)),  # [0, 255]
}


class Normalize(nn.Module):
    """Normalises images in [0, 1]; a first layer for a model that was made for normalised ones."""

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.normalization = normalization

    def forward(self, x: Tensor) -> Tensor:
        return self.normalization.apply(x)


def parse_normalization(text: str) -> Normalization:
    """Read --normalize: a known name, or mean/std with one number or one per channel, in units of [0, 1].

    Raises:
        InputError: any other text, or a deviation that is not positive.
    """
    if text in NORMALIZATIONS:
        return NORMALIZATIONS[text]
    try:
        mean, std = (tuple(float(number) for number in part.split(",")) for part in text.split("/"))
    except ValueError:
        names = ", ".join(NORMALIZATIONS)
        raise InputError(f"--normalize={text!r} is neither a known name ({names}) nor {FORM}") from None
    if len(mean) != len(std) or not all(torch.tensor(std) > 0) or not torch.tensor(mean + std).isfinite().all():
        raise InputError(
            f"--normalize={text!r} must give as many means as deviations, and finite, positive deviations: {FORM}"
        )
    return Normalization(mean, std)
