"""A snapshot of a search: its trials, scores and finalists, and the wall time during which trials ran."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sweeps.engine.search.objectives import get_objective
from sweeps.engine.search.results import Score, front, scores, volume
from sweeps.engine.search.spec import Search
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import Event, TrialStatus, read_events, read_status
from sweeps.engine.sweep.spec import Sweep, Trial

Interval = tuple[float, float]


def work_intervals(folders: Iterable[Path]) -> list[Interval]:
    """Merged (begin, end) intervals during which at least one trial ran, in Unix seconds.

    Time between an interruption and its resumption is not included.
    """
    merged: list[Interval] = []
    for begin, end in sorted(interval for folder in folders for interval in _attempts(read_events(folder))):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def hours_until(moment: float, intervals: Iterable[Interval]) -> float:
    """Hours of work before `moment` (Unix seconds)."""
    return sum(max(min(end, moment) - begin, 0.0) for begin, end in intervals) / 3600


def _attempts(events: Iterable[Event]) -> list[Interval]:
    """Each attempt at a trial, from its start to its last recorded event."""
    attempts: list[Interval] = []
    for event in events:
        if event["event"] == "start" or not attempts:
            attempts.append((event["time"], event["time"]))
        else:
            attempts[-1] = (attempts[-1][0], event["time"])
    return attempts


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A finalist's model, evaluated once on test images. Accuracies and the 95 % Wilson interval are in [0, 1]."""

    trial: str
    clean_acc: float
    robust_acc: float
    robust_interval: tuple[float, float]
    n: int
    suite: str
    masking_status: str


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

    `rows` are its own trials with their status, `finished` the scores of the finished ones, `intervals` when
    trials ran. `champion` is the trial id of the chosen model: a member of the finalist that the rule picked. It is
    None before the choice, or if no finalist satisfies the rule.
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
        trials = folder.trials(sweep)
        own = [trial for trial in trials if trial.role == "search"]
        return cls(
            sweep=sweep,
            search=search,
            rows=tuple((trial, read_status(folder.trial(trial))) for trial in own),
            finished=tuple(scores(sweep, folder)),
            intervals=tuple(work_intervals(folder.trial(trial) for trial in own)),
            finalists=tuple(finalists),
            champion=champion,
        )

    @property
    def front(self) -> list[Score]:
        """The trials that no other trial beats in both accuracies, by increasing robust accuracy."""
        return front(self.finished)

    @property
    def feasible(self) -> list[Score]:
        """The finished trials that meet every constraint of the objective and count."""
        constraints = get_objective(self.search.objective).constraints
        met = (one for one in self.finished if all(value <= 0 for value in constraints(one).values()))
        return [one for one in met if one.counts]

    @property
    def hours(self) -> float:
        """Hours of wall time during which trials ran, so far."""
        return sum(end - begin for begin, end in self.intervals) / 3600

    def progress(self) -> list[tuple[float, float]]:
        """(hours of work, hypervolume of all trials finished by then) after each finished trial."""
        ordered = sorted(self.finished, key=lambda one: one.ended)
        return [
            (hours_until(one.ended, self.intervals), volume(ordered[: count + 1])) for count, one in enumerate(ordered)
        ]

    def count(self, phase: str) -> int:
        """Number of the search's own trials in a phase."""
        return sum(status.phase == phase for _, status in self.rows)


def flat_for(snapshot: Snapshot, *, tolerance: float = 1e-9) -> int:
    """How many of the most recently finished trials, in a row, did not increase the hypervolume.

    The first trial is what others are compared with, so it is never one of them, even if its hypervolume is 0.
    """
    volumes = [volume for _, volume in snapshot.progress()]
    rises = (at for at, value in enumerate(volumes) if at and value > volumes[at - 1] + tolerance)
    return max(len(volumes) - 1, 0) - max(rises, default=0)


def trusted_finalists(finalists: Sequence[Finalist]) -> list[Finalist]:
    """The finalists whose robust accuracy can be compared (`Finalist.counts`)."""
    return [finalist for finalist in finalists if finalist.counts]
