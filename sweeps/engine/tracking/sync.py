"""Makes MLflow agree with the records. Run twice, it changes nothing the second time.

One experiment a sweep, one parent run with the figure, one child run a trial. Runs are found by the
tags below, values carry the time at which they were recorded, and MLflow keeps equal values once.
"""

import datetime
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# The records hold what a dead server misses. A request that was too late is not sent twice: two runs would come of it.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # the table is drawn there
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from mlflow.entities import LoggedModelStatus, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME

from bat_core.config import flatten, to_dict
from bat_core.errors import InputError
from bat_core.verdicts import READINGS, Verdicts
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import NUMBERS, VERDICTS, VERIFIED, TrialStatus, read_status
from sweeps.engine.sweep.spec import Report, Sweep, Trial
from sweeps.engine.sweep.trial_sync import MODEL

SWEEP_TAG = "bat.sweep_id"
TRIAL_TAG = "bat.trial_id"
ROLE_TAG = "bat.role"
COMMAND_TAG = "bat.command"  # as it was typed
REASON_TAG = "bat.reason"  # why a trial failed or was stopped
MODEL_TAG = "bat.model"
SUITE_TAG = "bat.suite"  # what robust_acc is the robustness against
VERDICT_TAG = "bat.verdict"  # clear, suspect or masked
FLAGS_TAG = "bat.flags"
EVALUATED_TAG = "bat.evaluated"  # the evaluation whose verdict and flags stand in place of the trial's own
COLLAPSED_TAG = "bat.collapsed"  # the first epoch lost to catastrophic overfitting
REUSED_TAG = "bat.reused"  # the sweep and trial that it was taken from
PASSED_OVER_TAG = "bat.passed_over"  # checkpoints that were damaged, and why
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"  # which of its faces MLflow shows
PARENT = "(parent)"
GONE = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)
BATCH = 500  # metrics in one request, below MLflow's limit of 1,000
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Mirror:
    """Brings one sweep into MLflow, as often as one likes.

    Args:
        uri: the tracking server or database.
    """

    def __init__(self, sweep: Sweep, folder: SweepFolder, *, uri: str) -> None:
        mlflow.set_tracking_uri(uri)
        self.sweep, self.folder = sweep, folder
        self.client = MlflowClient(tracking_uri=uri)
        self._experiment: str | None = None
        self._runs: dict[str, Run] = {}
        self._mirrored: dict[str, TrialStatus] = {}
        self._reported: Report | None = None
        self._doubtful = True  # a request may have come through that no answer came to

    def sync(self) -> None:
        """Log what the records have and MLflow lacks.

        A trial whose own files are damaged is left behind; the others are not.

        Raises:
            MlflowException: the server did not take it; call again later.
            InputError: a trial's files are damaged.
        """
        if not self._is_known():
            self._forget()
        try:
            damaged = self._sync_trials(self._parent().info.run_id)
            if self._doubtful:
                self._drop_twins()
            self._sync_report()
        except Exception:
            self._doubtful = True
            raise
        if damaged:
            raise damaged

    def _sync_trials(self, parent: str) -> InputError | None:
        """Every trial of which there is news. Returns what was wrong with the last one whose files are damaged."""
        damaged: InputError | None = None
        for trial in self.folder.trials(self.sweep):
            status = read_status(self.folder.trial(trial))
            if status.started is None or self._mirrored.get(trial.id) == status:
                continue
            try:
                self._sync_trial(trial, status, parent)
            except InputError as error:
                damaged = error
            else:
                self._mirrored[trial.id] = status
        return damaged

    def _is_known(self) -> bool:
        """Whether the server still is the one that was mirrored to: behind its address there may be an empty one."""
        if PARENT not in self._runs:
            return False
        try:
            self.client.get_run(self._runs[PARENT].info.run_id)
        except MlflowException as error:
            if error.error_code != GONE:
                raise
            return False
        return True

    def _forget(self) -> None:
        self._experiment, self._reported = None, None
        self._runs.clear()
        self._mirrored.clear()

    def _drop_twins(self) -> None:
        """Runs that stand there twice: of a request that this client took for lost, and the server answered late."""
        runs: list[Run] = []
        page = None
        while page is None or page.token:
            page = self.client.search_runs(
                [self._experiment_id()],
                f"tags.`{SWEEP_TAG}` = '{self.sweep.id}'",
                page_token=page.token if page else None,
            )
            runs += page
        for run in runs:
            kept = self._runs.setdefault(run.data.tags[TRIAL_TAG], run)
            if run.info.run_id != kept.info.run_id:
                self.client.delete_run(run.info.run_id)
        self._doubtful = False

    def _sync_report(self) -> None:
        """The figure and its numbers on the parent run, which is over once all trials are."""
        trials, report = self.folder.trials(self.sweep), self.folder.report()
        over = all(trial.id in self._mirrored and self._mirrored[trial.id].done for trial in trials)
        if not over or report is None or report == self._reported:
            return
        run = self._parent()
        run_id = run.info.run_id
        for file in report.files:
            self.client.log_artifact(run_id, str(self.folder.path / file))
        self.client.set_tag(run_id, "mlflow.note.content", report.sentence)
        ended = list(self._mirrored.values())
        failed = not self.sweep.open and any(status.phase == "failed" for status in ended)
        self._close(run, "FAILED" if failed else "FINISHED", max(status.ended or 0 for status in ended))
        self._reported = report

    def _sync_trial(self, trial: Trial, status: TrialStatus, parent: str) -> None:
        run = self._run(
            trial.id, trial.id, _ms(status.started or 0), {MLFLOW_PARENT_RUN_ID: parent, ROLE_TAG: trial.role}
        )
        run_id = run.info.run_id
        params = [Param(name, _plain(value)) for name, value in flatten(to_dict(trial.config)).items()]
        params.append(Param("config_hash", trial.config.hash))
        self.client.log_batch(run_id, params=params)
        if run.data.tags.get(MLFLOW_PARENT_RUN_ID) != parent:
            self.client.set_tag(run_id, MLFLOW_PARENT_RUN_ID, parent)
        self._log_metrics(run_id, _epoch_metrics(status))
        if status.phase == "finished" and status.result:
            verdicts = Verdicts.read(self.folder.trial(trial) / VERDICTS)
            self._log_metrics(run_id, _test_metrics(verdicts, status.result))
        evaluated = EVALUATED_TAG in run.data.tags
        for tag, value in _tags(status).items():
            if not (evaluated and tag in {VERDICT_TAG, FLAGS_TAG}):
                self.client.set_tag(run_id, tag, value)
        if status.reason:
            self.client.set_tag(run_id, REASON_TAG, status.reason)
        elif REASON_TAG in run.data.tags:
            self.client.delete_tag(run_id, REASON_TAG)
            self._runs[trial.id] = self.client.get_run(run_id)
        if status.phase == "finished":
            self._log_files(run_id, self.folder.trial(trial))
        if status.phase in STATUS:
            self._close(run, STATUS[status.phase], status.ended or 0)
        elif run.info.status != "RUNNING":
            self.client.update_run(run_id, status="RUNNING")

    def _log_metrics(self, run_id: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])

    def _log_files(self, run_id: str, trial_folder: Path) -> None:
        run = self.client.get_run(run_id)
        if MODEL_TAG in run.data.tags:
            return
        for name in (VERDICTS, VERIFIED):
            if (trial_folder / name).exists():
                self.client.log_artifact(run_id, str(trial_folder / name))
        self.client.set_tag(run_id, MODEL_TAG, self._model_of(run) or self._log_model(run_id, trial_folder))

    def _model_of(self, run: Run) -> str | None:
        """The model that an earlier mirroring logged whole but could not name any more."""
        for output in run.outputs.model_outputs if run.outputs else []:
            if self.client.get_logged_model(output.model_id).status == LoggedModelStatus.READY:
                return f"models:/{output.model_id}"
        return None

    def _log_model(self, run_id: str, trial_folder: Path) -> str:
        with mlflow.start_run(run_id=run_id):
            logged = mlflow.pyfunc.log_model(
                name=MODEL,
                loader_module="sweeps.engine.mlflow_model",
                data_path=str(trial_folder / MODEL),
                pip_requirements=[f"bat-sweeps=={self.sweep.version}"],
            )
        return str(logged.model_uri)

    def _close(self, run: Run, status: str, ended: float) -> None:
        now = self.client.get_run(run.info.run_id)
        if now.info.status != status or now.info.end_time != _ms(ended):
            self.client.set_terminated(run.info.run_id, status, _ms(ended))

    def _parent(self) -> Run:
        created = datetime.datetime.fromisoformat(self.sweep.created).timestamp()
        return self._run(PARENT, self.folder.path.name, _ms(created), {})

    def _run(self, trial_id: str, name: str, started: int, tags: Mapping[str, str]) -> Run:
        """The run of a trial (or the parent), found by its tags or made."""
        if trial_id not in self._runs:
            experiment = self._experiment_id()
            query = f"tags.`{SWEEP_TAG}` = '{self.sweep.id}' and tags.`{TRIAL_TAG}` = '{trial_id}'"
            found = self.client.search_runs([experiment], query, max_results=1)
            identity = {SWEEP_TAG: self.sweep.id, TRIAL_TAG: trial_id, **source_tags(self.sweep.command), **tags}
            self._runs[trial_id] = (
                found[0]
                if found
                else self.client.create_run(experiment, start_time=started, tags=identity, run_name=name)
            )
        return self._runs[trial_id]

    def _experiment_id(self) -> str:
        if self._experiment is None:
            name = self.sweep.title(self.folder)
            tags = {SWEEP_TAG: self.sweep.id, KIND_TAG: KIND}
            for candidate in (name, f"{name}-{self.sweep.id}"):
                experiment = self.client.get_experiment_by_name(candidate)
                if experiment is None:
                    self._experiment = self.client.create_experiment(candidate, tags=tags)
                elif experiment.tags.get(SWEEP_TAG) == self.sweep.id:
                    self._experiment = experiment.experiment_id
                if self._experiment is not None:
                    break
            else:
                raise MlflowException(f"experiment {name!r} belongs to another sweep")
        return self._experiment


def source_tags(command: str) -> dict[str, str]:
    """Where a run came from: MLflow's pages show the last part of a source's path, so that is the script alone."""
    script = next((word for word in command.split() if word.endswith(".py")), command)
    return {MLFLOW_SOURCE_NAME: script, COMMAND_TAG: command}


def _plain(value: Any) -> str:
    """A setting as text: the same for 10 and 10.0, which are equal, for MLflow takes no second text for one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _epoch_metrics(status: TrialStatus) -> list[Metric]:
    return [
        Metric(name, event[name], _ms(event["time"]), event["epoch"])
        for event in status.epochs
        for name in NUMBERS
        if name in event
    ]


def _test_metrics(verdicts: Verdicts, result: Mapping[str, Any]) -> list[Metric]:
    """The headline, and the curves with the number of attack steps as their step axis."""
    at = _ms(result["time"])
    metrics = [Metric(name, result[name], at, 0) for name in ("clean_acc", "pgd_acc", "robust_acc")]
    for loss, outcome in verdicts.outcomes.items():
        for reading in READINGS:
            curve = zip(outcome.steps, outcome.curve(reading), strict=True)
            metrics += [Metric(f"pgd_{loss}_{reading}", float(accuracy), at, steps) for steps, accuracy in curve]
    return metrics


def _tags(status: TrialStatus) -> dict[str, str]:
    """What no robust accuracy is shown without: the suite it stands for, its n, the verdict of the checks."""
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


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
