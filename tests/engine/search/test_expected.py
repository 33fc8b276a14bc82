"""What the model of all trials expects of a front."""

from dataclasses import replace

import numpy as np

from search_spaces.base import Parameter, Space
from sweeps.engine.search.expected import FEWEST, expected_front
from sweeps.engine.search.finalists import finalist_origins
from sweeps.engine.search.page import story
from sweeps.engine.search.report import report_md, sentence
from sweeps.engine.search.report_expected import volumes_in_words
from sweeps.engine.search.results import hypervolume
from sweeps.engine.search.snapshot import Finalist
from sweeps.engine.search.spec import Final
from sweeps.engine.sweep.spec import Trial
from tests.engine.search.trials import BASE, score_of
from tests.engine.search.views import realistic, search_of, view_of

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
    return hypervolume((0.9 - 0.3 * one.point["at"], 0.2 + 0.3 * one.point["at"]) for one in front)


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


def lucky_search(by="expected", **changes):
    """Trials on a line of known truth, of which one was seen 15 points above it in both accuracies."""
    rng = np.random.default_rng(1)
    finished = [shown(at, rng) for at in np.linspace(0.0, 1.0, 24)]
    lucky = finished[12]
    at = lucky.trial.point["at"]
    finished[12] = replace(lucky, clean_acc=0.9 - 0.3 * at + 0.15, robust_acc=0.2 + 0.3 * at + 0.15)
    final = Final(count=3, epochs=None, seeds=(0,), rule="knee", registered_name="n", by=by)
    return view_of(replace(search_of(space=LINE, **changes), final=final), finished), finished[12]


def test_finalists_are_not_the_lucky_ones():
    seen, lucky = lucky_search("seen")
    assert lucky in finalist_origins(seen)
    expected, lucky = lucky_search()
    chosen = finalist_origins(expected)
    assert len(chosen) == 3
    assert lucky not in chosen
    assert all(one in expected.finished for one in chosen), "as they were seen, not with the model's means"
    assert true_volume(chosen) > true_volume(finalist_origins(seen))


def test_without_a_model_finalists_are_from_the_seen_front():
    whole, lucky = lucky_search()
    few = replace(whole, finished=(*whole.finished[: FEWEST - 2], lucky))
    assert few.expected is None
    assert lucky in finalist_origins(few)


def test_finalists_meet_the_objective_by_what_was_seen():
    floored, _ = lucky_search(objective="robust-at-clean>=0.8")
    chosen = finalist_origins(floored)
    assert chosen
    assert all(one.clean_acc >= 0.8 for one in chosen)


def test_report_sentence_and_page_show_both_hypervolumes():
    view, lucky = lucky_search()
    both = volumes_in_words(view)
    assert both in sentence(view)
    assert both in report_md(view)
    (table,) = [one for one in story(view).sections if one.heading == "The front, seen and expected"]
    assert lucky.id in {row[0].text for row in table.rows}
    origins = finalist_origins(view)
    told = replace(view, finalists=tuple(Finalist(origin=one, members=(one,)) for one in origins))
    said = f"They are from the front of expected accuracies (clean / robust in the search): {origins[0].id} "
    assert said in report_md(told)


def test_a_model_of_many_trials_is_fitted_to_a_part_and_answers_for_all(monkeypatch):
    view, lucky = lucky_search()
    monkeypatch.setattr("sweeps.engine.search.expected.MOST", 16)
    found = expected_front(LINE, view.finished)
    assert len(found.rows) == 24
    assert lucky.id in {one.trial.id for one in found.seen}
    off = [abs(row.robust_acc - (0.2 + 0.3 * row.trial.point["at"])) for row in found.rows]
    assert max(off) < 0.12
