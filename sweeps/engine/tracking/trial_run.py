"""Brings one trial's run on the server up to date with its record and files."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from bat_core.config import TrialConfig
from bat_core.curves import Curves
from bat_core.paths import below
from bat_core.suites import is_verified
from bat_core.verdicts import READINGS, Verdicts
from sweeps.engine.cli.text import budget
from sweeps.engine.sweep.records import NUMBERS, RESULT_FILES, VERDICTS, Event, TrialStatus
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial_sync import GALLERY, MODEL
from sweeps.engine.tracking.dataset import EvaluatedImages
from sweeps.engine.tracking.models import PREFIX, ModelFacts, log_model
from sweeps.engine.tracking.names import curve_metric, epoch_metric, headline, params, verdict
from sweeps.engine.tracking.notes import picture, trial_note
from sweeps.engine.tracking.pictures import CURVES, save_curves
from sweeps.engine.tracking.runs import (
    BUDGET_TAG,
    CHAMPION_TAG,
    COLLAPSED_TAG,
    DATASET_TAG,
    EVALUATED_TAG,
    FLAGS_TAG,
    HASH_TAG,
    MODEL_TAG,
    NOTE_TAG,
    PASSED_OVER_TAG,
    REASON_TAG,
    REUSED_TAG,
    ROLE_TAG,
    SETTINGS_TAG,
    STATE_TAG,
    SUITE_TAG,
    VERDICT_TAG,
    SweepRuns,
    milliseconds,
)
from sweeps.engine.tracking.synced import SYNCED_TAG, Synced, digest_on, label

BATCH = 500  # metrics in one request, below MLflow's limit of 1,000
STATUS = {"finished": "FINISHED", "stopped": "FINISHED", "failed": "FAILED"}  # MLflow shows what is killed in red
OF_MODEL = (DATASET_TAG, BUDGET_TAG, SUITE_TAG, VERDICT_TAG, FLAGS_TAG, HASH_TAG)  # tags of a trial's model
NOT_VERIFIED = "not verified: it cannot enter the front"  # of a trial of a search that was trained to its end
STATES = {"finished": "finished", "stopped": "stopped early", "failed": "failed"}


@dataclass(frozen=True)
class _Evaluated:
    """What a finished trial's files say: the verdicts of its curves, its images, its model's URI."""

    verdicts: Verdicts
    images: EvaluatedImages
    model: str


class TrialRun:
    """Syncs one trial's current status to its run."""

    def __init__(self, runs: SweepRuns, trial: Trial, status: TrialStatus) -> None:
        self.runs, self.client, self.trial, self.status = runs, runs.client, trial, status
        self.folder = runs.folder.trial(trial)
        self._params, self._settings = params(runs.sweep, trial)

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
            self.runs.end(run, STATUS[status.phase], status.ended or 0)
        elif run.status != "RUNNING":
            self.client.update_run(run.run.info.run_id, status="RUNNING")
            run.status = "RUNNING"

    def _log(self, run: Synced, epochs: Sequence[Event], tags: dict[str, str]) -> None:
        """Send what is new. If files are damaged or cannot be uploaded, all the rest is sent before that is raised."""
        metrics = _epoch_metrics(epochs, self.trial.config)
        tags = tags | self._tags(run)
        failure: Exception | None = None
        if self.status.phase == "finished" and self.status.result:
            try:
                self.runs.folder.results(self.trial.id)
                found = self._log_files(run)
            except Exception as error:
                failure = error
                tags.pop(SYNCED_TAG)
            else:
                tags[MODEL_TAG] = found.model
                metrics += self._test_metrics(found)
        self._send(run, metrics, tags)
        if failure is not None:
            raise failure

    def _send(self, run: Synced, metrics: Sequence[Metric], tags: Mapping[str, str]) -> None:
        """One request for up to BATCH metrics; the tags come last, since they say that the rest is there."""
        run_id = run.run.info.run_id
        for start in range(0, len(metrics) - BATCH, BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])
        rest = metrics[(len(metrics) - 1) // BATCH * BATCH :] if metrics else ()
        parameters = [] if run.complete else [Param(*param) for param in self._params.items()]
        new = {tag: text for tag, text in tags.items() if run.tags.get(tag) != text}
        self.client.log_batch(run_id, metrics=rest, params=parameters, tags=[RunTag(*tag) for tag in new.items()])
        run.complete = True
        run.tags |= new
        if not self.status.reason and REASON_TAG in run.tags:
            self.client.delete_tag(run_id, REASON_TAG)
            del run.tags[REASON_TAG]

    def _tags(self, run: Synced) -> dict[str, str]:
        tags = _tags(self.status) | {HASH_TAG: self.trial.config.hash, SETTINGS_TAG: self._settings}
        if self.status.phase in STATES:
            state = STATES[self.status.phase] if self.status.bound is None else NOT_VERIFIED
            tags |= {NOTE_TAG: self._note(run), STATE_TAG: state}
        if self.status.phase == "finished" and self.status.result:
            result, name = self.status.result, self.trial.config.data.name
            tags[DATASET_TAG] = f"{name} {result.get('split', 'test')} (n = {result['n']})"
            tags[BUDGET_TAG] = budget(self.trial.config.attack.eps, self.runs.sweep.unit)
        if EVALUATED_TAG in run.tags:  # keep the evaluation's verdict and flags
            tags = {tag: value for tag, value in tags.items() if tag not in {VERDICT_TAG, FLAGS_TAG}}
        if CHAMPION_TAG in run.tags:  # and the description that says how the model was chosen
            tags.pop(NOTE_TAG, None)
        return tags | ({REASON_TAG: self.status.reason} if self.status.reason else {})

    def _note(self, run: Synced) -> str:
        run_id = run.run.info.run_id
        files = [CURVES, *(file.name for file in self._gallery())]
        pictures = [picture(run_id, file) for file in files] if self.status.phase == "finished" else []
        return trial_note(self.runs.sweep, self.trial, self.status, pictures)

    def _log_files(self, run: Synced) -> _Evaluated:
        """Upload verdicts, pictures, data set and model, unless the run has them."""
        assert self.status.result is not None
        config, split = self.trial.config, str(self.status.result.get("split", "test"))
        verdicts = Verdicts.read(self.folder / VERDICTS)
        images = EvaluatedImages.of(config.data, split, verdicts)
        if run.model is None and (known := self.runs.find_model(run)) is not None:
            run.model = known
        if run.model is None:
            with self._pictures(verdicts) as pictures:
                found = (below(self.folder, name) for name in RESULT_FILES)
                self.runs.log_files(run.run, [*(file for file in found if file.exists()), *pictures])
            images.log(self.client, run.run.info.run_id)
            facts = ModelFacts(
                name=self.trial.id,
                params=self._params,
                tags={
                    **{name: text for name, text in self._tags(run).items() if name in OF_MODEL},
                    NOTE_TAG: trial_note(self.runs.sweep, self.trial, self.status),
                },
                version=self.runs.sweep.version,
            )
            run.model = log_model(self.client, run.run, self.folder / MODEL, facts, uri=self.runs.uri)
        return _Evaluated(verdicts, images, run.model)

    @contextmanager
    def _pictures(self, verdicts: Verdicts) -> Iterator[list[Path]]:
        """The pictures of a finished trial's run: its curves, and its gallery if it has one."""
        assert self.status.result is not None
        result = self.status.result
        with tempfile.TemporaryDirectory() as place:
            drawn = save_curves(
                Curves.of(verdicts),
                Path(place),
                robust=result["robust_acc"],
                verified=is_verified(result["suite"]),
                title=f"{self.trial.id}: {result['n']} {result.get('split', 'test')} images",
            )
            yield [drawn, *self._gallery()]

    def _gallery(self) -> list[Path]:
        """The trial's gallery, if it has one."""
        file = below(self.folder, GALLERY)
        return [file] if file.exists() else []

    def _test_metrics(self, found: _Evaluated) -> list[Metric]:
        """The headline accuracies, of run and model, and the curves with the number of attack steps as step axis."""
        assert self.status.result is not None
        at, model = milliseconds(self.status.result["time"]), found.model.removeprefix(PREFIX)
        images = {"model_id": model, "dataset_name": found.images.name, "dataset_digest": found.images.digest}
        metrics = [Metric(name, value, at, 0, **images) for name, value in headline(self.status.result).items()]
        for loss, outcome in found.verdicts.outcomes.items():
            for reading in READINGS:
                name = curve_metric(found.images.split, loss, reading)
                curve = zip(outcome.steps, outcome.curve(reading), strict=True)
                metrics += [Metric(name, float(accuracy), at, steps) for steps, accuracy in curve]
        return metrics


def _epoch_metrics(epochs: Sequence[Event], config: TrialConfig) -> list[Metric]:
    return [
        Metric(epoch_metric(name, config), event[name], milliseconds(event["time"]), event["epoch"])
        for event in epochs
        for name in NUMBERS
        if name in event
    ]


def _tags(status: TrialStatus) -> dict[str, str]:
    """Tags that qualify the robust accuracy: its suite, n, and the result of the masking checks."""
    tags = {} if status.collapsed is None else {COLLAPSED_TAG: str(status.collapsed)}
    if status.reused:
        tags[REUSED_TAG] = status.reused
    if status.passed_over:
        tags[PASSED_OVER_TAG] = "; ".join(status.passed_over.values())
    if status.phase == "finished" and status.result:
        result = status.result
        tags[SUITE_TAG] = f"{result['suite']} (n = {result['robust_n']}, {result.get('split', 'test')})"
        tags[VERDICT_TAG] = verdict(result)
        tags[FLAGS_TAG] = ", ".join(result["flags"]) or "none"
    return tags
