"""Syncs MLflow with the records. The sync is idempotent.

Each sweep has one experiment, with a parent run for the figure and a child run per trial. Runs are found by their
tags. Values carry the time at which they were recorded, and MLflow stores equal values once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlflow
from mlflow.entities import LifecycleStage, LoggedModelStatus, Metric, Param, Run
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from bat_core.config import flatten, to_dict
from bat_core.errors import InputError
from bat_core.verdicts import READINGS, Verdicts
from sweeps.engine.cli.markdown import harmless
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import NUMBERS, VERDICTS, VERIFIED, TrialStatus
from sweeps.engine.sweep.spec import Report, Sweep, Trial
from sweeps.engine.sweep.trial_sync import MODEL
from sweeps.engine.tracking.runs import (
    COLLAPSED_TAG,
    EVALUATED_TAG,
    FLAGS_TAG,
    MODEL_TAG,
    NOTE_TAG,
    PASSED_OVER_TAG,
    REASON_TAG,
    REUSED_TAG,
    ROLE_TAG,
    SUITE_TAG,
    VERDICT_TAG,
    SweepRuns,
    milliseconds,
)

BATCH = 500  # metrics in one request, below MLflow's limit of 1,000
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
LOADER = "sweeps.engine.mlflow_model"


class SweepSync:
    """Syncs one sweep to MLflow. `sync` can be called any number of times.

    Args:
        uri: the tracking server or database.
    """

    def __init__(self, sweep: Sweep, folder: SweepFolder, *, uri: str) -> None:
        mlflow.set_tracking_uri(uri)
        self.sweep, self.folder = sweep, folder
        self.runs = SweepRuns(sweep, folder, uri)
        self._synced: dict[str, TrialStatus] = {}
        self._reported: Report | None = None
        self._check_duplicates = True  # a request that failed here may have succeeded on the server

    def sync(self) -> None:
        """Log what the records have and MLflow lacks. Trials with damaged files are skipped.

        Raises:
            MlflowException: the server rejected a request or did not answer. Retry later.
            InputError: a trial's files are damaged.
        """
        if not self.runs.known_to_server():
            self.runs.forget()
            self._synced.clear()
            self._reported = None
        try:
            damaged = self._sync_trials(self.runs.parent().info.run_id)
            if self._check_duplicates:
                self.runs.delete_duplicates()
                self._check_duplicates = False
            self._sync_report()
        except Exception as error:
            self._check_duplicates = True
            if LifecycleStage.DELETED in str(error):  # somebody deleted a run in MLflow: make it anew next time
                self.runs.forget()
            raise
        if damaged:
            raise damaged

    def _sync_trials(self, parent: str) -> InputError | None:
        """Sync every trial that changed. Returns the error of the last one with damaged files."""
        damaged: InputError | None = None
        for trial, status in self.folder.statuses(self.sweep):
            if status.started is None or self._synced.get(trial.id) == status:
                continue
            try:
                _RunSync(self.runs, trial, status).sync(parent)
            except InputError as error:
                damaged = error
            else:
                self._synced[trial.id] = status
        return damaged

    def _sync_report(self) -> None:
        """Log the figure and its numbers to the parent run, and end that run once all trials have ended."""
        trials, report = self.folder.trials(self.sweep), self.folder.report()
        over = all(trial.id in self._synced and self._synced[trial.id].done for trial in trials)
        if not over or report is None or report == self._reported:
            return
        run = self.runs.parent()
        run_id = run.info.run_id
        self.runs.log_files(run_id, (self.folder.path / file for file in report.files))
        self.runs.set_tags(run_id, {NOTE_TAG: harmless(report.sentence)})
        ended = list(self._synced.values())
        failed = not self.sweep.open and any(status.phase == "failed" for status in ended)
        self.runs.close(run, "FAILED" if failed else "FINISHED", max(status.ended or 0 for status in ended))
        self._reported = report


class _RunSync:
    """Syncs one trial's current status to its run."""

    def __init__(self, runs: SweepRuns, trial: Trial, status: TrialStatus) -> None:
        self.runs, self.client, self.trial, self.status = runs, runs.client, trial, status
        self.folder = runs.folder.trial(trial)

    def sync(self, parent: str) -> None:
        """Log parameters, metrics, tags and files, and update the run's status."""
        trial, status = self.trial, self.status
        tags = {MLFLOW_PARENT_RUN_ID: parent, ROLE_TAG: trial.role}
        run = self.runs.run(trial.id, trial.id, milliseconds(status.started or 0), tags)
        run_id = run.info.run_id
        params = [Param(name, _plain(value)) for name, value in flatten(to_dict(trial.config)).items()]
        params.append(Param("config_hash", trial.config.hash))
        self.client.log_batch(run_id, params=params)
        if run.data.tags.get(MLFLOW_PARENT_RUN_ID) != parent:
            self.client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent)
        self._log_metrics(run_id, _epoch_metrics(status))
        if status.phase == "finished" and status.result:
            verdicts = Verdicts.read(self.folder / VERDICTS)
            self._log_metrics(run_id, _test_metrics(verdicts, status.result))
        self._set_tags(run)
        if status.phase == "finished":
            self._log_files(run_id)
        if status.phase in STATUS:
            self.runs.close(run, STATUS[status.phase], status.ended or 0)
        elif run.info.status != "RUNNING":
            self.client.update_run(run_id, status="RUNNING")

    def _set_tags(self, run: Run) -> None:
        run_id, evaluated = run.info.run_id, EVALUATED_TAG in run.data.tags
        tags = _tags(self.status)
        if evaluated:  # keep the evaluation's verdict and flags
            tags = {tag: value for tag, value in tags.items() if tag not in {VERDICT_TAG, FLAGS_TAG}}
        self.runs.set_tags(run_id, tags)
        if self.status.reason:
            self.client.set_tag(run_id, REASON_TAG, self.status.reason)
        elif REASON_TAG in run.data.tags:
            self.client.delete_tag(run_id, REASON_TAG)
            self.runs.refresh(self.trial.id)

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def _log_files(self, run_id: str) -> None:
        run = self.runs.get(run_id)
        if MODEL_TAG in run.data.tags:
            return
        self.runs.log_files(
            run_id, (self.folder / name for name in (VERDICTS, VERIFIED) if (self.folder / name).exists())
        )
        self.client.set_tag(run_id, MODEL_TAG, self._known_model(run) or self._log_model(run_id))

    def _known_model(self, run: Run) -> str | None:
        """A model that an earlier sync logged completely but did not tag."""
        for output in run.outputs.model_outputs if run.outputs else []:
            if self.client.get_logged_model(output.model_id).status == LoggedModelStatus.READY:
                return f"models:/{output.model_id}"
        return None

    def _log_model(self, run_id: str) -> str:
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name=MODEL,
                loader_module=LOADER,
                data_path=str(self.folder / MODEL),
                pip_requirements=[f"bat-sweeps=={self.runs.sweep.version}"],
            )
        return str(logged.model_uri)


def _plain(value: Any) -> str:
    """A setting as text, equal for 10 and 10.0: MLflow rejects a different text for the same parameter."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _epoch_metrics(status: TrialStatus) -> list[Metric]:
    return [
        Metric(name, event[name], milliseconds(event["time"]), event["epoch"])
        for event in status.epochs
        for name in NUMBERS
        if name in event
    ]


def _test_metrics(verdicts: Verdicts, result: Mapping[str, Any]) -> list[Metric]:
    """The headline accuracies, and the curves with the number of attack steps as step axis."""
    at = milliseconds(result["time"])
    metrics = [Metric(name, result[name], at, 0) for name in ("clean_acc", "pgd_acc", "robust_acc")]
    for loss, outcome in verdicts.outcomes.items():
        for reading in READINGS:
            curve = zip(outcome.steps, outcome.curve(reading), strict=True)
            metrics += [Metric(f"pgd_{loss}_{reading}", float(accuracy), at, steps) for steps, accuracy in curve]
    return metrics


def _tags(status: TrialStatus) -> dict[str, str]:
    """Tags that qualify the robust accuracy: its suite, n, and the result of the masking checks."""
    tags = {} if status.collapsed is None else {COLLAPSED_TAG: str(status.collapsed)}
    if status.reused:
        tags[REUSED_TAG] = status.reused
    if status.passed_over:
        tags[PASSED_OVER_TAG] = "; ".join(status.passed_over.values())
    if status.phase == "finished" and status.result:
        tags[SUITE_TAG] = (
            f"{status.result['suite']} (n = {status.result['robust_n']}, {status.result.get('split', 'test')})"
        )
        tags[VERDICT_TAG] = status.result["verdict"]
        tags[FLAGS_TAG] = ", ".join(status.result["flags"]) or "none"
    return tags
