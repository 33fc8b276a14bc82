"""Evaluating as a person does: models from folders, MLflow and their own code; numbers in MLflow; two processes."""

import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient

import bat_core.fit
from bat_core.checkpoint import load_model
from bat_core.masking.flags import status_in_words
from bat_core.verdicts import Verdicts
from sweeps.engine.evaluation.attack import EvaluationFolder
from sweeps.engine.evaluation.mlflow_log import log_evaluation
from sweeps.engine.evaluation.model_sources import fingerprint
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
from sweeps.engine.tracking.background import BackgroundSync
from tests.engine.evaluation.evaluations import contents
from tests.integration.nets import NETS, SETTINGS
from tests.integration.running import Output, Place, attempt, snapshot

pytestmark = [pytest.mark.ray, pytest.mark.slow]

N = 8
OF_A_TRIAL, BY_RUN, BY_MODEL, BY_ALIAS = "eps8-seed0", "eps4-seed0", "undefended-seed0", "eps4-seed1"
TRIALS = (OF_A_TRIAL, BY_RUN, BY_MODEL, BY_ALIAS)


class Evaluated(NamedTuple):
    place: Place
    sweep: Output
    folder: Path
    printed: str

    def summary(self, model: str) -> dict:
        return json.loads((self.folder / model / "summary.json").read_text())

    def run(self, trial: str) -> mlflow.entities.Run:
        client = MlflowClient(self.place.uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"tags.`bat.trial_id` = '{trial}'")
        return run


@pytest.fixture(scope="module")
def evaluated(finished: tuple[Output, str], tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    """A finished sweep with an MLflow of its own, and five models evaluated: one from a folder, three out of MLflow by
    a run, a model and an alias, and one that no sweep of ours made."""
    place = Place(tmp_path_factory.mktemp("evaluate"))
    folder = Path(shutil.copytree(finished[0].folder.path, place.path / "undisturbed"))
    sweep = Output(SweepFolder(folder))
    (place.path / "nets.py").write_text(NETS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", place.uri)
        patch.chdir(place.path)
        assert BackgroundSync(sweep.spec, sweep.folder).once() is None
    made = Evaluated(place, sweep, place.path / "evaluated", "")
    registered = mlflow.register_model(made.run(BY_ALIAS).data.tags["bat.model"], "robust")
    MlflowClient(place.uri).set_registered_model_alias("robust", "champion", registered.version)

    models = [
        f"undisturbed/trials/{OF_A_TRIAL}",
        f"runs:/{made.run(BY_RUN).info.run_id}/model",
        made.run(BY_MODEL).data.tags["bat.model"],
        "models:/robust@champion",
        "nets:ridge",
    ]
    size = ("--n", str(N), "--batch-size", str(N))
    code, printed = place.run("evaluate.py", *models, *SETTINGS, *size, "--checks", "cheap", "--output", "evaluated")
    assert code == 0, printed
    return made._replace(printed=printed)


def test_each_model_is_evaluated_under_its_own_name(evaluated: Evaluated) -> None:
    left = {path.name for path in evaluated.folder.iterdir()}
    tables = {"report.html", "table.md", "table.csv"}
    assert left == {*TRIALS, "nets.ridge", "evaluation.json", "config.yaml", *tables, ".lock", ".marks.json"}
    for model in (*TRIALS, "nets.ridge"):
        summary = evaluated.summary(model)
        verdicts = Verdicts.read(evaluated.folder / model / "verdicts.parquet")
        assert (summary["model"], summary["n"], summary["suite"]) == (model, N, "paper, not verified")
        assert (summary["robust_acc"], summary["clean_acc"]) == (verdicts.robust_acc, verdicts.clean_acc)
        assert summary["verdict"] in {"clear", "suspect", "masked"}


def test_a_model_out_of_mlflow_is_the_trials_own(evaluated: Evaluated) -> None:
    for trial in TRIALS:
        model, _ = load_model(evaluated.sweep.folder.path / "trials" / trial)
        assert evaluated.summary(trial)["fingerprint"] == fingerprint(model)


def test_it_says_what_stands_and_where_the_results_are(evaluated: Evaluated) -> None:
    lines = evaluated.printed.splitlines()
    assert any("paper, not verified" in line and f"n = {N}" in line for line in lines)
    assert f"{evaluated.summary(OF_A_TRIAL)['robust_acc']:.1%}" in evaluated.printed
    assert any(line.startswith("Results: evaluated (report.html, table.md") for line in lines)
    assert any(line.startswith("MLflow: ") and evaluated.place.uri in line for line in lines)
    assert "Warning" not in evaluated.printed


def words(summary: dict) -> str:
    return status_in_words(summary["verdict"], summary["robust_acc"])


def metrics(summary: dict) -> dict[str, float]:
    low, high = summary["robust_acc_interval"]
    name = "robust_acc_not_verified"  # under the suite of the paper
    numbers = {f"{name}_low": low, f"{name}_high": high, name: summary["robust_acc"], **summary["per_attack"]}
    numbers |= {name: summary[name] for name in ("clean_acc", "n")}
    return {f"eval/paper/{name}": value for name, value in numbers.items()}


def test_the_numbers_land_on_the_trials_own_run(evaluated: Evaluated) -> None:
    client = MlflowClient(evaluated.place.uri)
    for trial in TRIALS:
        run, summary = evaluated.run(trial), evaluated.summary(trial)
        assert {name: run.data.metrics[name] for name in metrics(summary)} == metrics(summary)
        headline = run.data.tags["bat.eval.paper"]
        assert headline.startswith(f"{summary['robust_acc']:.1%} [")
        assert f"under paper, not verified at eps 0.1569, n = {N}, {words(summary)}" in headline
        files = {file.path for file in client.list_artifacts(run.info.run_id, "evaluation/paper")}
        names = ("summary.json", "verdicts.parquet", "report.html")
        assert files == {f"evaluation/paper/{name}" for name in names}


def run_beside(evaluated: Evaluated, evaluation: str) -> mlflow.entities.Run:
    """The run of a model that belongs to no sweep."""
    client = MlflowClient(evaluated.place.uri)
    experiment = client.get_experiment_by_name("evaluations").experiment_id
    (run,) = client.search_runs([experiment], f"tags.`bat.evaluation` = '{evaluation}'")
    return run


def test_a_model_of_ones_own_gets_one_run_beside(evaluated: Evaluated) -> None:
    run = run_beside(evaluated, EvaluationFolder(evaluated.folder).load().id)
    assert (run.info.run_name, run.info.status) == ("nets.ridge", "FINISHED")
    summary = evaluated.summary("nets.ridge")
    headline = {"clean_acc": summary["clean_acc"], "robust_acc_not_verified": summary["robust_acc"]}
    assert run.data.metrics == metrics(summary) | headline
    assert run.data.tags["bat.verdict"] == words(summary)


def test_a_trials_own_numbers_stay_its_own(evaluated: Evaluated) -> None:
    for trial in TRIALS:
        result = read_status(evaluated.sweep.folder.path / "trials" / trial).result
        run = evaluated.run(trial)
        for name in ("clean_acc", "pgd_acc", "robust_acc"):
            assert run.data.metrics[name] == result[name]
        assert run.data.tags["bat.suite"] == f"{result['suite']} (n = {result['robust_n']}, test)"


def test_going_on_with_a_finished_evaluation_adds_nothing(
    evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", evaluated.place.uri)
    monkeypatch.chdir(evaluated.place.path)
    before, files = snapshot(evaluated.place.uri), contents(evaluated.folder)
    code, said = attempt(monkeypatch, "evaluate.py", "--resume", "evaluated")
    assert (code, said) == (0, "")
    assert snapshot(evaluated.place.uri) == before
    assert contents(evaluated.folder) == files


def test_mirroring_the_sweep_again_changes_nothing(evaluated: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", evaluated.place.uri)
    before = snapshot(evaluated.place.uri)
    assert BackgroundSync(evaluated.sweep.spec, evaluated.sweep.folder).once() is None
    for trial in TRIALS:
        own = read_status(evaluated.sweep.folder.path / "trials" / trial).result
        assert evaluated.run(trial).data.metrics["robust_acc"] == own["robust_acc"]
    assert snapshot(evaluated.place.uri) == before


def test_an_evaluation_without_checks_takes_no_verdict_back(evaluated: Evaluated) -> None:
    evaluation = replace(EvaluationFolder(evaluated.folder).load(), suite="curve", checks="none")
    (model,) = [one for one in evaluation.models if one.source.name == OF_A_TRIAL]
    unchecked = evaluated.summary(OF_A_TRIAL) | {"verdict": "not checked", "flags": []}
    before = evaluated.run(OF_A_TRIAL).data.tags
    log_evaluation(evaluation, evaluated.folder / OF_A_TRIAL, model, unchecked, uri=evaluated.place.uri)
    after = evaluated.run(OF_A_TRIAL).data.tags
    assert after["bat.eval.curve"].endswith("not checked")
    assert (after["bat.verdict"], after["bat.flags"]) == (before["bat.verdict"], before["bat.flags"])


def test_black_boxes_are_named_where_their_number_is(evaluated: Evaluated) -> None:
    evaluation = EvaluationFolder(evaluated.folder).load()
    model = evaluation.models[-1]
    beside = replace(evaluation, id="with-black-boxes", transfer_from=(model,))
    summary = evaluated.summary("nets.ridge") | {"suite": "paper+transfer, not verified"}
    log_evaluation(beside, evaluated.folder / "nets.ridge", model, summary, uri=evaluated.place.uri)
    data = run_beside(evaluated, "with-black-boxes").data
    assert "eval/paper.transfer/robust_acc_not_verified" in data.metrics
    assert "bat.eval.paper.transfer" in data.tags
    assert "eval/paper/robust_acc_not_verified" not in data.metrics  # that is the number without


def test_two_processes_come_to_the_verdicts_of_one(evaluated: Evaluated) -> None:
    models = (f"undisturbed/trials/{OF_A_TRIAL}", "nets:ridge")
    shares = ("--n", str(N), "--batch-size", "3", "--workers", "2", "--checks", "cheap")
    code, printed = evaluated.place.run("evaluate.py", *models, *SETTINGS, *shares, "--output", "shared")
    assert code == 0, printed
    for model in (OF_A_TRIAL, "nets.ridge"):
        file = f"{model}/verdicts.parquet"
        assert (evaluated.place.path / "shared" / file).read_bytes() == (evaluated.folder / file).read_bytes()
        summary = json.loads((evaluated.place.path / "shared" / model / "summary.json").read_text())
        for name in ("robust_acc", "per_attack", "verdict", "flags"):
            assert summary[name] == evaluated.summary(model)[name]


LOADER = """
from pathlib import Path

Path({marker!r}).touch()


def _load_pyfunc(path):
    raise RuntimeError("loaded")
"""


@pytest.fixture(params=["of a run", "of no run"])
def foreign(
    evaluated: Evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[str]:
    """The URI of a model in MLflow whose own code leaves a mark where it runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", evaluated.place.uri)
    monkeypatch.setattr(sys, "path", list(sys.path))
    mlflow.set_tracking_uri(evaluated.place.uri)
    loader = tmp_path / "code" / "foreign_loader.py"
    loader.parent.mkdir()
    loader.write_text(LOADER.format(marker=str(tmp_path / "it ran")))
    (tmp_path / "data").mkdir()
    run = mlflow.start_run() if request.param == "of a run" else contextlib.nullcontext()
    with run:
        logged = mlflow.pyfunc.log_model(
            name="model",
            loader_module="foreign_loader",
            code_paths=[str(loader)],
            data_path=str(tmp_path / "data"),
            pip_requirements=["torch"],
        )
    (tmp_path / "it ran").unlink(missing_ok=True)
    yield logged.model_uri
    sys.modules.pop("foreign_loader", None)


def test_a_model_of_another_kind_is_refused_and_its_code_does_not_run(foreign: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        code, said = attempt(patch, "evaluate.py", foreign, *SETTINGS, "--output", "out")
    assert code == 2
    assert "was not logged by bat-sweeps: loading it could run foreign code" in said
    assert not (tmp_path / "it ran").exists()
    assert not (tmp_path / "out").exists()
    with pytest.raises(RuntimeError, match="loaded"):
        mlflow.pyfunc.load_model(foreign)
    assert (tmp_path / "it ran").exists()  # where it is let, it does run


def test_a_model_that_is_refused_is_not_left_lying_about_and_takes_nothing_with_it(
    foreign: str, tmp_path: Path
) -> None:
    (tmp_path / "out-models").mkdir()  # a person's own, who gave it this name
    (tmp_path / "out-models" / "thesis.pt").touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.MonkeyPatch.context() as patch:
        code, _ = attempt(patch, "evaluate.py", foreign, *SETTINGS, "--output", "out")
    assert code == 2
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("uri", ["models:/m-00000000000000000000000000000000", "runs:/0123/model", "models:/nobody/1"])
def test_a_model_that_mlflow_does_not_have(
    evaluated: Evaluated, uri: str, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", evaluated.place.uri)
    mlflow.set_tracking_uri(evaluated.place.uri)
    code, said = attempt(monkeypatch, "evaluate.py", uri, *SETTINGS, "--output", "out")
    assert code == 2
    assert said.startswith(f"error: MLflow has no model '{uri}'")
    assert len(said.strip().splitlines()) == 1
    assert list(empty.iterdir()) == []


def test_a_collapse_is_told_in_mlflow(evaluated: Evaluated, make_trial, digits, monkeypatch) -> None:
    accuracies = [(0.8, 0.6, 0.5), (0.9, 0.0, 0.9), (0.9, 0.0, 0.9)]
    monkeypatch.setattr(bat_core.fit._Trainer, "_validate", lambda self, epoch: accuracies[epoch - 1])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", evaluated.place.uri)
    monkeypatch.chdir(evaluated.place.path)
    configs = [make_trial("FGSM", epochs=3), make_trial("Undefended", params={}, epochs=3)]
    trials = [Trial(id=f"collapsing-{config.recipe.name}", config=config) for config in configs]
    folder = SweepFolder(evaluated.place.path / "collapsing")
    folder.create(
        Sweep(name="s", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=tuple(trials))
    )
    for trial in trials:
        run_trial(trial, digits, folder.trial(trial), TrialRuntime(device=torch.device("cpu")))
    assert BackgroundSync(folder.load(), folder).once() is None
    one, other = (evaluated.run(trial.id).data for trial in trials)
    assert one.tags["bat.collapsed"] == "2"
    assert "bat.collapsed" not in other.tags
    client = MlflowClient(evaluated.place.uri)
    epochs = client.get_metric_history(evaluated.run(trials[0].id).info.run_id, "val/one_step_acc")
    assert [(metric.step, metric.value) for metric in epochs] == [(1, 0.5), (2, 0.9)]
