"""How long a search has been at work: the time in which one of its trials was under way, over all restarts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sweeps.engine.search.results import Score, front, scores, volume
from sweeps.engine.search.spec import Search
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import Event, TrialStatus, read_events, read_status
from sweeps.engine.sweep.spec import Sweep, Trial

Interval = tuple[float, float]


def work_intervals(folders: Iterable[Path]) -> list[Interval]:
    """When at least one trial was under way, from first to last, in Unix seconds; a restart leaves a gap."""
    merged: list[Interval] = []
    for begin, end in sorted(interval for folder in folders for interval in _attempts(read_events(folder))):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def hours_until(moment: float, intervals: Iterable[Interval]) -> float:
    """Hours of work that were done by then."""
    return sum(max(min(end, moment) - begin, 0.0) for begin, end in intervals) / 3600


def _attempts(events: Iterable[Event]) -> list[Interval]:
    """Each attempt at a trial, from its start to the last that was heard of it."""
    attempts: list[Interval] = []
    for event in events:
        if event["event"] == "start" or not attempts:
            attempts.append((event["time"], event["time"]))
        else:
            attempts[-1] = (attempts[-1][0], event["time"])
    return attempts


@dataclass(frozen=True, kw_only=True)
class Tested:
    """A finalist's model on test images, judged once. Accuracies in [0, 1], with their 95 % Wilson intervals."""

    trial: str
    clean_acc: float
    robust_acc: float
    robust_interval: tuple[float, float]
    n: int
    suite: str
    masking_status: str


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """A point of the front, trained anew with several seeds: `members` on validation images, `tested` on test.

    `origin` is the trial that found it. The accuracies are means over members: a rule chooses by them.
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
        """Whether the robustness of any member is not to be believed."""
        return any(member.masked for member in self.members)

    @property
    def counts(self) -> bool:
        """Whether the robustness of every member may stand beside that of others."""
        return all(member.counts for member in self.members)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A search as far as it is.

    `rows` are all its own trials with their state, `finished` the scores of those that finished,
    `intervals` when it was at work. `champion` is the id of the trial that was chosen in the end: one of the
    members of the finalist that the rule picked. None if it has not come to that, or nothing satisfied the rule.
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
        """What the records say; of finalists and champion, what the caller says."""
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
        """What no other trial beats in both accuracies, by growing robust accuracy."""
        return front(self.finished)

    @property
    def hours(self) -> float:
        """Hours of wall time at work so far."""
        return sum(end - begin for begin, end in self.intervals) / 3600

    def progress(self) -> list[tuple[float, float]]:
        """(hours of work, hypervolume of all finished by then), after each finished trial."""
        ordered = sorted(self.finished, key=lambda one: one.ended)
        return [
            (hours_until(one.ended, self.intervals), volume(ordered[: count + 1])) for count, one in enumerate(ordered)
        ]

    def count(self, phase: str) -> int:
        """How many of its own trials are in a phase."""
        return sum(status.phase == phase for _, status in self.rows)


def flat_for(snapshot: Snapshot, *, tolerance: float = 1e-9) -> int:
    """How many of the last finished trials added nothing to the hypervolume."""
    volumes = [volume for _, volume in snapshot.progress()]
    last_rise = max(
        (at for at, value in enumerate(volumes) if value > (volumes[at - 1] if at else 0.0) + tolerance), default=-1
    )
    return len(volumes) - 1 - last_rise


def among(finalists: Sequence[Finalist]) -> list[Finalist]:
    """Those whose robustness counts."""
    return [finalist for finalist in finalists if finalist.counts]
