"""Runs a search on Ray Tune: trials that are proposed as others end, stopped early by successive halving."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from bat_core.data import Dataset
from sweeps.engine.ray_backend.control import stopping
from sweeps.engine.ray_backend.trainables import FAILURE
from sweeps.engine.ray_backend.tuning import tune_trials
from sweeps.engine.search.spec import Search
from sweeps.engine.search.study import SearchStudy
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Sweep, Trial

SIGNAL = "val_robust_acc"  # a few PGD steps on validation images after each epoch
DIED = "the process that ran it died: killed, or out of memory"

GoOn = Callable[[], bool]


def search_trials(
    search: Search,
    sweep: Sweep,
    dataset: Dataset,
    folder: SweepFolder,
    study: SearchStudy,
    *,
    concurrent: int,
    stall: float | None,
    go_on: GoOn,
) -> None:
    """Finish what was begun, then propose and run trials while `go_on()`, `concurrent` at a time."""
    scheduler = None if search.halving is None else EpochASHA(search, study, folder)
    tune_trials(
        sweep,
        dataset,
        folder,
        concurrent=concurrent,
        stall=stall,
        search_alg=StudySearcher(study, folder, go_on),
        scheduler=scheduler,
        num_samples=-1,
    )


class StudySearcher(Searcher):  # type: ignore[misc]
    """Tune asks, the study answers; what Tune knows of a trial's end is read from its record."""

    def __init__(self, study: SearchStudy, folder: SweepFolder, go_on: GoOn) -> None:
        super().__init__()
        self._study, self._folder, self._go_on = study, folder, go_on
        self._begun = study.unfinished()
        self._running: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        """The next trial, by its id; those that a kill interrupted come first."""
        if self._begun:
            trial = self._begun.pop(0)
        elif not stopping.is_set() and self._go_on():
            trial = self._study.propose()
        else:
            return str(Searcher.FINISHED)
        self._running[trial_id] = trial
        return {"trial": trial.id}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Whatever it was that ended a trial, its record says so, and the study hears it."""
        trial = self._running.pop(trial_id)
        self._folder.refresh(trial)
        reason = DIED if error else (result or {}).get(FAILURE)
        if reason and not read_status(self._folder.trial(trial)).done:
            self._folder.append_event(trial, "failed", reason=reason)
        if read_status(self._folder.trial(trial)).done:  # else it is paused, or its storage failed: it goes on later
            self._study.settle(trial)

    def save(self, checkpoint_path: str) -> None:
        """Nothing is kept by Ray: the records and the study have it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing was kept."""


class EpochASHA(FIFOScheduler):  # type: ignore[misc]
    """Tune's asynchronous successive halving on a trial's own epochs.

    What it decides is written into the trial's record before the trial ends, and what earlier trials did
    is told to it when a search is gone on with. A trial that has trained to its end is judged in any case.
    """

    def __init__(self, search: Search, study: SearchStudy, folder: SweepFolder) -> None:
        super().__init__()
        assert search.halving is not None
        self._folder = folder
        self._epochs: dict[str, int] = {}
        self._find = {trial.id: trial for trial in study.trials()}
        self._sweep = study.sweep
        longest = search.space["epochs"].high if "epochs" in search.space.names else search.base.train.epochs
        self._asha = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric=SIGNAL,
            mode="max",
            grace_period=search.halving.grace,
            max_t=round(longest),
            reduction_factor=search.halving.factor,
            stop_last_trials=False,
        )
        for trial in self._find.values():
            self._replay(trial)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Whether the trial goes on after this epoch."""
        if "epoch" not in result:
            return str(TrialScheduler.CONTINUE)
        mine = self._trial(trial.config["trial"])
        decision = self._decide(mine.id, result, tune_controller)
        if decision != TrialScheduler.STOP or result["epoch"] >= mine.config.train.epochs:
            return str(TrialScheduler.CONTINUE)
        reason = f"successive halving at epoch {result['epoch']}: {SIGNAL} {result[SIGNAL]:.3f} is not among the best"
        self._folder.append_event(mine, "stopped", reason=reason)
        return str(TrialScheduler.STOP)

    def _replay(self, trial: Trial) -> None:
        for epoch in read_status(self._folder.trial(trial)).epochs:
            self._decide(trial.id, epoch, None)

    def _decide(self, trial_id: str, result: dict[str, Any], controller: Any) -> str:
        """As Tune's scheduler would, for a trial that is called by our own name: Tune's changes with a restart."""
        if trial_id not in self._epochs:
            self._asha.on_trial_add(controller, SimpleNamespace(trial_id=trial_id))
        if result["epoch"] <= self._epochs.get(trial_id, 0):
            return str(TrialScheduler.CONTINUE)
        self._epochs[trial_id] = result["epoch"]
        return str(self._asha.on_trial_result(controller, SimpleNamespace(trial_id=trial_id), result))

    def _trial(self, trial_id: str) -> Trial:
        if trial_id not in self._find:
            self._find[trial_id] = self._folder.find(self._sweep, trial_id)
        return self._find[trial_id]
