"""Log evaluations to MLflow: each model's numbers go to the run that the model belongs to.

Logging is idempotent: runs are found by their tags, and metrics carry the start time of the evaluation.
"""

import datetime
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from bat_core.norms import LINF, TITLES
from sweeps.engine.cli.text import percent
from sweeps.engine.evaluation.attack import SUMMARY, Evaluation
from sweeps.engine.evaluation.spec import EvaluationSpec, ModelRecord
from sweeps.engine.sweep.records import VERDICTS
from sweeps.engine.tracking.runs import EVALUATED_TAG, FLAGS_TAG, VERDICT_TAG, Runs, milliseconds

EXPERIMENT = "evaluations"  # for models without a sweep
MODEL_NAME_TAG = "bat.model_name"
EVALUATION_TAG = "bat.evaluation"


def log_evaluation(
    evaluation: Evaluation, folder: Path, model: ModelRecord, summary: Mapping[str, Any], *, uri: str
) -> None:
    """Log one model's summary to its run: the headline, every attack, masking status, flags and files.

    Raises:
        MlflowException: the server rejected the data; resume the evaluation to try again.
    """
    runs = Runs(uri)
    run_id = run_of(runs, evaluation, model)
    at = milliseconds(datetime.datetime.fromisoformat(evaluation.created).timestamp())
    suite, classes = evaluation.name.replace("+", "."), evaluation.own_suite().classes
    suite += f"-for-{classes}-classes" if classes else ""
    suite += "" if evaluation.norm == LINF else f"-{evaluation.norm}"
    numbers = {"clean_acc": summary["clean_acc"], "robust_acc": summary["robust_acc"], **summary["per_attack"]}
    low, high = summary["robust_acc_interval"]
    numbers |= {"robust_acc_low": low, "robust_acc_high": high, "n": summary["n"]}
    runs.log_metrics(run_id, {f"eval/{suite}/{name}": value for name, value in numbers.items()}, at=at)
    runs.set_tags(run_id, {f"bat.eval.{suite}": headline(summary)})
    if evaluation.checks != "none":
        flags = ", ".join(flag["name"] for flag in summary["flags"]) or "none"
        runs.set_tags(run_id, {EVALUATED_TAG: suite, VERDICT_TAG: summary["verdict"], FLAGS_TAG: flags})
    runs.log_files(run_id, (folder / name for name in (SUMMARY, VERDICTS)), f"evaluation/{suite}")


def headline(summary: Mapping[str, Any]) -> str:
    """A model's robust accuracy in one line, with its suite."""
    low, high = summary["robust_acc_interval"]
    norm = f"{TITLES[summary['norm']]} " if "norm" in summary else ""
    return (
        f"{percent(summary['robust_acc'])} [{percent(low)}, {percent(high)}] under {summary['suite']} at {norm}eps"
        f" {summary['eps']:.4f}, n = {summary['n']}, {summary['verdict']}"
    )


def run_of(runs: Runs, evaluation: EvaluationSpec, model: ModelRecord) -> str:
    """The run that trained the model, if MLflow has it; otherwise a run of this evaluation."""
    source = model.source
    if source.run_id:
        runs.restore_run(runs.get(source.run_id))
        return source.run_id
    found = runs.find_trial(source.sweep_id, source.trial_id) if source.sweep_id else None
    if found is None:
        identity = {EVALUATION_TAG: evaluation.id, MODEL_NAME_TAG: source.name}
        found = runs.find_or_make(EXPERIMENT, source.name, identity, evaluation.command)
    return str(found.info.run_id)


def log_corruptions(
    spec: EvaluationSpec, folder: Path, model: ModelRecord, summary: Mapping[str, Any], *, uri: str
) -> None:
    """Log one model's accuracy under corruptions to its run: the mean, and each corruption's.

    Raises:
        MlflowException: the server rejected the data; resume the evaluation to try again.
    """
    runs = Runs(uri)
    run_id = run_of(runs, spec, model)
    at = milliseconds(datetime.datetime.fromisoformat(spec.created).timestamp())
    low, high = summary["corrupted_acc_interval"]
    numbers = {name: summary[name] for name in ("clean_acc", "corrupted_acc", "n", "mce") if summary[name] is not None}
    numbers |= {"corrupted_acc_low": low, "corrupted_acc_high": high}
    numbers |= {name: fmean(shares) for name, shares in summary["by_corruption"].items()}
    runs.log_metrics(run_id, {f"corruptions/{name}": value for name, value in numbers.items()}, at=at)
    said = f"{percent(summary['corrupted_acc'])} [{percent(low)}, {percent(high)}], {summary['images']}"
    runs.set_tags(run_id, {"bat.corruptions": f"{said}, n = {summary['n']}"})
    runs.log_files(run_id, (folder / SUMMARY,), "corruptions")
