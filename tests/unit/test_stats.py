from statistics import NormalDist

import numpy as np
import pytest

from bat_core.stats import Z95, wilson

COUNTS = [(0, 1), (1, 1), (0, 7), (10, 10), (1, 29), (37, 64), (500, 1000), (9999, 10000)]


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_the_published_one(correct, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17, table I, method 3."""
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("correct", "n"), COUNTS)
def test_its_ends_are_the_accuracies_whose_score_test_is_at_its_limit(correct, n):
    share, squared = correct / n, NormalDist().inv_cdf(0.975) ** 2
    roots = np.roots([1 + squared / n, -2 * share - squared / n, share**2])  # (p - share)^2 = z^2 p (1 - p) / n
    assert wilson(correct, n) == pytest.approx(sorted(roots.real), abs=1e-12)


def test_the_normal_quantile_is_the_librarys():
    assert pytest.approx(NormalDist().inv_cdf(0.975), rel=1e-15) == Z95


@pytest.mark.parametrize("n", [1, 20, 3000])
def test_none_and_all_correct_end_at_the_rim_and_mirror_each_other(n):
    none, everything = wilson(0, n), wilson(n, n)
    assert none == pytest.approx((0, none.high), abs=1e-15)
    assert everything == pytest.approx((1 - none.high, 1), abs=1e-15)
    assert 0 <= none.low <= none.high < 1
    assert 0 < everything.low <= everything.high <= 1


def test_more_images_narrow_it():
    widths = [wilson(n // 2, n).high - wilson(n // 2, n).low for n in (10, 100, 1000, 10000)]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 4), (5, 4), (0, -1)])
def test_counts_that_cannot_be(correct, n):
    with pytest.raises(ValueError, match=rf"{correct} correct of {n} examples: n must be at least 1"):
        wilson(correct, n)
