"""How many of a finite set have a property, by drawing without replacement: an interval that holds at every moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bat_core.rng import named_seed

ERROR = 0.05  # probability that the interval fails to cover the count at one or more moments


class Counts(NamedTuple):
    """Bounds of a count: low <= count <= high."""

    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Prior:
    """Which shares are expected: a beta distribution. It makes the interval narrow there; the cover holds anywhere."""

    found: float = 1.0
    others: float = 1.0


ANY_SHARE = Prior()
FEW = Prior(found=1.0, others=50.0)  # about 2 % or less


def draw_order(population: int, seed: int, *names: str) -> npt.NDArray[np.int64]:
    """The positions 0 ... population - 1 in a random order, fixed by the seed and names."""
    return np.random.default_rng(named_seed(seed, "draw", *names)).permutation(population)


def count_bounds(looks: Sequence[tuple[int, int]], population: int, prior: Prior = ANY_SHARE) -> Counts:
    """Bounds of the number of members with a property, in a set of `population`.

    The probability that they ever fail to cover it is at most 5 %, however often one looks and whenever one stops.

    Args:
        looks: (drawn, found) at each look, in order: how many were drawn by then, and how many had the property.
        prior: chosen before the first draw.
    Raises:
        ValueError: counts that cannot be.
    Source: Waudby-Smith and Ramdas 2020, arXiv:2006.04347 (prior-posterior-ratio martingale, beta-binomial prior).
    """
    low, high = 0, population
    for drawn, found in looks:
        if not 0 <= found <= drawn <= population:
            raise ValueError(f"{found} found among {drawn} drawn of {population}: each must be at most the next")
        at = _bounds(drawn, found, population, prior)
        low, high = max(low, at.low), min(high, at.high)
    return Counts(low, max(low, high))


def _bounds(drawn: int, found: int, population: int, prior: Prior) -> Counts:
    """The counts whose prior probability is less than 20 times that after the draws."""
    counts = np.arange(found, population - (drawn - found) + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, population + 1)))])

    def log_choose(n: int, k: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        chosen: npt.NDArray[np.float64] = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
        return chosen

    # With a beta-binomial prior, all other factors of the ratio cancel or do not depend on the count.
    ratio = log_choose(population, counts) - log_choose(population - drawn, counts - found)
    ratio += _log_beta(prior.found + found, prior.others + drawn - found) - _log_beta(prior.found, prior.others)
    kept = counts[ratio < -np.log(ERROR)]
    return Counts(int(kept[0]), int(kept[-1]))


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
