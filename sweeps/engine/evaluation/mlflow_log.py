"""Log evaluations to MLflow: each model's numbers go to the run that the model belongs to.

Logging is idempotent: runs are found by their tags, and metrics carry the start time of the evaluation.
"""

import datetime
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from bat_core.masking.flags import status_in_words
from bat_core.norms import LINF, TITLES
from bat_core.paths import below
from bat_core.suites import is_verified
from sweeps.engine.cli.text import budget, percent
from sweeps.engine.evaluation import sampled_report
from sweeps.engine.evaluation.attack import SUMMARY, Evaluation
from sweeps.engine.evaluation.spec import EvaluationSpec, ModelRecord
from sweeps.engine.pages.document import PAGE
from sweeps.engine.sweep.records import VERDICTS
from sweeps.engine.tracking.names import clean_metric, robust_metric
from sweeps.engine.tracking.runs import (
    BUDGET_TAG,
    DATASET_TAG,
    EVALUATED_TAG,
    FLAGS_TAG,
    SUITE_TAG,
    VERDICT_TAG,
    Run,
    Runs,
    milliseconds,
)

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
    run, own = _run(runs, evaluation, model)
    run_id = str(run.info.run_id)
    at = milliseconds(datetime.datetime.fromisoformat(evaluation.created).timestamp())
    suite, classes = evaluation.name.replace("+", "."), evaluation.own_suite().classes
    suite += f"-for-{classes}-classes" if classes else ""
    suite += "" if evaluation.norm == LINF else f"-{evaluation.norm}"
    verified = is_verified(summary["suite"])
    robust = robust_metric("test", verified=verified)
    low, high = summary["robust_acc_interval"]
    numbers = {"clean_acc": summary["clean_acc"], robust: summary["robust_acc"], **summary["per_attack"]}
    numbers |= {f"{robust}_low": low, f"{robust}_high": high, "n": summary["n"]}
    if evaluation.sampled:
        sample = summary["sampled"]
        del numbers[robust]  # an interval has no single number
        numbers |= {f"{robust}_low": sample["low"], f"{robust}_high": sample["high"]}
        numbers |= {name: sample[name] for name in ("drawn", "fallen")}
    runs.log_metrics(run_id, {f"eval/{suite}/{name}": value for name, value in numbers.items()}, at=at)
    if own:
        split = evaluation.split
        headlines = {clean_metric(split): summary["clean_acc"]}
        if not evaluation.sampled:
            headlines[robust_metric(split, verified=verified)] = summary["robust_acc"]
        runs.log_metrics(run_id, headlines, at=at)
        runs.set_tags(run_id, _identity(evaluation, summary))
    runs.set_tags(run_id, {f"bat.eval.{suite}": headline(evaluation, summary)})
    if evaluation.checks != "none":
        flags = ", ".join(flag["name"] for flag in summary["flags"]) or "none"
        runs.set_tags(run_id, {EVALUATED_TAG: suite, VERDICT_TAG: _verdict(summary), FLAGS_TAG: flags})
    files = [below(folder, name) for name in (SUMMARY, VERDICTS)] + [below(folder.parent, PAGE)]
    runs.log_files(run, (file for file in files if file.exists()), f"evaluation/{suite}")


def headline(evaluation: Evaluation, summary: Mapping[str, Any]) -> str:
    """A model's robust accuracy in one line, with its suite; or the interval, if images were drawn."""
    if evaluation.sampled:
        return sampled_report.headline(sampled_report.worst_case(evaluation), summary)
    low, high = summary["robust_acc_interval"]
    norm = f"{TITLES[summary['norm']]} " if "norm" in summary else ""
    return (
        f"{percent(summary['robust_acc'])} [{percent(low)}, {percent(high)}] under {summary['suite']} at {norm}eps"
        f" {summary['eps']:.4f}, n = {summary['n']}, {_verdict(summary)}"
    )


def _verdict(summary: Mapping[str, Any]) -> str:
    return status_in_words(summary["verdict"], summary["robust_acc"])


def _identity(evaluation: Evaluation, summary: Mapping[str, Any]) -> dict[str, str]:
    """The tags of a model that no sweep trained: what its accuracies are measured on, and against."""
    n = summary["n"]
    return {
        DATASET_TAG: f"{evaluation.dataset} {evaluation.split} (n = {n})",
        BUDGET_TAG: budget(evaluation.eps, evaluation.unit),
        SUITE_TAG: f"{summary['suite']} (n = {n}, {evaluation.split})",
    }


def _run(runs: Runs, evaluation: EvaluationSpec, model: ModelRecord) -> tuple[Run, bool]:
    """The run that trained the model, if MLflow has it; otherwise one of this evaluation, which is its own."""
    source = model.source
    if source.run_id:
        run = runs.get(source.run_id)
        runs.restore_run(run)
        return run, False
    found = runs.find_trial(source.sweep_id, source.trial_id) if source.sweep_id else None
    if found is not None:
        return found, False
    identity = {EVALUATION_TAG: evaluation.id, MODEL_NAME_TAG: source.name}
    return runs.find_or_make(EXPERIMENT, source.name, identity, evaluation.command), True


def log_corruptions(
    spec: EvaluationSpec, folder: Path, model: ModelRecord, summary: Mapping[str, Any], *, uri: str
) -> None:
    """Log one model's accuracy under corruptions to its run: the mean, and each corruption's.

    Raises:
        MlflowException: the server rejected the data; resume the evaluation to try again.
    """
    runs = Runs(uri)
    run, _ = _run(runs, spec, model)
    run_id = str(run.info.run_id)
    at = milliseconds(datetime.datetime.fromisoformat(spec.created).timestamp())
    low, high = summary["corrupted_acc_interval"]
    numbers = {name: summary[name] for name in ("clean_acc", "corrupted_acc", "n", "mce") if summary[name] is not None}
    numbers |= {"corrupted_acc_low": low, "corrupted_acc_high": high}
    numbers |= {name: fmean(shares) for name, shares in summary["by_corruption"].items()}
    runs.log_metrics(run_id, {f"corruptions/{name}": value for name, value in numbers.items()}, at=at)
    said = f"{percent(summary['corrupted_acc'])} [{percent(low)}, {percent(high)}], {summary['images']}"
    runs.set_tags(run_id, {"bat.corruptions": f"{said}, n = {summary['n']}"})
    runs.log_files(run, [below(folder, SUMMARY)], "corruptions")
