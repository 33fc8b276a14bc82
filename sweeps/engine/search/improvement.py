"""How much a point is expected to improve a front, when its values are known only as normal distributions."""

import numpy as np
from scipy.special import ndtr

from sweeps.engine.search.gaussian import Array


def expected_excess(mean: Array, deviation: Array, bound: float) -> Array:
    """E[max(value - bound, 0)] of normal values. It is 0 for an infinite bound.

    Source: Jones, Schonlau and Welch 1998 (expected improvement).
    """
    if np.isinf(bound):
        return np.zeros_like(mean)
    z = (mean - bound) / deviation
    return deviation * (z * ndtr(z) + np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi))


def expected_hypervolume_gain(
    means: tuple[Array, Array], deviations: tuple[Array, Array], front: Array, reference: tuple[float, float]
) -> Array:
    """The expected gain of hypervolume above `reference`, exactly, for two independent values; both larger is better.

    The area above the front is cut into strips between neighbouring points, and each strip's part is a product of two
    one-dimensional expectations.

    Args:
        means, deviations: of the two values, (N,) each.  front: (K, 2) values of points; dominated ones may be
            among them.
    Returns:
        (N,) gains.
    Source: Emmerich, Deutz and Klinkenberg 2011; the strips as Yang et al. 2019.
    """
    steps = _staircase(front, reference)
    gain = np.zeros_like(means[0])
    left = expected_excess(means[0], deviations[0], reference[0])
    for right_edge, height in steps:
        right = expected_excess(means[0], deviations[0], right_edge)
        gain += (left - right) * expected_excess(means[1], deviations[1], height)
        left = right
    return gain


def _staircase(front: Array, reference: tuple[float, float]) -> list[tuple[float, float]]:
    """The strips above the reference from left to right: the right edge and the front's height over the strip."""
    steps = [(np.inf, reference[1])]
    for right, height in sorted(map(tuple, front), key=lambda one: (-one[0], -one[1])):
        if right > reference[0] and height > steps[-1][1]:
            steps.append((float(right), float(height)))
    return steps[::-1]
