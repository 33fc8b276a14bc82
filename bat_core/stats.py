"""Confidence intervals for accuracies."""

import math
from typing import NamedTuple

Z95 = 1.959963984540054  # the standard normal's 97.5 % point


class Interval(NamedTuple):
    """A 95 % confidence interval, in [0, 1]."""

    low: float
    high: float


def wilson(correct: int, n: int) -> Interval:
    """The 95 % Wilson score interval of an accuracy of `correct` in `n`.

    It covers the sampling of test images, not the variation between training runs.

    Raises:
        ValueError: n < 1, or correct outside 0..n.
    Source: E. B. Wilson 1927, J. Am. Stat. Assoc. 22.
    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"{correct} correct of {n} examples: n must be at least 1 and correct must be in 0..n")
    share, spread = correct / n, Z95**2 / n
    centre = (share + spread / 2) / (1 + spread)
    half = Z95 / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return Interval(0.0 if correct == 0 else centre - half, 1.0 if correct == n else centre + half)
