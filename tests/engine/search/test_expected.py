"""What the model of all trials expects of a front."""

import numpy as np

from search_spaces.base import Parameter, Space
from sweeps.engine.search.expected import FEWEST, expected_front
from sweeps.engine.search.report import report_md
from sweeps.engine.search.results import hypervolume
from sweeps.engine.sweep.spec import Trial
from tests.engine.search.trials import BASE, score_of
from tests.engine.search.views import realistic

LINE = Space(
    name="line",
    description="one number",
    parameters=(Parameter(name="at", kind="float", description="", default=0.5, low=0.0, high=1.0),),
)
N = 50  # images


def shown(at, rng):
    """A trial at a point of a line of known truth, seen on N images."""
    clean, robust = 0.9 - 0.3 * at, 0.2 + 0.3 * at
    values = rng.binomial(N, (clean, robust)) / N
    name = f"trial-{at:.3f}"
    trial = Trial(id=name, config=BASE, role="search", point={"at": float(at)})
    return score_of(float(values[0]), float(values[1]), trial=trial, n=N, robust_n=N)


def true_volume(front):
    return hypervolume((0.9 - 0.3 * one.trial.point["at"], 0.2 + 0.3 * one.trial.point["at"]) for one in front)


def test_the_expected_hypervolume_is_nearer_to_the_truth_than_the_seen_one():
    rng = np.random.default_rng(0)
    seen, expected, covered = [], [], []
    for _ in range(8):
        finished = [shown(at, rng) for at in rng.random(24)]
        found = expected_front(LINE, finished)
        chosen = [one.trial for one in found.seen]
        truth = true_volume(chosen)
        seen.append(hypervolume((one.clean_acc, one.robust_acc) for one in chosen) - truth)
        expected.append(found.volume - truth)
        covered.append(found.volume_interval[0] <= truth <= found.volume_interval[1])
    assert np.mean(seen) > 0.03
    assert abs(np.mean(expected)) < np.mean(seen) / 2
    assert np.mean(covered) >= 0.75


def test_few_trials_and_masked_ones_make_no_model():
    rng = np.random.default_rng(0)
    few = [shown(at, rng) for at in np.linspace(0, 1, FEWEST - 1)]
    masked = score_of(0.99, 0.99, masked=True, trial=Trial(id="m", config=BASE, role="search", point={"at": 0.5}))
    assert expected_front(LINE, [*few, masked]) is None
    enough = expected_front(LINE, [*few, shown(0.5001, rng), masked])
    assert enough is not None
    assert "m" not in {one.trial.id for one in (*enough.seen, *enough.better)}


def test_the_report_shows_both():
    said = report_md(realistic("bat"))
    assert "robust expected" in said
    assert " expected (" in said
