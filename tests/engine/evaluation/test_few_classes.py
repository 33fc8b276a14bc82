"""An evaluation of a model of two classes: its attacks, its name, and what reading it back keeps."""

import pytest

from bat_core.config import from_dict, to_dict
from bat_core.errors import InputError
from sweeps.engine.evaluation.attack import Evaluation, EvaluationFolder
from sweeps.engine.evaluation.options import EvaluateOptions
from tests.engine.evaluation.evaluations import evaluation


@pytest.mark.parametrize("suite", ["quick", "standard", "paper+quick"])
def test_it_runs_what_exists_and_is_named_for_it(suite):
    spec = evaluation(suite=suite, num_classes=2)
    assert spec.attacks().label == f"{suite} for 2 classes"
    assert "apgd-t" not in [entry.name for entry in spec.attacks().entries]
    assert from_dict(Evaluation, to_dict(spec)).attacks() == spec.attacks()


def test_an_evaluation_from_before_the_number_was_stored_has_the_usual_attacks():
    stored = to_dict(evaluation(suite="quick"))
    del stored["num_classes"]
    assert [entry.name for entry in from_dict(Evaluation, stored).attacks().entries] == ["apgd-ce", "apgd-t"]


def test_nothing_is_written_that_cannot_be_read_back(tmp_path):
    with pytest.raises(InputError, match="too large: integers must fit into 64 bits"):
        EvaluationFolder(tmp_path / "out").create(evaluation(n=2**40, seed=2**70))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("given", [{"seed": -1}, {"seed": 2**63}, {"n": 10**400}, {"data_workers": -1}])
def test_numbers_out_of_range_are_refused_before_anything_is_loaded(given):
    with pytest.raises(InputError, match=f"^--{next(iter(given)).replace('_', '-')}="):
        EvaluateOptions(**given).check()
