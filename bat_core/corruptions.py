"""What is computed from a model's answers under common corruptions.

Source: Hendrycks and Dietterich 2019, arXiv:1903.12261.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bat_core.corruption_names import ALEXNET_ERRORS, CORRUPTIONS
from bat_core.stats import Z95, Interval


@dataclass(frozen=True)
class Corrupted:
    """Whether each image is classified correctly: for each corruption, (severities, N) bool."""

    correct: Mapping[str, npt.NDArray[np.bool_]]

    @property
    def accuracies(self) -> dict[str, list[float]]:
        """Accuracy in [0, 1] by corruption, at each severity."""
        return {name: [float(share) for share in correct.mean(1)] for name, correct in self.correct.items()}

    @property
    def means(self) -> dict[str, float]:
        """Mean accuracy over severities, by corruption."""
        return {name: float(correct.mean()) for name, correct in self.correct.items()}

    @property
    def mean(self) -> float:
        """Mean accuracy over corruptions and severities."""
        return float(np.mean(list(self.means.values())))

    @cached_property
    def interval(self) -> Interval:
        """A 95 % interval of `mean` over the draw of images, of which each is met under every corruption.

        It is of the mean of the images' own shares, and needs the same images at the same places everywhere.
        """
        shares = np.mean([correct.mean(0) for correct in self.correct.values()], axis=0)
        half = Z95 * float(shares.std(ddof=1)) / math.sqrt(len(shares)) if len(shares) > 1 else 1.0
        return Interval(max(self.mean - half, 0.0), min(self.mean + half, 1.0))

    @property
    def complete(self) -> bool:
        """Whether all fifteen corruptions are there."""
        return set(CORRUPTIONS) <= set(self.correct)

    def mce(self) -> float:
        """The mean corruption error of ImageNet-C: errors relative to AlexNet's, which has 1; lower is better."""
        ratios = [(1 - self.means[name]) / (ALEXNET_ERRORS[name] / 100) for name in CORRUPTIONS]
        return float(np.mean(ratios))
