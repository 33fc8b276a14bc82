"""Evaluations in MLflow: models read from it, and numbers written to the run that each model belongs to.

A transfer matrix is of several models and has a run of its own.

Run twice, it changes nothing the second time: runs are found by their tags, and values carry the time
at which the evaluation was begun.
"""

import datetime
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sweeps.engine.mlflow_mirror as mirror  # isort: skip (it sets up MLflow before the import below)
import mlflow
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from bat_core.errors import InputError, check_file_name
from sweeps.engine.assessment import Examined
from sweeps.engine.evaluation import SUMMARY, VERDICTS, Evaluation
from sweeps.engine.redaction import redacted
from sweeps.engine.transfer import Matrix, label
from sweeps.engine.transfer_cells import NOT_VERIFIED

OUR_LOADER = "sweeps.engine.mlflow_model"
EXPERIMENT = "evaluations"  # for models that no run of ours made
MODEL_NAME_TAG = "bat.model_name"
EVALUATION_TAG = "bat.evaluation"
TRANSFERS = "transfer"  # the experiment of transfer matrices
TRANSFER_TAG = "bat.transfer"


def download_model(uri: str, folder: Path) -> tuple[Path, str, str]:
    """The folder of one of our models in MLflow, and the id and name of the run that made it.

    Only models that a sweep of ours logged are taken, from safetensors: others could run code when loaded.

    Raises:
        InputError: MLflow has no such model, or it is of another kind.
    """
    with _place_for(uri, folder) as own:
        try:
            place = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(own)))
            described = Model.load(str(place))
            run = MlflowClient().get_run(described.run_id) if described.run_id else None
        except (MlflowException, OSError) as error:
            raise InputError(f"MLflow has no model {uri!r}: {redacted(str(error).splitlines()[0])[:200]}") from error
        except Exception as error:  # whatever a YAML that is no MLmodel of MLflow's leads to
            raise InputError(f"model {uri!r}: its MLmodel cannot be read: {type(error).__name__}") from error
        pyfunc = (described.flavors or {}).get("python_function") or {}
        if pyfunc.get("loader_module") != OUR_LOADER or run is None:
            raise InputError(
                f"model {uri!r} is none of ours: loading it could run foreign code; name a package.module:factory with"
                " --weights instead"
            )
        data = str(pyfunc.get("data"))
        for part in data.split("/"):
            check_file_name(f"model {uri!r}: the folder {data!r} in its MLmodel", part)
    return place / data, run.info.run_id, run.info.run_name


def log_evaluation(
    evaluation: Evaluation, folder: Path, model: Examined, summary: Mapping[str, Any], *, uri: str
) -> None:
    """Bring one model's summary onto its run: the headline, every attack, verdict, flags, files.

    Raises:
        MlflowException: the server did not take it; resume the evaluation to try again.
    """
    client = MlflowClient(tracking_uri=uri)
    run = _run(client, evaluation, model)
    run_id = run.info.run_id
    at = int(datetime.datetime.fromisoformat(evaluation.created).timestamp() * 1000)
    suite = evaluation.name.replace("+", ".")
    numbers = {"clean_acc": summary["clean_acc"], "robust_acc": summary["robust_acc"], **summary["per_attack"]}
    low, high = summary["robust_acc_interval"]
    numbers |= {"robust_acc_low": low, "robust_acc_high": high, "n": summary["n"]}
    client.log_batch(run_id, metrics=[Metric(f"eval/{suite}/{name}", value, at, 0) for name, value in numbers.items()])
    client.set_tag(run_id, f"bat.eval.{suite}", headline(summary))
    if evaluation.checks != "none":
        flags = ", ".join(flag["name"] for flag in summary["flags"]) or "none"
        tags = {mirror.EVALUATED_TAG: suite, mirror.VERDICT_TAG: summary["verdict"], mirror.FLAGS_TAG: flags}
        for tag, value in tags.items():
            client.set_tag(run_id, tag, value)
    for name in (SUMMARY, VERDICTS):
        client.log_artifact(run_id, str(folder / name), f"evaluation/{suite}")


def log_transfer(matrix: Matrix, folder: Path, files: Sequence[str], says: str, *, uri: str) -> None:
    """Bring a transfer matrix into MLflow, as one run: its settings, its files, what it says.

    Args:
        files: in `folder`.  says: in a sentence or two, for people.
    Raises:
        MlflowException: the server did not take it; resume the transfer matrix to try again.
    """
    client = MlflowClient(tracking_uri=uri)
    run_id = _own_run(client, TRANSFERS, folder.name, {TRANSFER_TAG: matrix.id}, matrix.command).info.run_id
    names = ("dataset", "split", "n", "pixel", "eps", "step_size", "seed", "precision", "version")
    settings = {name: getattr(matrix, name) for name in names} | {"models": ", ".join(matrix.names)}
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in settings.items()])
    suite = "+".join(map(label, matrix.attacks()))
    client.set_tag(run_id, mirror.SUITE_TAG, f"{suite}, {NOT_VERIFIED} (n = {matrix.n})")
    client.set_tag(run_id, "mlflow.note.content", says)
    for name in files:
        client.log_artifact(run_id, str(folder / name))


def headline(summary: Mapping[str, Any]) -> str:
    """The one line that says what a model is worth, with the suite that it is worth it against."""
    low, high = summary["robust_acc_interval"]
    return (
        f"{summary['robust_acc']:.1%} [{low:.1%}, {high:.1%}] under {summary['suite']} at eps {summary['eps']:.4f},"
        f" n = {summary['n']}, {summary['verdict']}"
    )


def _run(client: MlflowClient, evaluation: Evaluation, model: Examined) -> Run:
    """The run that made the model, where MLflow knows it; else one of the evaluation's own."""
    source = model.source
    if source.run_id:
        return client.get_run(source.run_id)
    if source.sweep_id:
        query = f"tags.`{mirror.SWEEP_TAG}` = '{source.sweep_id}' and tags.`{mirror.TRIAL_TAG}` = '{source.trial_id}'"
        everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
        if found := client.search_runs(everywhere, query, max_results=1):
            return found[0]
    identity = {EVALUATION_TAG: evaluation.id, MODEL_NAME_TAG: source.name}
    return _own_run(client, EXPERIMENT, source.name, identity, evaluation.command)


def _own_run(client: MlflowClient, experiment: str, name: str, identity: Mapping[str, str], command: str) -> Run:
    """The run in an experiment that bears the tags `identity`; made, and over, where there is none yet."""
    known = client.get_experiment_by_name(experiment)
    experiment_id = (
        known.experiment_id if known else client.create_experiment(experiment, tags={mirror.KIND_TAG: mirror.KIND})
    )
    query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in identity.items())
    if found := client.search_runs([experiment_id], query, max_results=1):
        return found[0]
    run = client.create_run(experiment_id, run_name=name, tags={**identity, **mirror.source_tags(command)})
    client.set_terminated(run.info.run_id)
    return run


@contextmanager
def _place_for(uri: str, folder: Path) -> Iterator[Path]:
    """A folder of the model's own in `folder`; gone again, with nothing else, if the model is not taken."""
    was_there = folder.exists()
    place = folder / "".join(character if character.isalnum() else "-" for character in uri)
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    except InputError:
        shutil.rmtree(place)
        if not was_there:
            folder.rmdir()
        raise
