"""Finalists get more seeds until the rule's choice is clear."""

import pytest

from bat_core.errors import InputError
from sweeps.engine.search.finalists import next_seeds, run_finalists
from sweeps.engine.search.race import CLEAR, choice_shares, to_be_trained_again
from sweeps.engine.search.snapshot import Finalist
from sweeps.engine.search.spec import Final
from tests.engine.search.trials import Lab, score_of, search_of

FINAL = Final(count=2, epochs=None, seeds=(0, 1), rule="robust-at-clean>=0.8", registered_name="nets", max_seeds=4)


def finalist(name, clean, robusts, **changes):
    members = [score_of(clean, robust, name=f"{name}-{at}", **changes) for at, robust in enumerate(robusts)]
    return Finalist(origin=score_of(clean, 0.5, name=name), members=tuple(members))


def test_a_choice_between_far_means_is_clear_and_one_between_near_means_is_even():
    far = [finalist("a", 0.9, (0.50, 0.51)), finalist("b", 0.9, (0.30, 0.31)), finalist("c", 0.9, (0.29, 0.30))]
    assert choice_shares(far, FINAL.rule, 0.0)["a"] >= CLEAR
    assert to_be_trained_again(far, FINAL.rule, 0.0) == []
    near = [finalist("a", 0.9, (0.50, 0.54)), finalist("b", 0.9, (0.54, 0.50)), finalist("c", 0.9, (0.10, 0.14))]
    shares = choice_shares(near, FINAL.rule, 0.0)
    assert shares["a"] == pytest.approx(0.5, abs=0.05)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert to_be_trained_again(near, FINAL.rule, 0.0) == ["a", "b"]


def test_shares_are_those_of_the_t_test_of_two_means():
    from scipy.stats import t

    a, b = (0.50, 0.52, 0.53), (0.48, 0.52, 0.50)
    shares = choice_shares([finalist("a", 0.9, a), finalist("b", 0.9, b)], FINAL.rule, 0.0)
    pooled = sum(sum((value - sum(one) / 3) ** 2 for value in one) for one in (a, b)) / 4
    difference = (sum(a) - sum(b)) / 3
    assert shares["a"] == pytest.approx(t.cdf(difference / (pooled * 2 / 3) ** 0.5, 4), abs=0.04)


def test_what_does_not_count_or_is_below_the_floor_is_never_chosen():
    made = [finalist("a", 0.9, (0.5, 0.6)), finalist("b", 0.9, (0.8, 0.9), masked=True), finalist("c", 0.7, (0.9, 0.8))]
    assert choice_shares(made, "knee", 0.8) == {"a": pytest.approx(1.0), "b": 0.0, "c": 0.0}


def test_with_one_seed_nothing_is_known_of_the_spread():
    one, other = finalist("a", 0.9, (0.5,)), finalist("b", 0.9, (0.1,))
    assert to_be_trained_again([one, other], "knee", 0.0) == ["a", "b"]
    assert to_be_trained_again([one], "knee", 0.0) == []


def test_seeds_end_at_the_most_and_without_a_race_there_are_none():
    near = [finalist("a", 0.9, (0.50, 0.54)), finalist("b", 0.9, (0.54, 0.50, 0.5, 0.54))]
    assert next_seeds(near, search_of(final=FINAL)) == ["a"]
    without = Final(count=2, epochs=None, seeds=(0, 1), rule="knee", registered_name="nets")
    assert next_seeds(near[:1], search_of(final=without)) == []
    assert FINAL.seeds_for(4) == (0, 1, 2, 3)
    assert Final(count=1, epochs=None, seeds=(1, 5), rule="knee", registered_name="n").seeds_for(4) == (1, 5, 0, 2)
    with pytest.raises(InputError, match="--max-seeds=1 is below the 2 seeds"):
        Final(count=1, epochs=None, seeds=(1, 5), rule="knee", registered_name="n", max_seeds=1)


def test_a_race_trains_the_near_ones_again_and_is_the_same_when_resumed(tmp_path, monkeypatch):
    """Two points that differ by less than their seeds, of which the third seed decides."""
    from types import SimpleNamespace

    lab = Lab(tmp_path, search_of(final=FINAL))
    lab.finish(lab.propose(0), clean=0.95, robust=0.4)
    lab.finish(lab.propose(1), clean=0.85, robust=0.5)
    robust = {"trial-000": (0.40, 0.44, 0.10, 0.10), "trial-001": (0.44, 0.40, 0.50, 0.50)}
    rounds = []

    def train(_, trials):
        rounds.append([trial.id for trial in trials])
        for trial in trials:
            lab.finish(trial, 0.9, robust[trial.id[6:15]][trial.config.seed])

    places = "sweeps.engine.search.finalists."
    monkeypatch.setattr(places + "run_on_ray", train)
    monkeypatch.setattr(places + "_evaluated_on_val", lambda _, __, members: list(members))
    monkeypatch.setattr(places + "_tested", lambda _, __, finalists: list(finalists))
    monkeypatch.setattr(places + "_register", lambda *_: None)
    session = SimpleNamespace(
        sweep=lab.sweep, folder=lab.folder, console=SimpleNamespace(print=lambda *_, **__: None), say=print,
        tracker=SimpleNamespace(once=lambda: None),
    )  # fmt: skip
    finalists, champion = run_finalists(session, lab.search)
    assert [sorted({name[-1] for name in names}) for names in rounds] == [["0", "1"], ["2"], ["3"]]
    assert [len(one.members) for one in finalists] == [4, 4]
    assert champion in {"final-trial-001-seed2", "final-trial-001-seed3"}
    again = run_finalists(session, lab.search)
    assert again == (finalists, champion)
    assert len(rounds) == 3
