"""A snapshot of a search: its trials, scores and finalists, and the wall time during which trials ran."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from statistics import fmean

from bat_core.masking.flags import status_in_words
from sweeps.engine.search.expected import ExpectedFront, expected_front
from sweeps.engine.search.objectives import Objective, get_objective
from sweeps.engine.search.results import CLEAN_AND_ROBUST, Aims, Robustness, Score, front, growing, scores_of
from sweeps.engine.search.spec import Search
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import TrialStatus, read_status
from sweeps.engine.sweep.spec import Sweep, Trial

Interval = tuple[float, float]


def work_intervals(folders: Iterable[Path]) -> list[Interval]:
    """Merged (begin, end) intervals during which at least one trial ran, in Unix seconds.

    Time between an interruption and its resumption is not included.
    """
    return merged(span for folder in folders for span in read_status(folder).spans)


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The union of intervals, sorted and apart from each other."""
    union: list[Interval] = []
    for begin, end in sorted(intervals):
        if union and begin <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((begin, end))
    return union


def hours_until(moment: float, intervals: Iterable[Interval]) -> float:
    """Hours of work before `moment` (Unix seconds)."""
    return sum(max(min(end, moment) - begin, 0.0) for begin, end in intervals) / 3600


class WorkClock:
    """`hours_until` for many moments: each costs the logarithm of the number of intervals, which are apart."""

    def __init__(self, intervals: Sequence[Interval]) -> None:
        self._intervals = intervals
        self._before = [0.0, *accumulate(end - begin for begin, end in intervals)]

    def hours_until(self, moment: float) -> float:
        """Hours of work before `moment` (Unix seconds)."""
        at = bisect_left(self._intervals, (moment,))
        seconds = self._before[at]
        if at and moment < self._intervals[at - 1][1]:
            seconds -= self._intervals[at - 1][1] - moment
        return seconds / 3600


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A finalist's model, evaluated once on test images. Accuracies and the 95 % Wilson interval are in [0, 1].

    `own` is its robustness in the norm of the search's trials, in which models in the registry are compared; None: the
    one given.
    """

    trial: str
    clean_acc: float
    robust_acc: float
    robust_interval: tuple[float, float]
    n: int
    suite: str
    masking_status: str
    own: Robustness | None = None

    @property
    def verdict(self) -> str:
        """The masking status in words."""
        return status_in_words(self.masking_status, self.robust_acc)


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A point of the front, retrained with several seeds.

    `origin` is the trial that found it. `members` are the scores of its models on validation images, `tested`
    those on test images. The accuracies are means over members; the rule chooses by them.
    """

    origin: Score
    members: tuple[Score, ...]
    tested: tuple[Tested, ...] = ()

    @property
    def clean_acc(self) -> float:
        """Mean over seeds, on validation images."""
        return fmean(member.clean_acc for member in self.members)

    @property
    def robust_acc(self) -> float:
        """Mean over seeds of the verified worst case, on validation images."""
        return fmean(member.robust_acc for member in self.members)

    @property
    def robust_per_hour(self) -> float:
        """Mean over seeds."""
        return fmean(member.robust_per_hour for member in self.members)

    @property
    def masked(self) -> bool:
        """Whether gradient masking makes the robust accuracy of any member unreliable."""
        return any(member.masked for member in self.members)

    @property
    def counts(self) -> bool:
        """Whether the robust accuracy of every member can be compared with that of other models."""
        return all(member.counts for member in self.members)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The state of a search at one moment.

    `rows` are its own trials with their status, `finished` the scores of the finished ones, with the robust accuracy
    that reports show (`Objective.shown`), `intervals` when trials ran. `champion` is the trial id of the chosen model:
    a member of the finalist that the rule picked. It is None before the choice, or if no finalist satisfies the rule.
    """

    sweep: Sweep
    search: Search
    rows: tuple[tuple[Trial, TrialStatus], ...]
    finished: tuple[Score, ...]
    intervals: tuple[Interval, ...]
    finalists: tuple[Finalist, ...] = ()
    champion: str | None = None

    @classmethod
    def of(
        cls,
        sweep: Sweep,
        search: Search,
        folder: SweepFolder,
        *,
        finalists: Sequence[Finalist] = (),
        champion: str | None = None,
    ) -> "Snapshot":
        """Read the trials from their records; the caller passes finalists and champion."""
        rows = tuple(row for row in folder.statuses(sweep) if row[0].role == "search")
        shown = get_objective(search.objective).shown
        return cls(
            sweep=sweep,
            search=search,
            rows=rows,
            finished=tuple(one.shown_under(shown) for one in scores_of(rows, sweep)),
            intervals=tuple(merged(span for _, status in rows for span in status.spans)),
            finalists=tuple(finalists),
            champion=champion,
        )

    @property
    def objective(self) -> Objective:
        """What the search aims at."""
        return get_objective(self.search.objective)

    @cached_property
    def front(self) -> list[Score]:
        """The trials that no other trial beats in all accuracies aimed at, by increasing robust accuracy."""
        return front(self.finished, self.objective.aims)

    @cached_property
    def expected(self) -> ExpectedFront | None:
        """What a model of all trials expects of the front; None if it aims at several robust accuracies, or trials are
        few."""
        return expected_front(self.search.space, self.finished) if len(self.objective.aims) == 2 else None

    @property
    def plotted_front(self) -> list[Score]:
        """The trials that no other trial beats in clean accuracy and the robust one that plots show."""
        return front(self.finished)

    @property
    def feasible(self) -> list[Score]:
        """The finished trials that meet every constraint of the objective and count."""
        constraints = self.objective.constraints
        met = (one for one in self.finished if all(value <= 0 for value in constraints(one).values()))
        return [one for one in met if one.counts]

    @property
    def hours(self) -> float:
        """Hours of wall time during which trials ran, so far."""
        return sum(end - begin for begin, end in self.intervals) / 3600

    def progress(self) -> list[tuple[float, float]]:
        """(hours of work, hypervolume of all trials finished by then) after each finished trial."""
        ordered = sorted(self.finished, key=lambda one: one.ended)
        reached = volumes(ordered, self.objective.aims)
        return list(zip((self.clock.hours_until(one.ended) for one in ordered), reached, strict=True))

    @cached_property
    def clock(self) -> WorkClock:
        """The hours of work at any moment."""
        return WorkClock(self.intervals)

    @property
    def bounded(self) -> list[tuple[Trial, TrialStatus]]:
        """The trials that were not verified, because they cannot enter the front."""
        return [(trial, status) for trial, status in self.rows if status.bound is not None]

    def count(self, phase: str) -> int:
        """Number of the search's own trials in a phase."""
        return sum(status.phase == phase for _, status in self.rows)


def flat_for(snapshot: Snapshot, *, tolerance: float = 1e-9) -> int:
    """How many of the most recently finished trials, in a row, did not increase the hypervolume.

    Trials that cannot enter the front count as finished. The first trial is what others are compared with, so it is
    never one of them, even if its hypervolume is 0.
    """
    ordered = sorted(snapshot.finished, key=lambda one: one.ended)
    reached = volumes(ordered, snapshot.objective.aims)
    rises = (at for at, value in enumerate(reached) if at and value > reached[at - 1] + tolerance)
    last = max(rises, default=0)
    since = ordered[last].ended if ordered else 0.0
    left_out = sum((status.ended or 0.0) >= since for _, status in snapshot.bounded)
    return max(len(reached) - 1, 0) - last + left_out


def volumes(ordered: Iterable[Score], aims: Aims = CLEAN_AND_ROBUST) -> list[float]:
    """The hypervolume of the trials that count, after each of `ordered`."""
    known = growing(len(aims))
    return [known.add(*(aim(one) for aim in aims)) if one.counts else known.area for one in ordered]


def trusted_finalists(finalists: Sequence[Finalist]) -> list[Finalist]:
    """The finalists whose robust accuracy can be compared (`Finalist.counts`)."""
    return [finalist for finalist in finalists if finalist.counts]
