"""Syncs MLflow with the records. The sync is idempotent.

Each sweep has one experiment, with a parent run for the figure and a child run per trial. Runs are found by their
tags. Values carry the time at which they were recorded, and MLflow stores equal values once.
"""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import LifecycleStage, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from bat_core.config import flatten, to_dict
from bat_core.errors import InputError
from bat_core.paths import read_regular
from bat_core.verdicts import READINGS, Verdicts
from sweeps.engine.cli.markdown import harmless
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import NUMBERS, VERDICTS, VERIFIED, Event, TrialStatus
from sweeps.engine.sweep.spec import Report, Sweep, Trial
from sweeps.engine.sweep.trial_sync import MODEL
from sweeps.engine.tracking.models import LOADER, PREFIX, log_files, log_model
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
from sweeps.engine.tracking.synced import SYNCED_TAG, Synced, digest_on, label

__all__ = ["LOADER", "SweepSync"]

BATCH = 500  # metrics in one request, below MLflow's limit of 1,000
THREADS = 8  # trials that are synced at once
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
WHOLE = "FINISHED"  # of a trial that was trained to its end and not verified, because it cannot enter the front


class SweepSync:
    """Syncs one sweep to MLflow. `sync` can be called any number of times.

    Args:
        uri: the tracking server or database.
    """

    def __init__(self, sweep: Sweep, folder: SweepFolder, *, uri: str) -> None:
        mlflow.set_tracking_uri(uri)
        self.sweep, self.folder = sweep, folder
        self.runs = SweepRuns(sweep, folder, uri)
        self._threads = THREADS if uri.startswith("http") else 1  # a database file takes one writer at a time
        self._synced: dict[str, TrialStatus] = {}
        self._reported: str | None = None
        self._look_up = True  # the runs that the server has: a request that failed here may have succeeded there

    def sync(self) -> None:
        """Log what the records have and MLflow lacks. Trials with damaged files are skipped.

        Raises:
            MlflowException: the server rejected a request or did not answer. Retry later.
            InputError: a trial's files are damaged.
        """
        if not self.runs.known_to_server():
            self.runs.forget()
            self._synced.clear()
            self._reported, self._look_up = None, True
        try:
            if self._look_up:
                self.runs.look_up()
                self._look_up = False
            damaged = self._sync_trials(self.runs.parent().run.info.run_id)
            self._sync_report()
        except Exception as error:
            self._look_up = True
            if LifecycleStage.DELETED in str(error):  # somebody deleted a run in MLflow: make it anew next time
                self.runs.forget()
            raise
        if damaged:
            raise damaged

    def _sync_trials(self, parent: str) -> InputError | None:
        """Sync every trial that changed. Returns the error of the last one with damaged files."""
        rows = [row for row in self.folder.statuses(self.sweep) if row[1].started is not None]
        changed = [row for row in rows if self._synced.get(row[0].id) is not row[1]]
        failed = threading.Event()

        def sync_one(row: tuple[Trial, TrialStatus]) -> InputError | None:
            trial, status = row
            if failed.is_set():
                return None
            try:
                _RunSync(self.runs, trial, status).sync(parent)
            except InputError as error:
                return error
            except Exception:
                failed.set()
                raise
            self._synced[trial.id] = status
            return None

        if len(changed) == 1 or self._threads == 1:
            damaged = [sync_one(row) for row in changed]
        else:
            with ThreadPoolExecutor(self._threads, thread_name_prefix="mlflow-trial") as pool:
                damaged = list(pool.map(sync_one, changed))
        return next((error for error in reversed(damaged) if error is not None), None)

    def _sync_report(self) -> None:
        """Log the figure and its numbers to the parent run, and end that run once all trials have ended."""
        trials, report = self.folder.trials(self.sweep), self.folder.report()
        over = all(trial.id in self._synced and self._synced[trial.id].done for trial in trials)
        if not over or report is None:
            return
        files = [self.folder.file(file) for file in report.files]
        digest = _digest_of(report, files)
        parent = self.runs.parent()
        ended = list(self._synced.values())
        failed = not self.sweep.open and any(status.phase == "failed" for status in ended)
        if self._reported != digest and parent.tags.get(SYNCED_TAG) != digest:
            log_files(parent.run, files, self.runs.uri)
            tags = {NOTE_TAG: harmless(report.sentence), SYNCED_TAG: digest}
            self.runs.client.log_batch(parent.run.info.run_id, tags=[RunTag(*tag) for tag in tags.items()])
            parent.tags |= tags
        self.runs.end(parent, "FAILED" if failed else "FINISHED", max(status.ended or 0 for status in ended))
        self._reported = digest


def _digest_of(report: Report, files: Sequence[Path]) -> str:
    """A digest of a report and the files that it names."""
    digest = hashlib.sha256(report.sentence.encode())
    for file in files:
        digest.update(file.name.encode() + hashlib.sha256(read_regular(file)).digest())
    return digest.hexdigest()[:32]


class _RunSync:
    """Syncs one trial's current status to its run."""

    def __init__(self, runs: SweepRuns, trial: Trial, status: TrialStatus) -> None:
        self.runs, self.client, self.trial, self.status = runs, runs.client, trial, status
        self.folder = runs.folder.trial(trial)

    def sync(self, parent: str) -> None:
        """Log the parameters, metrics, tags and files that the run lacks, and update its status."""
        trial, status = self.trial, self.status
        tags = {MLFLOW_PARENT_RUN_ID: parent, ROLE_TAG: trial.role}
        run = self.runs.run(trial.id, trial.id, milliseconds(status.started or 0), tags)
        first = run.sent(status.epochs)
        digest = digest_on(run.digest, status.epochs[first:])
        synced = label(trial, status, digest)
        if run.tags.get(SYNCED_TAG) != synced or run.tags.get(MLFLOW_PARENT_RUN_ID) != parent:
            try:
                self._log(run, status.epochs[first:], {MLFLOW_PARENT_RUN_ID: parent, SYNCED_TAG: synced})
            except Exception:
                run.certain = False
                raise
            run.epochs, run.digest = status.epochs, digest
        if status.phase in STATUS:
            self.runs.end(run, WHOLE if status.bound is not None else STATUS[status.phase], status.ended or 0)
        elif run.status != "RUNNING":
            self.client.update_run(run.run.info.run_id, status="RUNNING")
            run.status = "RUNNING"

    def _log(self, run: Synced, epochs: Sequence[Event], tags: dict[str, str]) -> None:
        """Send what is new. If files are damaged or cannot be uploaded, all the rest is sent before that is raised."""
        metrics = _epoch_metrics(epochs)
        tags = tags | self._tags(run)
        failure: Exception | None = None
        if self.status.phase == "finished" and self.status.result:
            try:
                self.runs.folder.results(self.trial.id)
                verdicts = Verdicts.read(self.folder / VERDICTS)
                model = self._log_files(run)
            except Exception as error:
                failure = error
                tags.pop(SYNCED_TAG)
            else:
                tags[MODEL_TAG] = model
                metrics += _test_metrics(verdicts, self.status.result, model.removeprefix(PREFIX))
        self._send(run, metrics, tags)
        if failure is not None:
            raise failure

    def _send(self, run: Synced, metrics: Sequence[Metric], tags: Mapping[str, str]) -> None:
        """One request for up to BATCH metrics; the tags come last, since they say that the rest is there."""
        run_id = run.run.info.run_id
        for start in range(0, len(metrics) - BATCH, BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        rest = metrics[(len(metrics) - 1) // BATCH * BATCH :] if metrics else ()
        params = [] if run.complete else [Param(*param) for param in self._params().items()]
        new = {tag: text for tag, text in tags.items() if run.tags.get(tag) != text}
        self.client.log_batch(run_id, metrics=rest, params=params, tags=[RunTag(*tag) for tag in new.items()])
        run.complete = True
        run.tags |= new
        if not self.status.reason and REASON_TAG in run.tags:
            self.client.delete_tag(run_id, REASON_TAG)
            del run.tags[REASON_TAG]

    def _params(self) -> dict[str, str]:
        config = self.trial.config
        return {name: _plain(value) for name, value in flatten(to_dict(config)).items()} | {"config_hash": config.hash}

    def _tags(self, run: Synced) -> dict[str, str]:
        tags = _tags(self.status)
        if EVALUATED_TAG in run.tags:  # keep the evaluation's verdict and flags
            tags = {tag: value for tag, value in tags.items() if tag not in {VERDICT_TAG, FLAGS_TAG}}
        return tags | ({REASON_TAG: self.status.reason} if self.status.reason else {})

    def _log_files(self, run: Synced) -> str:
        """Upload verdicts and model, unless the run has them. Returns the model's URI."""
        if run.model is None and (known := self.runs.find_model(run)) is not None:
            run.model = known
        if run.model is None:
            files = (self.folder / name for name in (VERDICTS, VERIFIED) if (self.folder / name).exists())
            log_files(run.run, files, self.runs.uri)
            version = self.runs.sweep.version
            run.model = log_model(
                self.client, run.run, self.folder / MODEL, self._params(), version=version, uri=self.runs.uri
            )
        return run.model


def _plain(value: Any) -> str:
    """A setting as text, equal for 10 and 10.0: MLflow rejects a different text for the same parameter."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _epoch_metrics(epochs: Sequence[Event]) -> list[Metric]:
    return [
        Metric(name, event[name], milliseconds(event["time"]), event["epoch"])
        for event in epochs
        for name in NUMBERS
        if name in event
    ]


def _test_metrics(verdicts: Verdicts, result: Mapping[str, Any], model_id: str) -> list[Metric]:
    """The headline accuracies, of run and model, and the curves with the number of attack steps as step axis."""
    at = milliseconds(result["time"])
    names = ("clean_acc", "pgd_acc", "robust_acc")
    metrics = [Metric(name, result[name], at, 0, model_id=model_id) for name in names]
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
