"""The whole way: options to Ray to records to figure to MLflow, read back from what is left behind."""

import csv
import io
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from bat_core.checkpoint import load_model
from bat_core.data import load_dataset, to_unit
from bat_core.verdicts import Verdicts
from sweeps.engine.tracking.names import verdict
from tests.integration.running import Output, Place, snapshot

pytestmark = pytest.mark.ray
EXPERIMENT = "eps_budget-undisturbed"
GRID = {f"eps{pixels}-seed{seed}" for pixels in (4, 8) for seed in (0, 1)}
REFERENCES = {f"undefended-seed{seed}" for seed in (0, 1)}


def suite_label(result: Mapping[str, Any]) -> str:
    return "PGD-5+fast, not verified: masked" if result["verdict"] == "masked" else "PGD-5+fast"


def test_every_budget_runs_with_every_seed_once(finished: tuple[Output, str]) -> None:
    output, _ = finished
    statuses = output.statuses()
    assert set(statuses) == GRID | REFERENCES
    assert all(status.phase == "finished" and status.attempts == 1 for status in statuses.values())
    assert all([epoch["epoch"] for epoch in status.epochs] == [1, 2, 3] for status in statuses.values())


def test_it_says_where_things_are_and_what_they_show(finished: tuple[Output, str]) -> None:
    _, printed = finished
    for words in ("undisturbed/figure_1.png", "figure_1.csv", "mlflow ui --backend-store-uri", EXPERIMENT):
        assert words in printed
    sentence = next(line for line in printed.splitlines() if line.startswith("R-MC-LA trained at"))
    robust, undefended = sentence.split("; undefended models reach ")
    assert "are correct under PGD-5 of 8 pixels (worst of " in robust
    assert "n = 60) and" in robust
    assert undefended.endswith("(means over 2 seeds).")
    assert "not verified" not in sentence


def test_the_sentence_tells_the_best_budget_by_its_verified_number(finished: tuple[Output, str]) -> None:
    output, printed = finished
    results = {trial: status.result for trial, status in output.statuses().items()}

    def mean(pixels: int, name: str) -> float:
        return statistics.fmean(results[f"eps{pixels}-seed{seed}"][name] for seed in (0, 1))

    best = max((4, 8), key=lambda pixels: mean(pixels, "robust_acc"))
    sentence = next(line for line in printed.splitlines() if line.startswith("R-MC-LA trained at"))
    assert sentence.startswith(f"R-MC-LA trained at {best} pixels is most robust: {mean(best, 'pgd_acc'):.1%} of test")
    assert f"and {mean(best, 'robust_acc'):.1%} under PGD-5+fast (n = 8), {mean(best, 'clean_acc'):.1%}" in sentence


def test_a_trial_records_what_its_number_stands_for(finished: tuple[Output, str]) -> None:
    output, _ = finished
    for trial, status in output.statuses().items():
        folder, result = output.folder.path / "trials" / trial, status.result
        curves, verified = (Verdicts.read(folder / name) for name in ("verdicts.parquet", "verified.parquet"))
        assert (result["n"], result["robust_n"]) == (60, 8)
        assert result["suite"] == suite_label(result)
        assert (len(curves), len(verified)) == (60, 8)
        assert (result["pgd_acc"], result["robust_acc"]) == (curves.robust_acc, verified.robust_acc)
        assert (result["epoch"], status.collapsed) == (3, None)
        assert result["verdict"] in {"clear", "suspect", "masked"}


def test_the_csv_holds_what_the_verdicts_say(finished: tuple[Output, str]) -> None:
    output, _ = finished
    rows = list(csv.DictReader(io.StringIO(output.file("figure_1.csv").decode())))
    assert len(rows) == 6 * 2 * 2 * 3  # trials, losses, readings, steps
    for row in rows:
        verdicts = Verdicts.read(output.folder.path / "trials" / row["trial"] / "verdicts.parquet")
        curve = verdicts.curve(row["loss"], row["reading"])  # type: ignore[arg-type]
        expected = curve[verdicts.outcomes[row["loss"]].steps.index(int(row["steps"]))]
        assert float(row["accuracy"]) == pytest.approx(expected, abs=1e-6)
        result = output.statuses()[row["trial"]].result
        for column, name in (("clean_acc",) * 2, ("pgd_acc",) * 2, ("robust_verified", "robust_acc")):
            assert float(row[column]) == pytest.approx(result[name], abs=1e-6)
        assert (int(row["n"]), int(row["robust_n"])) == (60, 8)
        assert (row["suite"], row["verdict"]) == (suite_label(result), verdict(result))


def test_figures_are_there(finished: tuple[Output, str]) -> None:
    output, _ = finished
    assert output.file("figure_1.png").startswith(b"\x89PNG")
    assert b"<svg" in output.file("figure_1.svg")


def test_mlflow_has_one_experiment_one_parent_and_a_child_a_trial(finished: tuple[Output, str], place: Place) -> None:
    output, _ = finished
    client = MlflowClient(place.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert {run.info.run_name for run in children} == GRID | REFERENCES
    assert all(run.data.tags["mlflow.parentRunId"] == parent.info.run_id for run in children)
    assert all(Path(run.data.tags["mlflow.source.name"]).name == "eps_budget.py" for run in runs)
    assert all(run.data.tags["bat.command"] == output.spec.command for run in runs)
    assert {run.info.status for run in runs} == {"FINISHED"}
    artifacts = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert artifacts == {
        "figure_1.png",
        "figure_1.svg",
        "figure_1.csv",
        "report.html",
        "figure_preview.png",
        "settings.json",
    }


def test_mlflow_has_the_numbers_of_the_records(finished: tuple[Output, str], place: Place) -> None:
    output, _ = finished
    client = MlflowClient(place.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    for trial in output.spec.trials:
        query = f"tags.`bat.trial_id` = '{trial.id}'"
        (run,) = client.search_runs([experiment.experiment_id], query)
        assert run.data.params["recipe"] == trial.config.recipe.name
        assert run.data.params["train.epochs"] == "3"
        if trial.role == "grid":
            assert run.data.params["recipe.beta"] == "9"
        verdicts = Verdicts.read(output.folder.trial(trial) / "verdicts.parquet")
        verified = Verdicts.read(output.folder.trial(trial) / "verified.parquet")
        assert run.data.metrics["pgd_acc"] == verdicts.robust_acc
        assert run.data.metrics["robust_acc"] == verified.robust_acc
        history = client.get_metric_history(run.info.run_id, "test_by_attack_steps/pgd_cw_worst")
        assert {metric.step: metric.value for metric in history} == dict(
            zip(verdicts.outcomes["cw"].steps, verdicts.curve("cw", "worst"), strict=True)
        )
        epochs = client.get_metric_history(run.info.run_id, "val/pgd5_acc")
        status = output.statuses()[trial.id]
        assert [(m.step, m.value) for m in epochs] == [(e["epoch"], e["val_robust_acc"]) for e in status.epochs]
        tags = run.data.tags
        assert tags["bat.suite"] == f"{suite_label(status.result)} (n = 8, test)"
        assert tags["bat.verdict"] == verdict(status.result)
        assert tags["bat.flags"] == (", ".join(status.result["flags"]) or "none")
        assert "bat.collapsed" not in tags
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        assert {"verdicts.parquet", "verified.parquet", "curves.png", "gallery.png"} <= files


def test_the_model_in_mlflow_is_the_one_that_was_judged(finished: tuple[Output, str], place: Place) -> None:
    output, _ = finished
    mlflow.set_tracking_uri(place.uri)
    client = MlflowClient(place.uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    trial = output.spec.trials[0]
    (run,) = client.search_runs([experiment.experiment_id], f"tags.`bat.trial_id` = '{trial.id}'")
    test = load_dataset("digits", train_size=256, val_size=40, test_size=60).test
    images = to_unit(test.images)
    loaded = mlflow.pyfunc.load_model(run.data.tags["bat.model"])
    module, config = load_model(output.folder.trial(trial))
    assert config == trial.config
    with torch.no_grad():
        np.testing.assert_array_equal(loaded.predict(images.numpy()), module(images).numpy())
    verdicts = Verdicts.read(output.folder.trial(trial) / "verdicts.parquet")
    order = np.argsort(test.rows.numpy())
    correct = (module(images).argmax(1) == test.labels).numpy()[order]
    np.testing.assert_array_equal(correct, verdicts.clean_correct)
    assert not loaded.get_raw_model().training


def test_mirroring_again_changes_nothing(finished: tuple[Output, str], place: Place) -> None:
    assert finished
    before = snapshot(place.uri)
    code, printed = place.again("mirror.py", "undisturbed")
    assert code == 0, printed
    assert snapshot(place.uri) == before


def test_an_empty_server_gets_everything_from_the_records(
    finished: tuple[Output, str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeps.engine.tracking.background import BackgroundSync

    output, _ = finished
    uri = f"sqlite:///{place.path / 'replaced.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(place.path)
    assert BackgroundSync(output.spec, output.folder).once() is None

    def values(state: dict) -> list:
        return sorted(repr((tags["bat.trial_id"], params, metrics)) for tags, params, metrics, *_ in state.values())

    assert values(snapshot(uri)) == values(snapshot(place.uri))


def test_a_server_that_is_away_is_told_and_harms_nothing(
    finished: tuple[Output, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeps.engine.tracking.background import BackgroundSync

    output, _ = finished
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    trouble = BackgroundSync(output.spec, output.folder).once()
    assert trouble
    assert "127.0.0.1" in trouble
    assert "\n" not in trouble
