"""Evaluations in MLflow: models read from it, and numbers written to the run that each model belongs to.

A transfer matrix is of several models and has a run of its own.

Run twice, it changes nothing the second time: runs are found by their tags, and values carry the time
at which the evaluation was begun.
"""

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sweeps.engine.tracking.sync as mirror  # isort: skip (it sets up MLflow before the import below)
from mlflow.entities import Metric, Run
from mlflow.tracking import MlflowClient

from sweeps.engine.evaluation.attack import SUMMARY, VERDICTS, Evaluation
from sweeps.engine.evaluation.spec import ModelRecord

EXPERIMENT = "evaluations"  # for models that no run of ours made
MODEL_NAME_TAG = "bat.model_name"
EVALUATION_TAG = "bat.evaluation"


def log_evaluation(
    evaluation: Evaluation, folder: Path, model: ModelRecord, summary: Mapping[str, Any], *, uri: str
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


def headline(summary: Mapping[str, Any]) -> str:
    """The one line that says what a model is worth, with the suite that it is worth it against."""
    low, high = summary["robust_acc_interval"]
    return (
        f"{summary['robust_acc']:.1%} [{low:.1%}, {high:.1%}] under {summary['suite']} at eps {summary['eps']:.4f},"
        f" n = {summary['n']}, {summary['verdict']}"
    )


def _run(client: MlflowClient, evaluation: Evaluation, model: ModelRecord) -> Run:
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
