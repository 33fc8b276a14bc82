"""What a sweep's numbers are called in MLflow, and what is said of them in words."""

import json
from dataclasses import replace

import pytest

from bat_core.config import AttackConfig
from bat_core.masking.flags import status_in_words
from sweeps.engine.sweep.records import TrialStatus
from sweeps.engine.sweep.spec import Report, Resources, Sweep, Trial
from sweeps.engine.tracking.names import MOST_PARAMS, headline, params
from sweeps.engine.tracking.notes import LONGEST, experiment_note, sweep_note, trial_note
from sweeps.engine.tracking.registry import best_merits
from sweeps.engine.tracking.settings_table import metrics, settings, table
from sweeps.engine.tracking.view import leaderboard_view

RESULT = {
    "time": 1.0, "clean_acc": 0.9, "pgd_acc": 0.5, "robust_acc": 0.4, "n": 100, "robust_n": 50, "suite": "PGD-3+quick",
    "verdict": "clear", "flags": [],
}  # fmt: skip


def sweep_of(*trials: Trial) -> Sweep:
    return Sweep(name="s", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=trials)


def finished(**changes) -> TrialStatus:
    return TrialStatus(phase="finished", ended=1.0, result=RESULT | changes)


@pytest.mark.parametrize(
    ("suite", "split", "name"),
    [
        ("PGD-3+quick", "test", "robust_acc"),
        ("PGD-3+quick", "val", "robust_acc_val"),
        ("PGD-3, not verified", "test", "robust_acc_not_verified"),
        ("PGD-3+quick, not verified: masked", "val", "robust_acc_val_not_verified"),
    ],
)
def test_each_kind_of_robust_accuracy_has_a_name_of_its_own(suite, split, name):
    found = headline(RESULT | {"suite": suite, "split": split})
    assert found[name] == 0.4
    assert sum(key.startswith("robust_acc") for key in found) == 1


@pytest.mark.parametrize(("status", "end"), [("", ""), (", not verified: masked", "_not_verified")])
def test_a_trial_that_is_verified_in_two_norms_has_a_metric_for_each_and_for_both(status, end):
    threats = {
        name: {"robust_acc": acc, "n": 50, "suite": f"quick{status}"}
        for name, acc in {"linf": 0.4, "l2": 0.3, "union": 0.2}.items()
    }
    said = RESULT | {"suite": f"PGD-3+quick{status}", "threats": threats}
    found = {name: value for name, value in headline(said).items() if name.startswith("robust_acc")}
    whole = {"robust_acc": 0.4, "robust_acc_linf": 0.4, "robust_acc_l2": 0.3, "robust_acc_union": 0.2}
    assert found == {f"{name}{end}": value for name, value in whole.items()}
    assert headline(said | {"split": "val"})[f"robust_acc_union_val{end}"] == 0.2


def test_a_trial_has_few_parameters_and_none_without_a_value(make_trial):
    many = {"eps": 40 / 255, **{f"p{number}": float(number) for number in range(30)}}
    trial = Trial(id="a", config=make_trial(params=many))
    shown, rest = params(sweep_of(trial), trial)
    assert len(shown) == MOST_PARAMS
    assert shown["budget"] == shown["attack_budget"] == "40/255 (8 px)"
    assert shown["recipe.p3"] == "3"
    assert "recipe.params.p29=29" in rest
    assert "None" not in [*shown.values(), *rest.split("=")]


def test_an_undefended_model_has_nothing_to_mask():
    assert status_in_words("clear", 0.0) == "nothing to mask"
    assert status_in_words("clear", 0.01) == "clear"
    assert status_in_words("suspect", 0.0) == "suspect"


def test_settings_have_mean_and_spread_and_no_mixture_of_kinds(make_trial):
    config = make_trial()
    trials = [Trial(id=f"t{seed}", config=replace(config, seed=seed)) for seed in range(3)]
    rows = [
        (trials[0], finished(robust_acc=0.3)),
        (trials[1], finished(robust_acc=0.5)),
        (trials[2], finished(robust_acc=0.9, suite="PGD-3, not verified")),
    ]
    found = settings(sweep_of(*trials), rows)
    assert [(one.verified, one.trials) for one in found] == [(True, ("t0", "t1")), (False, ("t2",))]
    assert metrics(found)["robust_acc_mean/R-MC-LA 8 px"] == pytest.approx(0.4)
    assert metrics(found)["robust_acc_sd/R-MC-LA 8 px"] == pytest.approx(0.1 * 2**0.5)
    assert metrics(found)["best/robust_acc_mean"] == pytest.approx(0.4)
    assert [row[0] for row in json.loads(table(found))["data"]] == ["R-MC-LA at 40/255 (8 px)"] * 2
    note = sweep_note(Report(files=(), sentence="Good."), found, ["![f](get-artifact?path=f)"])
    assert note.startswith("![f](")
    assert "| 40.0% ± 14.1 |  | 90.0% ± 0.0 |" in note
    assert len(note) <= LONGEST


def test_a_note_says_what_a_trial_was_and_how_it_ended(make_trial):
    trial = Trial(id="a", config=make_trial())
    sweep = sweep_of(trial)
    assert "**Robust 40.0% (" in trial_note(sweep, trial, finished())
    assert "NOT verified" in trial_note(sweep, trial, finished(suite="PGD-3, not verified"))
    stopped = trial_note(sweep, trial, TrialStatus(phase="stopped", reason="<b>halving</b>"))
    assert "Stopped early" in stopped
    assert "<b>" not in stopped
    assert "**Failed**" in trial_note(sweep, trial, TrialStatus(phase="failed", reason="x"))
    assert experiment_note(sweep, [trial], None).startswith("1 model on digits: Not finished yet.")


def test_the_best_clear_verified_test_model_of_each_budget_is_a_candidate(make_trial):
    config = make_trial()
    larger = replace(config, attack=AttackConfig(eps=80 / 255, step_size=20 / 255))
    trials = {name: Trial(id=name, config=config) for name in ("low", "high", "loud", "masked", "val")}
    trials["large"] = Trial(id="large", config=larger)
    rows = [
        (trials["low"], finished()),
        (trials["high"], finished(robust_acc=0.5)),
        (trials["loud"], finished(robust_acc=0.9, suite="PGD-3, not verified")),
        (trials["masked"], finished(robust_acc=0.9, verdict="suspect")),
        (trials["val"], finished(robust_acc=0.9, split="val")),
        (trials["large"], finished(robust_acc=0.2)),
        (Trial(id="reference", config=config, role="reference"), finished(robust_acc=0.8)),
    ]
    found = best_merits(sweep_of(*trials.values()), rows)
    assert {trial: merit.alias for trial, merit in found.items()} == {
        "high": "candidate-digits-8px", "large": "candidate-digits-16px",
    }  # fmt: skip


def test_the_view_sorts_by_the_verified_accuracy_of_its_split():
    state = json.loads(leaderboard_view("val"))
    assert (state["orderByKey"], state["orderByAsc"]) == ("metrics.`robust_acc_val`", False)
    assert state["selectedColumns"][:3] == ["metrics.`robust_acc_val`", "metrics.`clean_acc_val`", "tags.`bat.verdict`"]
    assert state["selectedColumns"][-1] == "metrics.`robust_acc_val_not_verified`"


@pytest.mark.parametrize("threats", [("union", "linf", "l2"), ("l2", "union", "linf")])
def test_the_view_of_two_threats_has_a_column_for_each_and_for_both_and_sorts_by_the_first(threats):
    state = json.loads(leaderboard_view("val", threats))
    robust = [f"metrics.`robust_acc_{threat}_val`" for threat in threats]
    assert (state["orderByKey"], state["orderByAsc"]) == (robust[0], False)
    assert state["selectedColumns"] == state["columnOrder"]
    assert state["selectedColumns"][:4] == [*robust, "metrics.`clean_acc_val`"]
    assert state["selectedColumns"][-1] == f"metrics.`robust_acc_{threats[0]}_val_not_verified`"
    named = {column.removeprefix("metrics.").strip("`") for column in robust}
    reached = {threat: {"robust_acc": 0.2, "n": 50, "suite": "quick"} for threat in threats}
    assert named <= headline(RESULT | {"split": "val", "threats": reached}).keys()


def test_notes_name_each_norm_and_both_at_once(make_trial):
    trial = Trial(id="a", config=make_trial())
    sweep = replace(sweep_of(trial), threats=("union", "linf", "l2"))
    reached = {
        name: {"robust_acc": acc, "n": 50, "suite": "quick"}
        for name, acc in {"linf": 0.4, "l2": 0.3, "union": 0.2}.items()
    }
    note = trial_note(sweep, trial, finished(threats=reached))
    assert " Robust in L-inf 40.0%, L2 30.0%, both norms at once 20.0%. Gradient masking" in note
    assert "Robust in" not in trial_note(sweep, trial, finished())
    said = experiment_note(sweep, [trial], None)
    assert "* `robust_acc_union`: the share that stand in both norms at once\n* `robust_acc_linf`: " in said
    assert "stand in" not in experiment_note(sweep_of(trial), [trial], None)
