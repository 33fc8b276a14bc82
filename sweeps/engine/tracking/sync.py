"""Syncs MLflow with the records. The sync is idempotent.

Each sweep has one experiment, with a parent run for the figure and a child run per trial. Runs are found by their
tags. Values carry the time at which they were recorded, and MLflow stores equal values once.
"""

import hashlib
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
from mlflow.entities import LifecycleStage, Metric, RunTag

from bat_core.errors import InputError
from bat_core.paths import below, read_regular, write_atomically
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import TrialStatus
from sweeps.engine.sweep.spec import Report, Sweep, Trial
from sweeps.engine.tracking.names import VERSION
from sweeps.engine.tracking.notes import experiment_note, picture, sweep_note
from sweeps.engine.tracking.pictures import save_preview
from sweeps.engine.tracking.registry import best_merits, register_candidate
from sweeps.engine.tracking.runs import NOTE_TAG, SweepRuns, milliseconds
from sweeps.engine.tracking.settings_table import FILE, TABLES, TABLES_TAG, metrics, settings, table
from sweeps.engine.tracking.synced import SYNCED_TAG
from sweeps.engine.tracking.trial_run import BATCH, TrialRun
from sweeps.engine.tracking.view import leaderboard_path

__all__ = ["SweepSync"]

THREADS = 8  # trials that are synced at once


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
                TrialRun(self.runs, trial, status).sync(parent)
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
        parent = self.runs.parent()
        ended = list(self._synced.values())
        digest = _digest_of(report, [self.folder.file(file) for file in report.files])
        if self._reported != digest and parent.tags.get(SYNCED_TAG) != digest:
            self._log_report(report, digest)
        failed = not self.sweep.open and any(status.phase == "failed" for status in ended)
        self.runs.end(parent, "FAILED" if failed else "FINISHED", max(status.ended or 0 for status in ended))
        self._reported = digest

    def _log_report(self, report: Report, digest: str) -> None:
        """Log files, the table of settings, its numbers, and both descriptions; last the tag that says so."""
        parent = self.runs.parent()
        run_id = parent.run.info.run_id
        rows = self.folder.statuses(self.sweep)
        found = settings(self.sweep, rows)
        with tempfile.TemporaryDirectory() as place:
            listed = below(Path(place), FILE)
            write_atomically(listed, table(found))
            files = [self.folder.file(file) for file in report.files]
            drawn = [save_preview(read_regular(file), Path(place)) for file in files if file.suffix == ".png"][:1]
            self.runs.log_files(parent.run, [*files, listed, *drawn])
        for trial_id, merit in best_merits(self.sweep, rows).items():
            register_candidate(self.runs.client, self.sweep, trial_id, self.runs.fresh(trial_id), merit)
        self.runs.describe(experiment_note(self.sweep, [trial for trial, _ in rows], report))
        at = milliseconds(max(status.ended or 0 for _, status in rows))
        numbers = [Metric(name, value, at, 0) for name, value in metrics(found).items()]
        pictures = [picture(run_id, file.name) for file in drawn]
        tags = {NOTE_TAG: sweep_note(report, found, pictures), TABLES_TAG: TABLES, SYNCED_TAG: digest}
        self.runs.client.log_batch(run_id, metrics=numbers[:BATCH], tags=[RunTag(*tag) for tag in tags.items()])
        parent.tags |= tags

    def leaderboard(self) -> str:
        """The part of a link behind the server's address that opens the leaderboard."""
        return leaderboard_path(self.runs.experiment_id())


def _digest_of(report: Report, files: Sequence[Path]) -> str:
    """A digest of a report and the files that it names."""
    digest = hashlib.sha256(f"{VERSION} {report.sentence}".encode())
    for file in files:
        digest.update(file.name.encode() + hashlib.sha256(read_regular(file)).digest())
    return digest.hexdigest()[:32]
