"""Confidence sequences without replacement: they cover, they end exactly, and they are as narrow as was promised."""

from itertools import pairwise
from math import comb

import numpy as np
import pytest

from bat_core.sequential import ANY_SHARE, FEW, Counts, count_bounds, draw_order

LOOKS = range(0, 1001, 100)


def looks(flags, at=LOOKS):
    """(drawn, found) after each number of draws in `at`, in the order of the flags."""
    found = np.concatenate([[0], np.cumsum(flags)])
    return [(drawn, int(found[drawn])) for drawn in at if drawn <= len(flags)]


@pytest.mark.parametrize("prior", [ANY_SHARE, FEW])
@pytest.mark.parametrize("share", [0.004, 0.1, 0.5, 0.95])
def test_no_look_at_all_misses_the_count_more_often_than_was_said(prior, share):
    rng, population, missed = np.random.default_rng(7), 300, 0
    truth = round(share * population)
    for _ in range(200):
        drawn = rng.permutation(np.arange(population) < truth)
        low, high = count_bounds(looks(drawn, range(0, population + 1, 5)), population, prior)
        missed += not low <= truth <= high
    assert missed <= 0.05 * 200


def test_survivors_of_a_cheap_attack_as_they_were_simulated():
    """Of 10,000 images 4,500 stand; the full suite breaks 5 to 40 of those, and 1,000 are drawn."""
    rng, covered, widths = np.random.default_rng(0), 0, []
    for run in range(40):
        fallen = (5, 10, 20, 40)[run % 4]
        drawn = rng.permutation(np.arange(4500) < fallen)[:1000]
        low, high = count_bounds(looks(drawn), 4500, FEW)
        covered += low <= fallen <= high
        widths.append((high - low) / 10_000)
    assert covered == 40
    assert max(widths) <= 0.0105
    assert min(widths) >= 0.002


def test_with_all_drawn_the_count_is_known():
    for found in (0, 3, 10):
        assert count_bounds([(10, found)], 10) == Counts(found, found)
    assert count_bounds([], 10) == Counts(0, 10)
    assert count_bounds([(0, 0)], 10) == Counts(0, 10)
    assert count_bounds([(0, 0)], 0) == Counts(0, 0)


def test_the_bounds_are_those_of_the_martingale_written_out():
    """Against the posterior by Bayes' rule, in integers and fractions, for a uniform prior on the counts."""
    population, drawn, found = 12, 5, 2
    likelihood = [comb(count, found) * comb(population - count, drawn - found) for count in range(population + 1)]
    posterior = [one / sum(likelihood) for one in likelihood]
    prior = 1 / (population + 1)
    kept = [count for count, after in enumerate(posterior) if after > 0 and prior / after < 20]
    assert count_bounds([(drawn, found)], population) == Counts(kept[0], kept[-1])


def test_more_looks_only_narrow_the_bounds():
    flags = np.random.default_rng(3).random(400) < 0.3
    seen = looks(flags, range(0, 401, 20))
    found = [count_bounds(seen[: number + 1], 400) for number in range(len(seen))]
    assert all(one.low <= other.low and other.high <= one.high for one, other in pairwise(found))
    assert found[-1] == Counts(int(flags.sum()), int(flags.sum()))


@pytest.mark.parametrize("look", [(3, 4), (11, 2), (5, -1)])
def test_counts_that_cannot_be_are_refused(look):
    with pytest.raises(ValueError, match="each must be at most the next"):
        count_bounds([look], 10)


def test_an_order_is_fixed_by_its_names_and_is_complete():
    order = draw_order(50, 0, "net")
    assert sorted(order.tolist()) == list(range(50))
    assert np.array_equal(order, draw_order(50, 0, "net"))
    assert not np.array_equal(order, draw_order(50, 1, "net"))
    assert not np.array_equal(order, draw_order(50, 0, "other"))
