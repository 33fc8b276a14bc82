"""Runs on a tracking server, found by their tags; and the tags by which people and programs find them."""

import datetime
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_NAME

from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Sweep

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
NOTE_TAG = "mlflow.note.content"
PARENT = "(parent)"
GONE = ErrorCode.Name(RESOURCE_DOES_NOT_EXIST)


class Runs:
    """The runs of one tracking server.

    Each method raises MlflowException where the server does not answer or refuses; call it again later.

    Args:
        uri: the tracking server or database.
    """

    def __init__(self, uri: str) -> None:
        self.client = MlflowClient(tracking_uri=uri)

    def get(self, run_id: str) -> Run:
        """The run with this id."""
        return self.client.get_run(run_id)

    def find(self, tags: Mapping[str, str], experiments: Iterable[str] | None = None) -> Run | None:
        """The first run that bears all `tags`, in the experiments with these ids, or anywhere."""
        if experiments is None:
            experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        query = " and ".join(f"tags.`{tag}` = '{value}'" for tag, value in tags.items())
        found = self.client.search_runs(list(experiments), query, max_results=1)
        return found[0] if found else None

    def find_trial(self, sweep_id: str, trial_id: str) -> Run | None:
        """The run of a sweep's trial, in whatever experiment it is."""
        return self.find({SWEEP_TAG: sweep_id, TRIAL_TAG: trial_id})

    def find_or_make(self, experiment: str, name: str, tags: Mapping[str, str], command: str) -> Run:
        """The run in `experiment` that bears `tags`; where there is none, a new one that is over already."""
        known = self.client.get_experiment_by_name(experiment)
        experiment_id = (
            known.experiment_id if known else self.client.create_experiment(experiment, tags={KIND_TAG: KIND})
        )
        if found := self.find(tags, [experiment_id]):
            return found
        run = self.client.create_run(experiment_id, run_name=name, tags={**tags, **source_tags(command)})
        self.client.set_terminated(run.info.run_id)
        return run

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Set parameters, as text."""
        self.client.log_batch(run_id, params=[Param(name, str(value)) for name, value in params.items()])

    def log_metrics(self, run_id: str, values: Mapping[str, float], *, at: int) -> None:
        """Log one value a metric, as measured at `at`, in milliseconds since 1970."""
        self.client.log_batch(run_id, metrics=[Metric(name, value, at, 0) for name, value in values.items()])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags, each over what it was."""
        for tag, value in tags.items():
            self.client.set_tag(run_id, tag, value)

    def log_files(self, run_id: str, files: Iterable[Path], place: str | None = None) -> None:
        """Upload files into the run's artifact folder `place`."""
        for file in files:
            self.client.log_artifact(run_id, str(file), place)


class SweepRuns(Runs):
    """The experiment of one sweep: a parent run, and a run for each trial."""

    def __init__(self, sweep: Sweep, folder: SweepFolder, uri: str) -> None:
        super().__init__(uri)
        self.sweep, self.folder = sweep, folder
        self._experiment: str | None = None
        self._runs: dict[str, Run] = {}

    def known_to_server(self) -> bool:
        """Whether the server is still the one where the parent run was: an empty one may be at its address."""
        if PARENT not in self._runs:
            return False
        try:
            self.get(self._runs[PARENT].info.run_id)
        except MlflowException as error:
            if error.error_code != GONE:
                raise
            return False
        return True

    def forget(self) -> None:
        """Look everything up anew."""
        self._experiment = None
        self._runs.clear()

    def parent(self) -> Run:
        """The sweep's own run."""
        created = datetime.datetime.fromisoformat(self.sweep.created).timestamp()
        return self.run(PARENT, self.folder.path.name, milliseconds(created), {})

    def run(self, trial_id: str, name: str, started: int, tags: Mapping[str, str]) -> Run:
        """The run of a trial (or the parent), found by its tags or made."""
        if trial_id not in self._runs:
            experiment, identity = self._experiment_id(), {SWEEP_TAG: self.sweep.id, TRIAL_TAG: trial_id}
            found = self.find(identity, [experiment])
            self._runs[trial_id] = found or self.client.create_run(
                experiment,
                start_time=started,
                tags={**identity, **source_tags(self.sweep.command), **tags},
                run_name=name,
            )
        return self._runs[trial_id]

    def refresh(self, trial_id: str) -> None:
        """Read a known run anew."""
        self._runs[trial_id] = self.get(self._runs[trial_id].info.run_id)

    def drop_twins(self) -> None:
        """Delete runs that exist twice, because a request that this client took for lost was answered late."""
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

    def close(self, run: Run, status: str, ended: float) -> None:
        """End a run with a status and a time in Unix seconds, unless it has them."""
        now = self.get(run.info.run_id)
        if now.info.status != status or now.info.end_time != milliseconds(ended):
            self.client.set_terminated(run.info.run_id, status, milliseconds(ended))

    def _experiment_id(self) -> str:
        if self._experiment is None:
            name = self.folder.title(self.sweep)
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
    """Where a run came from. MLflow's pages show the last part of a source's path, so that is the script alone."""
    script = next((word for word in command.split() if word.endswith(".py")), command)
    return {MLFLOW_SOURCE_NAME: script, COMMAND_TAG: command}


def milliseconds(seconds: float) -> int:
    """MLflow's unit of time, from Unix seconds."""
    return int(seconds * 1000)
