"""Finds and updates runs on a tracking server, and defines their tags."""

import datetime
import shlex
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Experiment, LifecycleStage, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_NAME

from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Sweep
from sweeps.engine.tracking.location import restored, sole_maker
from sweeps.engine.tracking.models import known_model
from sweeps.engine.tracking.names import VERSION
from sweeps.engine.tracking.notes import experiment_note
from sweeps.engine.tracking.synced import Synced
from sweeps.engine.tracking.view import VIEW_TAG, leaderboard_view

SWEEP_TAG = "bat.sweep_id"
TRIAL_TAG = "bat.trial_id"
ROLE_TAG = "bat.role"
COMMAND_TAG = "bat.command"  # as it was typed
REASON_TAG = "bat.reason"  # why a trial failed or was stopped
MODEL_TAG = "bat.model"
SUITE_TAG = "bat.suite"  # the attacks that robust_acc is measured against
VERDICT_TAG = "bat.verdict"  # clear, suspect or masked; nothing to mask
FLAGS_TAG = "bat.flags"
EVALUATED_TAG = "bat.evaluated"  # the evaluation whose verdict and flags replace the trial's own
COLLAPSED_TAG = "bat.collapsed"  # the first epoch lost to catastrophic overfitting
REUSED_TAG = "bat.reused"  # the sweep and trial that it was taken from
PASSED_OVER_TAG = "bat.passed_over"  # checkpoints that were skipped, and why
STATE_TAG = "bat.state"  # finished, stopped early or failed: MLflow shows what is killed as a failure
DATASET_TAG = "bat.dataset"  # the images behind the accuracies: name, split and number
BUDGET_TAG = "bat.attack_budget"  # of the attacks behind the accuracies, as "40/255 (8 px)"
HASH_TAG = "bat.config_hash"
SETTINGS_TAG = "bat.more_settings"  # those that are no parameters
NAMES_TAG = "bat.names"  # of an experiment: the version of its metrics' names
CHAMPION_TAG = "bat.champion"  # how a model was chosen for the registry
KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"  # selects MLflow's view of the experiment
NOTE_TAG = "mlflow.note.content"
PARENT = "(parent)"
PAGE = 200  # runs in one answer of the server
GONE = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


__all__ = ["Run", "Runs", "SweepRuns"]


class Runs:
    """The runs of one tracking server.

    Every method raises MlflowException if the server does not answer or rejects the request. Retry it later.

    Args:
        uri: the tracking server or database.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        with sole_maker(uri):
            self.client = MlflowClient(tracking_uri=uri)
            self.client.search_experiments(max_results=1)  # makes the tables of a new database

    def get(self, run_id: str) -> Run:
        """The run with this id."""
        return self.client.get_run(run_id)

    def find(self, tags: Mapping[str, str], experiments: Iterable[str] | None = None) -> Run | None:
        """The first run that has all `tags`, in the experiments with these ids or, without ids, in any."""
        if experiments is None:
            experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        found = self.client.search_runs(list(experiments), query, max_results=1)
        return found[0] if found else None

    def find_trial(self, sweep_id: str, trial_id: str) -> Run | None:
        """The run of a sweep's trial, in any experiment: the one with today's names, if there are several."""
        experiments = self.client.search_experiments()
        named = [one.experiment_id for one in experiments if one.tags.get(NAMES_TAG) == VERSION]
        others = [one.experiment_id for one in experiments if one.tags.get(NAMES_TAG) != VERSION]
        identity = {SWEEP_TAG: sweep_id, TRIAL_TAG: trial_id}
        return (self.find(identity, named) if named else None) or self.find(identity, others)

    def find_or_make(self, experiment: str, name: str, tags: Mapping[str, str], command: str) -> Run:
        """The run in `experiment` that has `tags`; if there is none, create a finished one."""
        known = self.client.get_experiment_by_name(experiment)
        if known is None:
            experiment_id = self.client.create_experiment(experiment, tags={KIND_TAG: KIND})
        else:
            experiment_id = known.experiment_id
            self.restore_experiment(known)
        if found := self.find(tags, [experiment_id]):
            return found
        run = self.client.create_run(experiment_id, run_name=name, tags={**tags, **source_tags(command)})
        self.client.set_terminated(run.info.run_id)
        return run

    def restore_experiment(self, experiment: Experiment) -> None:
        """Restore an experiment, with its runs, that somebody deleted in MLflow.

        Raises:
            MlflowException: the server does not allow it.
        """
        if experiment.lifecycle_stage != LifecycleStage.DELETED:
            return
        try:
            self.client.restore_experiment(experiment.experiment_id)
        except MlflowException as error:
            raise MlflowException(
                f"experiment {experiment.name!r} is deleted, and MLflow does not restore it ({error}): restore it"
                " there, or delete it for good"
            ) from error
        restored.append(experiment.name)

    def restore_run(self, run: Run) -> None:
        """Restore a run, and its experiment, that somebody deleted in MLflow."""
        self.restore_experiment(self.client.get_experiment(run.info.experiment_id))
        if self.get(run.info.run_id).info.lifecycle_stage == LifecycleStage.DELETED:
            self.client.restore_run(run.info.run_id)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Set parameters as text."""
        self.client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])

    def log_metrics(self, run_id: str, values: Mapping[str, float], *, at: int) -> None:
        """Log one value per metric, measured at `at` in milliseconds since 1970."""
        self.client.log_batch(run_id, metrics=[Metric(name, value, at, 0) for name, value in values.items()])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, replacing earlier values."""
        for tag, value in tags.items():
            self.client.set_tag(run_id, tag, value)

    def log_files(self, run: Run, files: Iterable[Path], place: str | None = None) -> None:
        """Upload files into a run's artifact folder `place`, one request each."""
        repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=self.uri)
        for file in files:
            repository.log_artifact(str(file), place)  # type: ignore[no-untyped-call]


class SweepRuns(Runs):
    """The experiment of one sweep: a parent run, and one run per trial."""

    def __init__(self, sweep: Sweep, folder: SweepFolder, uri: str) -> None:
        super().__init__(uri)
        self.sweep, self.folder = sweep, folder
        self._experiment: str | None = None
        self._runs: dict[str, Synced] = {}
        self._making = threading.Lock()

    def known_to_server(self) -> bool:
        """Whether the server still has the parent run.

        A new, empty server may have the same address, and somebody may have deleted the run or its experiment.
        """
        if PARENT not in self._runs:
            return False
        try:
            run = self.get(self._runs[PARENT].run.info.run_id)
        except MlflowException as error:
            if error.error_code != GONE:
                raise
            return False
        return bool(run.info.lifecycle_stage == LifecycleStage.ACTIVE)

    def forget(self) -> None:
        """Clear the cached experiment and runs."""
        self._experiment = None
        self._runs.clear()

    def parent(self) -> Synced:
        """The sweep's own run."""
        created = datetime.datetime.fromisoformat(self.sweep.created).timestamp()
        return self.run(PARENT, self.folder.path.name, milliseconds(created), {})

    def run(self, trial_id: str, name: str, started: int, tags: Mapping[str, str]) -> Synced:
        """The run of a trial or of the parent: the one that `look_up` found, or a new one."""
        if trial_id not in self._runs:
            with self._making:
                experiment = self.experiment_id()
            identity = {SWEEP_TAG: self.sweep.id, TRIAL_TAG: trial_id}
            made = self.client.create_run(
                experiment,
                start_time=started,
                tags={**identity, **source_tags(self.sweep.command), **tags},
                run_name=name,
            )
            self._runs[trial_id] = Synced(made)
        return self._runs[trial_id]

    def fresh(self, trial_id: str) -> Run:
        """A trial's run as the server has it now."""
        return self.get(self._runs[trial_id].run.info.run_id)

    def find_model(self, synced: Synced) -> str | None:
        """The URI of the model that a run has already; None if there is none."""
        if not synced.certain:
            synced.run, synced.certain = self.get(synced.run.info.run_id), True
        return synced.model or synced.tags.get(MODEL_TAG) or known_model(self.client, synced.run)

    def look_up(self) -> None:
        """Find all runs of the sweep, and delete duplicates, in one request per PAGE runs.

        Duplicates arise if the server handles a request after it timed out here. The one with the most tags is kept.
        """
        found: dict[str, list[Run]] = defaultdict(list)
        page = None
        while page is None or page.token:
            page = self.client.search_runs(
                [self.experiment_id()],
                f"tags.`{SWEEP_TAG}` = '{self.sweep.id}'",
                max_results=PAGE,
                page_token=page.token if page else None,
            )
            for run in page:
                found[run.data.tags[TRIAL_TAG]].append(run)
        for trial_id, runs in found.items():
            if trial_id not in self._runs:
                self._runs[trial_id] = Synced(max(runs, key=lambda run: len(run.data.tags)))
            for run in runs:
                if run.info.run_id != self._runs[trial_id].run.info.run_id:
                    self.client.delete_run(run.info.run_id)

    def end(self, synced: Synced, status: str, ended: float) -> None:
        """End a run with a status and an end time (Unix seconds), unless it has them already."""
        if (synced.status, synced.ended) != (status, milliseconds(ended)):
            self.client.set_terminated(synced.run.info.run_id, status, milliseconds(ended))
            synced.status, synced.ended = status, milliseconds(ended)

    def experiment_id(self) -> str:
        """The sweep's experiment. Of earlier names, it is renamed and kept, and a new one is made."""
        if self._experiment is None:
            name = self.folder.title(self.sweep)
            for candidate in (name, f"{name}-{self.sweep.id}"):
                experiment = self.client.get_experiment_by_name(candidate)
                if experiment is not None and self._is_old(experiment):
                    self.client.rename_experiment(experiment.experiment_id, f"{candidate} (earlier names)")
                    experiment = None
                if experiment is None:
                    self._experiment = self.client.create_experiment(candidate, tags=self._tags())
                elif experiment.tags.get(SWEEP_TAG) == self.sweep.id:
                    self.restore_experiment(experiment)
                    self._experiment = experiment.experiment_id
                if self._experiment is not None:
                    break
            else:
                raise MlflowException(f"experiment {name!r} belongs to another sweep")
        return self._experiment

    def _is_old(self, experiment: Experiment) -> bool:
        """Whether an experiment has the sweep's runs under names that an earlier version gave them."""
        mine = experiment.tags.get(SWEEP_TAG) == self.sweep.id
        return (
            mine and experiment.tags.get(NAMES_TAG) != VERSION and experiment.lifecycle_stage == LifecycleStage.ACTIVE
        )

    def _tags(self) -> dict[str, str]:
        trials = self.folder.trials(self.sweep)
        split = trials[0].config.attack.split if trials else "val"  # an open sweep proposes trials to choose from
        return {
            **{SWEEP_TAG: self.sweep.id, KIND_TAG: KIND, NAMES_TAG: VERSION},
            VIEW_TAG: leaderboard_view(split, self.sweep.threats),
            NOTE_TAG: experiment_note(self.sweep, trials, None),
        }

    def describe(self, note: str) -> None:
        """Set the experiment's description."""
        self.client.set_experiment_tag(self.experiment_id(), NOTE_TAG, note)


def source_tags(command: str) -> dict[str, str]:
    """Tags for the origin of a run. The source is only the script, since MLflow shows the last part of its path."""
    script = next((word for word in _words(command) if word.endswith(".py")), command)
    return {MLFLOW_SOURCE_NAME: script, COMMAND_TAG: command}


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # a command that an earlier version recorded, with a password cut out of its quotes
        return command.split()


def milliseconds(seconds: float) -> int:
    """Unix seconds as milliseconds, MLflow's unit of time."""
    return int(seconds * 1000)
