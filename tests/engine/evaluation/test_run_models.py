"""Models that are not as they should be, what the checks know, and black boxes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bat_core import memory
from bat_core.checkpoint import save_model
from bat_core.config import DataConfig, TrialConfig
from bat_core.data import load_dataset
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.fit import initial_state
from sweeps.engine.evaluation.attack import CHECKS, EvaluationFolder, check_model, joined
from sweeps.engine.evaluation.job import Job
from sweeps.engine.evaluation.run import run_evaluation
from sweeps.engine.evaluation.shard_files import SHARDS
from sweeps.engine.evaluation.summaries import summarise
from tests.engine.evaluation.evaluations import (
    MADE,
    drawn,
    evaluated,
    evaluation,
    factory,
    hungry,
    model_folder,
    net,
    nowhere,
    of_bytes,
    of_seven,
    options,
    probabilities,
    random,
    resume,
    tuned,
    unseeded,
    verdicts_of,
    without_gradient,
)


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "_log", nowhere)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def made(robust_digits):
    MADE["robust"] = robust_digits.model
    yield
    MADE.clear()


def refused(made, **changes):
    with pytest.raises(InputError) as caught:
        evaluated(made, **changes)
    assert not Path("out").exists()
    return str(caught.value)


def test_a_model_that_fails_the_inspection_is_refused_unless_one_insists(capsys):
    assert "returns probabilities" in refused(probabilities)
    assert "(or add --despite-findings)" in refused(probabilities)
    folder = evaluated(probabilities, n=4, batch_size=4, despite_findings=True)
    summary = json.loads((model_folder(folder) / "summary.json").read_text())
    assert "returns probabilities" in summary["findings"][0]
    assert summary["findings"][0] in " ".join(capsys.readouterr().out.split())


def test_a_model_that_cannot_be_attacked_is_refused_even_if_one_insists():
    for insisting in (False, True):
        said = refused(without_gradient, despite_findings=insisting)
        assert "no gradient attack works" in said
        assert "--despite-findings" not in said


def test_what_an_inspection_warns_of_is_kept(capsys):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        folder = evaluated(random, n=4, batch_size=4)
    (finding,) = json.loads((model_folder(folder) / "summary.json").read_text())["findings"]
    assert "the model is randomised" in finding
    assert "the model is randomised" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("n", [None, 1, 4])
def test_a_model_made_for_other_images_is_refused_however_few_are_attacked(n):
    assert "expect [0, 255]" in refused(of_bytes, n=n)


def test_a_factory_that_makes_another_model_each_time_is_refused():
    assert "has different weights each time it is built" in refused(unseeded, despite_findings=True)


def test_a_checkpoint_of_other_classes_is_refused(digits, tmp_path):
    config = TrialConfig(data=DataConfig(train_size=128, val_size=32, test_size=64), model="small_cnn_8")
    seven = replace(digits, class_names=digits.class_names[:7])
    save_model(tmp_path / "seven", initial_state(config, seven, torch.device("cpu")), config, seven)
    for insisting in (False, True):
        with pytest.raises(InputError, match="the model has 7 classes and the data set has 10: they must match"):
            run_evaluation([str(tmp_path / "seven")], options(despite_findings=insisting))
    assert {path.name for path in tmp_path.iterdir()} == {"seven"}


def test_the_first_model_that_is_refused_stops_all():
    with pytest.raises(InputError, match="returns probabilities"):
        run_evaluation([factory(net), factory(probabilities)], options())
    assert not Path("out").exists()


@pytest.mark.parametrize("checks", ["none", "cheap"])
def test_a_batch_that_does_not_fit_into_memory_is_made_smaller(checks):
    n = 24
    folder = evaluated(hungry, n=n, batch_size=n, checks=checks)
    small = verdicts_of(evaluated(net, n=n, batch_size=5, output=Path("small")))
    verdicts = verdicts_of(folder)
    assert verdicts.clean_correct.tolist() == small.clean_correct.tolist()
    for name, outcome in verdicts.outcomes.items():
        np.testing.assert_array_equal(outcome.broken_at, small.outcomes[name].broken_at)
        np.testing.assert_array_equal(outcome.final, small.outcomes[name].final)


def test_shards_are_as_large_as_the_free_memory_allows(alone, monkeypatch, capsys):
    images = load_dataset("digits").test.images
    each = memory.OVERHEAD * memory.activation_bytes(net(), images[:1].float() / 255)
    monkeypatch.setattr(memory, "free_memory", lambda device: 9 * each / memory.SHARE)
    folder = evaluated(n=20, batch_size=None)
    assert EvaluationFolder(folder).load().shard_size == 8
    assert "8 images per batch fit into the free memory (change with --batch-size)" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.chdir(alone)
    small, whole = verdicts_of(folder), verdicts_of(evaluated(n=20, output=Path("whole")))
    for name, outcome in whole.outcomes.items():
        np.testing.assert_array_equal(outcome.broken_at, small.outcomes[name].broken_at)


class Still(nn.Module):
    """Always the same class: nothing to attack, nothing to find."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.arange(10.0))

    def forward(self, x):
        return self.bias + 0 * x.flatten(1)[:, :10]


@pytest.mark.parametrize(("suite", "known"), [("quick", True), ("paper", False)])
def test_the_checks_know_what_stood_only_after_a_verifying_suite(suite, known, tmp_path, digits):
    made = evaluation(suite=suite, n=40, checks="cheap")
    part = digits.test.take(slice(made.n))
    whole = drawn(made.attacks(), made.n, rows=part.rows.tolist())
    for shard in made.shards():
        one = whole.take(np.arange(made.n)[shard])
        place = tmp_path / SHARDS / f"{shard.start:06d}"
        place.mkdir(parents=True)
        one.without_outcomes().write(place / "clean.parquet")
        for number, (name, outcome) in enumerate(one.outcomes.items()):
            one.without_outcomes().with_outcome(name, outcome).write(place / f"{number:02d}-{name}.parquet")
    check_model(made, tmp_path, Evaluator(Still()), part)
    found = json.loads((tmp_path / CHECKS).read_text())
    assert found["evidence"]["verified_acc"] == (pytest.approx(whole.robust_acc) if known else None)
    summary = summarise(made, made.models[0], joined(made, tmp_path), tmp_path)
    assert summary["robust_acc"] == whole.robust_acc
    assert (summary["verdict"], summary["flags"]) == (found["verdict"], found["flags"])


def test_checks_that_are_through_are_not_made_again(tmp_path, digits):
    (tmp_path / CHECKS).write_text("{}")
    check_model(evaluation(checks="full"), tmp_path, Evaluator(Still()), digits.test)
    assert (tmp_path / CHECKS).read_text() == "{}"


def test_what_another_model_knows_is_a_part_of_the_worst_case(monkeypatch):
    # A model's own adversarial images, found by another seed, are as good a black box as there is.
    folder = evaluated(transfer_from=(factory(net),), n=12, batch_size=6)
    summary = json.loads((model_folder(folder) / "summary.json").read_text())
    verdicts = verdicts_of(folder)
    assert list(verdicts.outcomes) == ["fgsm", "ce", "cw", "transfer"]
    assert summary["suite"] == "paper+transfer, not verified"
    assert summary["per_attack"]["TRANSFER"] == summary["robust_acc"] == verdicts.robust_acc
    (model_folder(folder) / SHARDS / "000000" / "03-transfer.parquet").unlink()
    assert resume(folder) == 0
    monkeypatch.setitem(MADE, "robust", tuned())
    with pytest.raises(InputError, match="has changed since this evaluation started"):
        resume(folder)


def test_a_black_box_of_other_classes_is_refused():
    with pytest.raises(InputError, match="must return 10 logits per image"):
        evaluated(transfer_from=(factory(of_seven),))
    assert not Path("out").exists()


@pytest.mark.parametrize("held_out", [20, 300])
def test_validation_images_are_none_that_the_model_was_trained_on(held_out, digits):
    config = TrialConfig(model="small_cnn_8", data=DataConfig(val_size=held_out))
    save_model(Path("net"), initial_state(config, digits, torch.device("cpu")), config, digits)
    asked = {"split": "val", "dataset": None}
    with pytest.raises(InputError, match=f"is more than the {held_out} images"):
        run_evaluation(["net"], options(**asked, n=held_out + 1))
    assert run_evaluation(["net"], options(**asked, n=held_out)) == 0
    held = load_dataset("digits", val_size=held_out).val.rows
    assert sorted(verdicts_of(Path("out")).rows.tolist()) == sorted(held.tolist())
    assert resume(Path("out")) == 0
