"""Tune's searcher and schedulers for a search: propose trials as others end, and stop some early."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, Protocol

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from sweeps.engine.ray_backend.control import stopping
from sweeps.engine.ray_backend.rungs import ALWAYS, CLEAN, SIGNAL, FrontRung
from sweeps.engine.ray_backend.trainables import FAILURE
from sweeps.engine.ray_backend.tuning import TuneRun, tune_trials
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial_evaluation import BOUND
from sweeps.engine.sweep.trial_evaluation import CLEAN as FINAL_CLEAN

DIED = "its process died: killed, or out of memory"

Beaten = tuple[str, float, float]  # a trial's id, its clean and its verified accuracy


class Study(Protocol):
    """Proposes trials and learns from their results."""

    def trials(self) -> list[Trial]:
        """All trials proposed so far."""

    def unfinished(self) -> list[Trial]:
        """The proposed trials that have not ended."""

    def propose(self) -> Trial:
        """The next trial. It is on disk before it is returned."""

    def settle(self, trial: Trial) -> None:
        """Learn from the record of a trial that has ended."""

    def reopen(self, trial: Trial) -> None:
        """Expect another outcome of a trial that was stopped, and continues now."""

    def dominating(self, clean: float, bound: float) -> Beaten | None:
        """A finished trial that beats another of this clean accuracy, whose verified accuracy is at most `bound`."""


class Budget(Protocol):
    """What a search may still do. Tune stores it: no locks in it."""

    def is_open(self) -> bool:
        """Whether trials may still begin."""

    def proposes(self) -> bool:
        """Whether a new trial may begin."""

    def has_room(self) -> bool:
        """Whether time is left, although no new trial may begin."""


@dataclass(frozen=True, kw_only=True)
class Rungs:
    """Successive halving: at `grace`, `grace * factor` ... epochs, up to `longest`, the best 1 / factor continue.

    By "pgd" they are ranked by PGD accuracy; by "front", at `grace` alone, by the fronts of clean and PGD accuracy, and
    at least the best `always` continue. If it `continues`, stopped trials may continue later.
    """

    grace: int
    factor: int
    longest: int
    by: Literal["front", "pgd"] = "pgd"
    always: int = ALWAYS
    continues: bool = False


def search_trials(run: TuneRun, study: Study, *, rungs: Rungs | None, budget: Budget) -> None:
    """Finish the started trials, then run new ones, and stopped ones again, as the budget allows."""
    halving = EpochASHA(run, study.trials(), rungs) if rungs else None
    tune_trials(
        run,
        search_alg=StudySearcher(run, study, halving, budget),
        scheduler=SearchScheduler(run, study, halving),
        num_samples=-1,
    )


class StudySearcher(Searcher):  # type: ignore[misc]
    """Tune's searcher, backed by the study. A trial's outcome is read from its record."""

    def __init__(self, run: TuneRun, study: Study, halving: "EpochASHA | None", budget: Budget) -> None:
        super().__init__()
        self._study, self._folder, self._halving, self._budget = study, run.folder, halving, budget
        self._interrupted = study.unfinished()
        self._running: dict[str, Trial] = {}

    def suggest(self, trial_id: str) -> dict[str, str] | str | None:
        """The id of the next trial; None if another one must end before that is known.

        Interrupted trials come first, then stopped ones that the rung would keep now, then new ones. If time is left
        after the last new one, the other stopped ones follow, the best first.
        """
        if self._interrupted:
            trial = self._interrupted.pop(0)
        elif stopping.is_set() or not self._budget.is_open():
            return str(Searcher.FINISHED)
        elif (again := self._stopped()) is not None:
            trial = again
            self._study.reopen(trial)
        elif self._budget.proposes():
            trial = self._study.propose()
        elif self._running and self._halving is not None and self._halving.continues:
            return None
        else:
            return str(Searcher.FINISHED)
        self._running[trial_id] = trial
        return {"trial": trial.id}

    def _stopped(self) -> Trial | None:
        return None if self._halving is None else self._halving.next_stopped(any_rank=self._budget.has_room())

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record why the trial ended, and pass it to the study."""
        trial = self._running.pop(trial_id)
        self._folder.refresh(trial)
        reason = DIED if error else (result or {}).get(FAILURE)
        if reason and not read_status(self._folder.trial(trial)).done:
            self._folder.append_event(trial, "failed", reason=reason)
        if read_status(self._folder.trial(trial)).done:  # else it paused or its storage failed, and it resumes later
            self._study.settle(trial)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the records and the study keep the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: Ray saved no state."""


class SearchScheduler(FIFOScheduler):  # type: ignore[misc]
    """Stops trials by halving, and, before they are verified, those that cannot enter the front.

    The verified accuracy is at most that under PGD on the same images. So a trial whose clean and PGD accuracy a
    finished trial beats is not on the front, whatever the verifying suite would find: the front is the same without it.
    """

    def __init__(self, run: TuneRun, study: Study, halving: "EpochASHA | None") -> None:
        super().__init__()
        self._sweep, self._folder, self._study, self._halving = run.sweep, run.folder, study, halving

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Decide whether the trial continues."""
        if BOUND in result:
            return self._before_verification(trial.config["trial"], result[FINAL_CLEAN], result[BOUND])
        if self._halving is None:
            return str(TrialScheduler.CONTINUE)
        return self._halving.on_trial_result(tune_controller, trial, result)

    def _before_verification(self, trial_id: str, clean: float, bound: float) -> str:
        if (by := self._study.dominating(clean, bound)) is None:
            return str(TrialScheduler.CONTINUE)
        reason = (
            f"cannot enter the front: clean {clean:.1%} and at most {bound:.1%} robust (PGD, not verified), and"
            f" {by[0]} has {by[1]:.1%} and {by[2]:.1%}"
        )
        trial = self._folder.find(self._sweep, trial_id)
        self._folder.append_event(trial, "stopped", reason=reason, clean_acc=clean, robust_bound=bound)
        return str(TrialScheduler.STOP)


class EpochASHA(FIFOScheduler):  # type: ignore[misc]
    """Asynchronous successive halving on a trial's own epochs: Tune's by PGD accuracy, or a rung by both aims.

    Decisions are written to the trial's record before the trial ends. A resumed search replays the epochs of earlier
    trials. A trial that has completed training is always evaluated.
    """

    def __init__(self, run: TuneRun, trials: Sequence[Trial], rungs: Rungs) -> None:
        super().__init__()
        self._sweep, self._folder = run.sweep, run.folder
        self._epochs: dict[str, int] = {}
        self._find = {trial.id: trial for trial in trials}
        self._front = FrontRung(rungs.grace, rungs.factor, rungs.always) if rungs.by == "front" else None
        self.continues = rungs.continues and self._front is not None
        self._asha = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric=SIGNAL,
            mode="max",
            grace_period=rungs.grace,
            max_t=rungs.longest,
            reduction_factor=rungs.factor,
            stop_last_trials=False,
        )
        for trial in self._find.values():
            self._replay(trial)

    def on_trial_result(self, tune_controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        """Decide whether the trial continues after this epoch."""
        if "epoch" not in result:
            return str(TrialScheduler.CONTINUE)
        mine = self._trial(trial.config["trial"])
        decision = self._decide(mine.id, result, tune_controller)
        if decision != TrialScheduler.STOP or result["epoch"] >= mine.config.train.epochs:
            self._continue(mine.id)
            return str(TrialScheduler.CONTINUE)
        measured = f"{SIGNAL} {result[SIGNAL]:.3f} is"
        if self._front:
            measured = f"{CLEAN} {result[CLEAN]:.3f} with {SIGNAL} {result[SIGNAL]:.3f} is"
        reason = f"successive halving at epoch {result['epoch']}: {measured} not among the best"
        self._folder.append_event(mine, "stopped", reason=reason)
        return str(TrialScheduler.STOP)

    def next_stopped(self, *, any_rank: bool) -> Trial | None:
        """The next trial that was stopped and continues now; None if there is none. See `FrontRung.next_stopped`."""
        if self._front is None or not self.continues:
            return None
        name = self._front.next_stopped(any_rank=any_rank)
        if name is None:
            return None
        self._continue(name)
        return self._trial(name)

    def _continue(self, trial_id: str) -> None:
        if self._front:
            self._front.stopped.discard(trial_id)

    def _replay(self, trial: Trial) -> None:
        status = read_status(self._folder.trial(trial))
        if self._front:
            self._front.replay([(trial.id, status)])
            self._epochs[trial.id] = max((epoch["epoch"] for epoch in status.epochs), default=0)
            return
        for epoch in status.epochs:
            self._decide(trial.id, epoch, None)

    def _decide(self, trial_id: str, result: dict[str, Any], controller: Any) -> str:
        """Tune's decision, under our own trial id: Tune's ids change after a restart."""
        if trial_id not in self._epochs and not self._front:
            self._asha.on_trial_add(controller, SimpleNamespace(trial_id=trial_id))
        if result["epoch"] <= self._epochs.get(trial_id, 0):
            return str(TrialScheduler.CONTINUE)
        self._epochs[trial_id] = result["epoch"]
        if self._front:
            stops = self._front.stops(trial_id, result["epoch"], (result[CLEAN], result[SIGNAL]))
            return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)
        return str(self._asha.on_trial_result(controller, SimpleNamespace(trial_id=trial_id), result))

    def _trial(self, trial_id: str) -> Trial:
        if trial_id not in self._find:
            self._find[trial_id] = self._folder.find(self._sweep, trial_id)
        return self._find[trial_id]
