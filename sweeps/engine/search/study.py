"""The Optuna study of a search. It proposes points and receives the results of their trials.

The trials' records are authoritative; the study follows them. It is a journal file in the sweep's folder, which
`optuna-dashboard` can open too.
"""

import json
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState, create_trial

from bat_core.errors import InputError
from bat_core.paths import MAX_BYTES, Rooted, below, drop_torn_line, make_private, read_regular
from search_spaces.base import Point, Space
from sweeps.engine.search.objectives import get_objective
from sweeps.engine.search.observations import END, NOISE, SIGNALS, TRIAL
from sweeps.engine.search.prior import PRIOR
from sweeps.engine.search.results import Score, front, score
from sweeps.engine.search.samplers import distributions, draw, free, make_sampler
from sweeps.engine.search.spec import TRIAL_SEEDS, Search
from sweeps.engine.search.trial_config import trial_config
from sweeps.engine.storage.locks import exclusive
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import TrialStatus, read_status
from sweeps.engine.sweep.spec import Sweep, Trial

STUDY = "study.journal"
FROM, SPACE, BOUND = "from", "space", "bound"  # names of user attributes

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


class SearchStudy:
    """Proposes the trials of a search and reports their results to the sampler.

    When it is reopened after a kill, it first synchronises the study with the records. It discards proposals that
    never became trials. The sampler then draws from another seed, so it does not repeat points.
    """

    def __init__(self, search: Search, sweep: Sweep, folder: SweepFolder) -> None:
        self.search, self.sweep, self.folder = search, sweep, folder
        self.objective = get_objective(search.objective)
        path = folder.file(STUDY)
        self.study = optuna.create_study(
            study_name=sweep.id,
            storage=_storage(path),
            directions=self.objective.directions,
            load_if_exists=True,
        )
        self._check_space(path)
        self._numbers: dict[str, int] = {}
        self.reopened: list[Trial] = []
        self._trials = [trial for trial in folder.trials(sweep) if trial.role == "search"]
        self._front: list[Score] = []
        self._follow_records()
        self._enqueue_paper_point()
        self.study.sampler = make_sampler(search, len(self.study.get_trials(deepcopy=False)), len(self.trials()))

    def trials(self) -> list[Trial]:
        """The search's trials so far. Only `propose` adds to them."""
        return self._trials

    def unfinished(self) -> list[Trial]:
        """Trials that were proposed and have not ended. A resumed search runs them first."""
        return [trial for trial in self.trials() if not read_status(self.folder.trial(trial)).done]

    def propose(self) -> Trial:
        """The next trial, written to disk before it is returned."""
        proposal = self.study.ask()
        point = draw(proposal, self.search.space)
        number = len(self.trials())
        config = trial_config(self.search.space, point, self.search.base)
        trial = Trial(
            id=f"trial-{number:03d}",
            config=replace(config, seed=TRIAL_SEEDS * self.search.seed + number),
            role="search",
            point=point,
        )
        proposal.set_user_attr(TRIAL, trial.id)
        self.folder.propose(trial)
        self._trials.append(trial)
        self._numbers[trial.id] = proposal.number
        return trial

    def settle(self, trial: Trial) -> None:
        """Report a trial that has ended to the sampler, as its record says."""
        self._tell(self._numbers[trial.id], trial, read_status(self.folder.trial(trial)))

    def reopen(self, trial: Trial) -> None:
        """Expect another outcome of a stopped trial, which continues now.

        What Optuna was told stays as it is, so the study has the trial once more; the sampler `auto` uses its last end.
        """
        self._add_running(trial)
        self.reopened.append(trial)

    def dominating(self, clean: float, bound: float) -> tuple[str, float, float] | None:
        """A finished trial that keeps another off the front; None if the search verifies every trial.

        The other has this clean accuracy and a verified one of at most `bound`. The answer is an id, and the clean and
        the verified accuracy.
        """
        if not self.search.skip_dominated:
            return None
        for one in self._front:
            mine = (one.clean_acc, one.robust_acc)
            if mine[0] >= clean and mine[1] >= bound and mine != (clean, bound):
                return one.id, *mine
        return None

    def sources(self) -> set[str]:
        """The sources of the trials that were added from other searches."""
        added = {str(frozen.user_attrs[FROM]) for frozen in self.study.get_trials() if FROM in frozen.user_attrs}
        return added | {name.removeprefix(PRIOR) for name in self.study.user_attrs if name.startswith(PRIOR)}

    def expect(self, rows: Sequence[dict[str, Any]], source: str) -> None:
        """Take trials of another search that is not comparable as the prior of the sampler `auto`."""
        self.study.set_user_attr(f"{PRIOR}{source}", list(rows))

    def add(self, others: Sequence[Score], source: str) -> None:
        """Add finished trials of another search for the sampler to learn from. They have no other effect."""
        for other in others:
            point = {name: value for name, value in other.point.items() if name in self.search.space.names}
            if _is_outside(self.search.space, point):
                continue
            self.study.add_trial(
                create_trial(
                    values=self.objective.values(other),
                    params=free(self.search.space, point),
                    distributions=distributions(self.search.space, point),
                    user_attrs={FROM: source}
                    | ({NOISE: self.objective.variances(other)} if self.search.sampler == "auto" else {}),
                    constraints=self.objective.constraints(other),
                )
            )

    def _check_space(self, path: Path) -> None:
        """Raises InputError if the journal belongs to a search of another space."""
        described = self.search.space.describe()
        known = self.study.user_attrs.get(SPACE)
        if known is None and not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr(SPACE, described)
        elif known != described:
            raise InputError(f"{str(path)!r} was written by a search of another space: choose another --output")

    def _enqueue_paper_point(self) -> None:
        """Try the paper's point first, unless the search has a warm start."""
        waiting = any(frozen.state == TrialState.WAITING for frozen in self.study.get_trials(deepcopy=False))
        if not (waiting or self.search.warm_start or self.trials()):
            default = free(self.search.space, self.search.space.default_point())
            self.study.enqueue_trial(default, user_attrs={FROM: "the paper"})

    def _follow_records(self) -> None:
        """Synchronise the study with the records: report results that a kill kept from the study."""
        known = {frozen.user_attrs.get(TRIAL): frozen for frozen in self.study.get_trials(deepcopy=False)}
        for trial in self.trials():
            status = read_status(self.folder.trial(trial))
            self._enter(score(trial, status, self.sweep.resources.num_workers))
            if trial.id not in known or _has_continued(known[trial.id], status):
                self._add_running(trial)
            else:
                self._numbers[trial.id] = known[trial.id].number
                if known[trial.id].state.is_finished():
                    continue
            if status.done:
                self.settle(trial)
        mine = {trial.id for trial in self.trials()}
        for frozen in self.study.get_trials(deepcopy=False):
            if frozen.state == TrialState.RUNNING and frozen.user_attrs.get(TRIAL) not in mine:
                self.study.tell(frozen.number, state=TrialState.FAIL)

    def _add_running(self, trial: Trial) -> None:
        """Add a trial that the journal lacks, because a kill came in between, or that continues."""
        point = dict(trial.point)
        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=free(self.search.space, point),
                distributions=distributions(self.search.space, point),
                user_attrs={TRIAL: trial.id},
            )
        )
        self._numbers[trial.id] = len(self.study.get_trials(deepcopy=False)) - 1

    def _tell(self, number: int, trial: Trial, status: TrialStatus) -> None:
        """Close a trial in the study: finished is COMPLETE, stopped is PRUNED without a value, failed is FAIL."""
        open_trial = optuna.Trial(self.study, self._frozen(number)._trial_id)
        reached = score(trial, status, self.sweep.resources.num_workers)
        self._enter(reached)
        for name, known in self._learnt(reached, status).items():
            open_trial.set_user_attr(name, known)
        if reached is not None:
            open_trial.set_user_attr("verdict", reached.masking_status)
            told = self._frozen(number).constraints  # by a driver that was killed before it reported the values
            for name, value in self.objective.constraints(reached).items():
                if name not in told:
                    open_trial.set_constraint(name, value)
            self.study.tell(number, self.objective.values(reached))
        elif status.phase == "stopped":
            open_trial.set_user_attr("stopped", status.reason)
            if status.bound is not None:
                bound = [status.bound["clean_acc"], status.bound["robust_bound"]]
                open_trial.set_user_attr(BOUND, bound)
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            open_trial.set_user_attr("failed", status.reason)
            self.study.tell(number, state=TrialState.FAIL)

    def _learnt(self, reached: Score | None, status: TrialStatus) -> dict[str, object]:
        """What the sampler `auto` reads besides values: their variances, and accuracies on the way."""
        if self.search.sampler != "auto":
            return {}
        signals = {
            str(epoch["epoch"]): [epoch["val_clean_acc"], epoch["val_robust_acc"]]
            for epoch in status.epochs
            if "val_clean_acc" in epoch and "val_robust_acc" in epoch
        }
        if reached is None:
            if status.bound is not None:
                signals[END] = [status.bound["clean_acc"], status.bound["robust_bound"]]
            return {SIGNALS: signals} if signals else {}
        return {
            NOISE: self.objective.variances(reached),
            SIGNALS: {**signals, END: [reached.clean_acc, reached.pgd_acc]},
        }

    def _enter(self, reached: Score | None) -> None:
        """Keep the front of the finished trials up to date."""
        if reached is not None:
            self._front = front([*self._front, reached])

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]


class _Flock(JournalFileOpenLock):
    """An OS file lock, which is released when a process is killed. Optuna's own lock would have to time out."""

    def __init__(self, path: Rooted) -> None:
        super().__init__(str(path))
        self._path, self._held = path, ExitStack()

    def acquire(self) -> bool:
        self._held.enter_context(exclusive(self._path))
        return True

    def release(self) -> None:
        self._held.close()


def _storage(path: Rooted) -> JournalStorage:
    """Open the journal: JSON, one entry per line.

    Raises:
        InputError: the journal is damaged.
    """
    make_private(path)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise InputError(f"{str(path)!r} has {size} bytes, more than any search writes: move it away")
    drop_torn_line(path)
    lock = _Flock(below(path.parent, f".{path.name}.lock"))
    try:
        for line in read_regular(path).splitlines()[-1:]:
            json.loads(line)  # Optuna takes a last line that is not JSON for one that is being written
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # an entry that is not JSON, or not from Optuna
        raise InputError(
            f"{str(path)!r} is damaged ({type(error).__name__}): move it away, and --resume rebuilds it from the"
            " records"
        ) from error


def _has_continued(known: FrozenTrial, status: TrialStatus) -> bool:
    """Whether a trial has left behind the end that the study knows, because it was stopped and then continued."""
    halved = known.state == TrialState.PRUNED and BOUND not in known.user_attrs
    return halved and not status.halved


def _is_outside(space: Space, point: Point) -> bool:
    """Whether a point of a wider space lies outside this space."""
    return not all(space[name].admits(value) for name, value in point.items())
