"""The finalists' stage of a search in which no trial met the objective's constraint: nothing is retrained."""

from types import SimpleNamespace

import pytest

from sweeps.engine.search.finalists import run_finalists
from sweeps.engine.search.spec import Final
from tests.engine.search.trials import Lab, search_of

FINAL = Final(count=2, epochs=None, seeds=(0,), rule="knee", registered_name="nets")


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Runs the stage of a search with two trials. Returns what it said, and the trials that it would train."""

    def run(objective):
        lab = Lab(tmp_path, search_of(objective=objective, final=FINAL))
        lab.finish(lab.propose(0), clean=0.9, robust=0.4)
        lab.finish(lab.propose(1), clean=0.8, robust=0.5)
        said, trained = [], []
        monkeypatch.setattr("sweeps.engine.search.finalists.run_on_ray", lambda _, trials: trained.extend(trials))
        console = SimpleNamespace(print=said.append)
        session = SimpleNamespace(
            sweep=lab.sweep, folder=lab.folder, console=console, say=lambda text, _: said.append(text)
        )
        assert run_finalists(session, lab.search) == ([], None)
        return said, [trial.id for trial in trained]

    return run


def test_nothing_is_retrained_and_the_reason_is_said(stage):
    said, trained = stage("robust-at-clean>=0.95")
    assert trained == []
    assert said == [
        "No trial has the clean accuracy of at least 95.0% that the objective requires: the cleanest has 90.0% and is"
        " 40.0% robust (trial-000). So there are no finalists: nothing is retrained, and no model is registered."
    ]


def test_only_trials_that_meet_the_constraint_are_retrained(stage):
    assert stage("robust-at-clean>=0.85")[1] == ["final-trial-000-seed0"]


def test_without_a_constraint_the_whole_front_is(stage):
    assert sorted(stage("clean+robust")[1]) == ["final-trial-000-seed0", "final-trial-001-seed0"]
