"""How long a search has worked, and how long its front has been flat, asked before each of thousands of proposals.

`Snapshot` says the same of a whole search. Here each look reads only the trials that had not ended at the last look.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence

from sweeps.engine.search.results import CLEAN_AND_ROBUST, Aims, growing, score
from sweeps.engine.search.snapshot import Interval, merged
from sweeps.engine.search.spec import Search
from sweeps.engine.search.study import SearchStudy
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Sweep, Trial


class Pace:
    """The hours of work of a search, and how many of its last trials did not extend its front.

    A look costs the number of running trials, not of all.
    """

    def __init__(self, sweep: Sweep, folder: SweepFolder, aims: Aims = CLEAN_AND_ROBUST) -> None:
        self._sweep, self._folder, self._aims = sweep, folder, aims
        self._seen, self._reopened = 0, 0  # trials
        self._places: dict[str, int] = {}
        self._open: list[tuple[int, Trial]] = []  # trials that have not ended, with their places
        self._worked = _Union()
        self._running: list[Interval] = []
        self._front = _Front(len(aims))

    def look(self, trials: Sequence[Trial], reopened: Sequence[Trial] = ()) -> None:
        """Read what is new.

        `trials` are all trials of the search, `reopened` those that continued after they had been stopped; only the
        ends of both may have grown since the last look.
        """
        self._open += enumerate(trials[self._seen :], self._seen)
        self._places |= {trial.id: place for place, trial in enumerate(trials[self._seen :], self._seen)}
        known = {trial.id for _, trial in self._open}
        again = [trial for trial in reopened[self._reopened :] if trial.id not in known]
        self._open += [(self._places[trial.id], trial) for trial in again]
        self._seen, self._reopened = len(trials), len(reopened)
        still, self._running = [], []
        for place, trial in self._open:
            status = read_status(self._folder.trial(trial))
            if not status.done:
                still.append((place, trial))
                self._running += status.spans
                continue
            for span in status.spans:
                self._worked.add(span)
            if status.bound is not None and status.ended is not None:
                self._front.add((status.ended, place), None)
            if (reached := score(trial, status, self._sweep.resources.num_workers)) is not None:
                point = tuple(aim(reached) for aim in self._aims) if reached.counts else None
                self._front.add((reached.ended, place), point)
        self._open = still

    @property
    def hours(self) -> float:
        """Hours of wall time during which trials ran, so far. See `Snapshot.hours`."""
        return (self._worked.seconds + sum(self._worked.missing(span) for span in merged(self._running))) / 3600

    @property
    def flat(self) -> int:
        """How many of the last finished trials, in a row, did not extend the front. See `flat_for`."""
        return self._front.flat


class Budget:
    """What a search may still do, by its limits. Tune stores it: there are no locks in it."""

    def __init__(self, search: Search, study: SearchStudy, pace: Pace) -> None:
        self._search, self._study, self._pace = search, study, pace

    def is_open(self) -> bool:
        """Whether trials may still begin: time is left, and the front is not flat."""
        hours, flat = self._search.max_hours, self._search.flat
        if hours is None and flat is None:
            return True
        self._pace.look(self._study.trials(), self._study.reopened)
        return (hours is None or self._pace.hours < hours) and (flat is None or self._pace.flat < flat)

    def proposes(self) -> bool:
        """Whether a new trial may begin, if trials may."""
        return len(self._study.trials()) < self._search.num_trials

    def has_room(self) -> bool:
        """Whether trials may begin although no new one may: all are proposed, and time was set aside for more."""
        return not self.proposes() and self._search.max_hours is not None


class _Union:
    """A union of intervals that come one by one, mostly in their order."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._intervals: list[Interval] = []

    def add(self, span: Interval) -> None:
        first, last = self._touched(span)
        (joined,) = merged([*self._intervals[first:last], span])
        self.seconds += joined[1] - joined[0] - sum(end - begin for begin, end in self._intervals[first:last])
        self._intervals[first:last] = [joined]

    def missing(self, span: Interval) -> float:
        """The seconds of a span that the union does not cover."""
        first, last = self._touched(span)
        inside = (min(end, span[1]) - max(begin, span[0]) for begin, end in self._intervals[first:last])
        return span[1] - span[0] - sum(inside)

    def _touched(self, span: Interval) -> tuple[int, int]:
        """The places of the intervals that overlap or touch a span."""
        first = bisect_left(self._intervals, span[0], key=lambda one: one[1])
        return first, max(bisect_right(self._intervals, span[1], key=lambda one: one[0]), first)


class _Front:
    """The front of finished trials, in the order in which they ended; who is seen late is entered where it belongs."""

    def __init__(self, aims: int) -> None:
        self._ended: list[tuple[tuple[float, int], tuple[float, ...] | None]] = []
        self._aims = aims
        self._restart(())

    def _restart(self, points: Iterable[tuple[float, ...] | None]) -> None:
        self._stairs, self.flat, self._count = growing(self._aims), 0, 0
        for point in points:
            self._enter(point)

    def add(self, when: tuple[float, int], point: tuple[float, ...] | None) -> None:
        """Enter a trial that ended at `when`; None for the accuracies of one that does not count."""
        late = bool(self._ended) and when < self._ended[-1][0]
        insort(self._ended, (when, point), key=lambda one: one[0])
        if late:
            self._restart(known for _, known in self._ended)
        else:
            self._enter(point)

    def _enter(self, point: tuple[float, ...] | None, *, tolerance: float = 1e-9) -> None:
        before = self._stairs.area
        after = before if point is None else self._stairs.add(*point)
        self.flat = 0 if not self._count or after > before + tolerance else self.flat + 1
        self._count += 1
