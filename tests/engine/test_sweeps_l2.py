"""Sweeps and searches in L2: configs, budgets and words."""

import pytest

from bat_core.config import TrialConfig, from_dict, to_dict
from bat_core.errors import InputError
from bat_core.fit import fit
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.run import trials_of
from sweeps.engine.paper.scales import SCALES
from sweeps.engine.search.options import SearchOptions
from sweeps.engine.search.run import show_space
from sweeps.engine.search.trial_config import trial_config
from sweeps.engine.sweep.spec import Resources, Sweep
from sweeps.eps_budget import EpsBudgetOptions, grid
from sweeps.table_6 import TABLE


def test_figure_1_has_budgets_in_its_norm(digits):
    trials = grid(EpsBudgetOptions(norm="l2", seeds=(0,)), digits)
    budgets = [trial.config.recipe.params["eps"] for trial in trials if trial.role == "grid"]
    assert budgets == pytest.approx([0.05, 0.1, 0.2, 0.4, 0.6])
    for trial in trials:
        attack = trial.config.attack
        assert (attack.norm, attack.eps, attack.step_size) == ("l2", 0.4, 0.1)
        assert trial.config.recipe.params.get("norm", "l2") == "l2"
    sweep = Sweep(
        name="s", command="c", data_dir=None, pixel=digits.unit("l2"), norm="l2", resources=Resources(),
        trials=tuple(trials),
    )  # fmt: skip
    assert [sweep.training_budget(trial) for trial in trials[3:]] == ["0.4", "0.6", None]
    assert from_dict(Sweep, to_dict(sweep)) == sweep


def test_figure_1_in_l_inf_is_written_as_before(digits):
    trials = grid(EpsBudgetOptions(seeds=(0,)), digits)
    assert "norm" not in str([to_dict(trial) for trial in trials])
    sweep = Sweep(name="s", command="c", data_dir=None, pixel=5 / 255, resources=Resources(), trials=tuple(trials))
    assert "norm" not in to_dict(sweep)
    assert sweep.training_budget(trials[0]) == "1 px"


def test_a_search_trains_and_evaluates_in_its_norm(digits):
    search = SearchOptions(norm="l2", verify=10).search(digits)
    config = trial_config(search.space, search.space.default_point(), search.base)
    assert (config.attack.norm, config.recipe.params["norm"]) == ("l2", "l2")
    assert config.recipe.params["eps"] == pytest.approx(0.4)
    plain = SearchOptions(verify=10).search(digits)
    assert "norm" not in str(to_dict(trial_config(plain.space, plain.space.default_point(), plain.base)))


def test_a_space_is_shown_in_its_norm(digits):
    options = SearchOptions(norm="l2")
    sweep = Sweep(name="s", command="c", data_dir=None, pixel=digits.unit("l2"), norm="l2", resources=Resources(),
                  trials=(), open=True)  # fmt: skip
    shown = show_space(options.narrowed_space(sweep.pixel), sweep.unit)
    assert "px" not in shown
    assert "0.05 to 0.8" in shown


def test_the_papers_tables_stay_in_l_inf(digits):
    options = TableOptions(norm="l2", seeds=(0,))
    with pytest.raises(InputError, match="the paper's tables are in L-inf"):
        trials_of(TABLE, options, SCALES["smoke"], digits)


def test_training_in_l2_runs(make_trial, digits):
    base = to_dict(make_trial("R-MC-LA", params={"eps": 0.4, "norm": "l2"}, epochs=1, model="small_cnn_4"))
    base["attack"] |= {"eps": 0.4, "step_size": 0.1, "norm": "l2"}
    (report,) = fit(from_dict(TrialConfig, base), digits)
    assert 0 <= report.val_robust_acc <= report.val_clean_acc
