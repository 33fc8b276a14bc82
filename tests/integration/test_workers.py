"""Two workers linked by gloo train the model that one worker trains, and share its evaluation."""

import pytest
import torch
from safetensors.torch import load_file

from bat_core.checkpoint import load_model
from bat_core.data import load_dataset
from bat_core.evaluate import evaluate
from bat_core.fit import fit
from bat_core.suites import evaluation_suite
from bat_core.verdicts import Verdicts
from sweeps.engine.sweep.trial_sync import MODEL
from tests.integration.conftest import TINY
from tests.integration.running import Place

pytestmark = pytest.mark.ray


def test_two_workers_equal_one_of_the_same_global_batch(place: Place) -> None:
    options = ["--eps-x", "40/255", "--seeds", "0", "--reference", "none", "--model", "small_cnn_gn"]
    code, printed = place.run("eps_budget.py", *TINY, *options, "--num-workers", "2", "--output", "two-workers")
    assert code == 0, printed
    output = place.sweep("two-workers")
    (trial,) = output.spec.trials
    (status,) = output.statuses().values()
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, 3]

    dataset = load_dataset("digits", train_size=256, val_size=40, test_size=60)
    *_, last = fit(trial.config, dataset)
    two = load_file(output.folder.trial(trial) / MODEL / "model.safetensors")
    for name, one in last.state.model.state_dict().items():
        torch.testing.assert_close(two[name], one.contiguous())
    assert status.epochs[-1]["val_robust_acc"] == last.val_robust_acc
    assert status.epochs[-1]["train_loss"] == pytest.approx(last.train_loss)

    verdicts = Verdicts.read(output.folder.trial(trial) / "verdicts.parquet")
    test = dataset.test
    alone = evaluate(last.state.model, test.images, test.labels, attack=trial.config.attack, rows=test.rows)
    assert verdicts.rows.tolist() == alone.rows.tolist()
    assert verdicts.clean_correct.tolist() == alone.clean_correct.tolist()
    assert verdicts.outcomes["ce"].broken_at.tolist() == alone.outcomes["ce"].broken_at.tolist()

    verified = Verdicts.read(output.folder.trial(trial) / "verified.parquet")
    first = test.take(slice(8))
    suite = evaluation_suite(trial.config.attack)
    model, _ = load_model(output.folder.trial(trial))
    alone = evaluate(model, first.images, first.labels, attack=suite, rows=first.rows)
    assert verified.rows.tolist() == alone.rows.tolist()
    assert verified.robust_correct.tolist() == alone.robust_correct.tolist()
    assert (status.result["robust_n"], status.result["robust_acc"]) == (8, alone.robust_acc)
