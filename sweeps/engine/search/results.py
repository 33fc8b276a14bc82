"""Scores of finished trials, read from their records, and the Pareto front they span."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from bat_core.errors import InputError
from bat_core.masking.flags import ONE_CLASS, status_in_words
from bat_core.stats import wilson
from search_spaces.base import Point
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import TrialStatus
from sweeps.engine.sweep.spec import Sweep, Trial

MASKED = "masked"


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """A worst case in one norm, or under two at once: the accuracy in [0, 1] under `suite` on `n` images."""

    acc: float
    n: int
    suite: str

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95 % Wilson interval."""
        return wilson(round(self.acc * self.n), self.n)


@dataclass(frozen=True, kw_only=True)
class Score:
    """A finished trial. Accuracies in [0, 1], on validation images.

    `robust_acc` is the worst case under `suite` on `robust_n` images; `pgd_acc` is the worst case under the PGD
    trajectory alone, on `n` images. `hours` is the training time, summed over all processes. `ended` is when the
    trial ended, in Unix seconds. `threats` is what a trial that is verified in two norms reached, by norm and as UNION.
    """

    trial: Trial
    clean_acc: float
    robust_acc: float
    pgd_acc: float
    n: int
    robust_n: int
    suite: str
    masking_status: str
    flags: tuple[str, ...]
    hours: float
    ended: float
    threats: Mapping[str, Robustness] = field(default_factory=dict, hash=False)

    def under(self, threat: str | None = None) -> Robustness:
        """Its worst case in a norm or under the UNION; None: in the norm of its own attacks.

        Raises:
            InputError: the trial is not verified there.
        """
        own = self.trial.config.attack.norm
        if (found := self.threats.get(threat or own)) is not None:
            return found
        if threat not in (None, own):
            raise InputError(f"trial {self.id} is not verified in {threat}: start a search with --threat that names it")
        return Robustness(acc=self.robust_acc, n=self.robust_n, suite=self.suite)

    def shown_under(self, threat: str | None) -> "Score":
        """The same trial with that worst case as its robust accuracy, for the reports of a search that aims at it."""
        found = self.under(threat)
        return replace(self, robust_acc=found.acc, robust_n=found.n, suite=found.suite)

    @property
    def id(self) -> str:
        """The trial's id."""
        return self.trial.id

    @property
    def point(self) -> Point:
        """The point of the space that it was trained at."""
        return dict(self.trial.point)

    @property
    def verdict(self) -> str:
        """The masking status in words."""
        return status_in_words(self.masking_status, self.robust_acc)

    @property
    def masked(self) -> bool:
        """Whether gradient masking makes its robust accuracy unreliable."""
        return self.masking_status == MASKED

    @property
    def constant(self) -> bool:
        """Whether it predicts the same class for every image. No attack changes that, and it has learnt nothing."""
        return ONE_CLASS in self.flags

    @property
    def counts(self) -> bool:
        """Whether its robust accuracy can be compared with that of other trials."""
        return not (self.masked or self.constant)

    @property
    def interval(self) -> tuple[float, float]:
        """The robust accuracy's 95 % Wilson interval."""
        return wilson(round(self.robust_acc * self.robust_n), self.robust_n)

    @property
    def robust_per_hour(self) -> float:
        """Robust accuracy per hour of training."""
        return self.robust_acc / max(self.hours, 1e-9)


Aims: TypeAlias = tuple[Callable[[Score], float], ...]
CLEAN_AND_ROBUST: Aims = (lambda one: one.clean_acc, lambda one: one.robust_acc)  # what most fronts are of


def score(trial: Trial, status: TrialStatus, processes: int) -> Score | None:
    """The score of a trial; None unless it is finished."""
    if status.phase != "finished" or status.result is None:
        return None
    result = status.result
    return Score(
        trial=trial,
        clean_acc=result["clean_acc"],
        robust_acc=result["robust_acc"],
        pgd_acc=result["pgd_acc"],
        n=result["n"],
        robust_n=result["robust_n"],
        suite=result["suite"],
        masking_status=result["verdict"],
        flags=tuple(result["flags"]),
        hours=status.training_hours(processes),
        ended=result["time"],
        threats={
            name: Robustness(acc=one["robust_acc"], n=one["n"], suite=one["suite"])
            for name, one in result.get("threats", {}).items()
        },
    )


def scores(sweep: Sweep, folder: SweepFolder, *, role: str = "search") -> list[Score]:
    """The scores of all finished trials of a role, in the order of their proposal."""
    return scores_of((row for row in folder.statuses(sweep) if row[0].role == role), sweep)


def scores_of(rows: Iterable[tuple[Trial, TrialStatus]], sweep: Sweep) -> list[Score]:
    """The scores of those trials that are finished."""
    found = (score(trial, status, sweep.resources.num_workers) for trial, status in rows)
    return [one for one in found if one is not None]


def front(scored: Iterable[Score], aims: Aims = CLEAN_AND_ROBUST) -> list[Score]:
    """The trials that no other trial beats in all `aims`, by increasing robust accuracy.

    A trial that does not count (`Score.counts`) is excluded. Of equal trials, the first is kept.
    """
    known = [one for one in scored if one.counts]
    if len(aims) == 2:
        return undominated(known, by=aims[1])
    kept: dict[tuple[float, ...], Score] = {}
    for one in sorted(known, key=lambda s: [-aim(s) for aim in aims]):  # so nobody is beaten by one who comes later
        values = tuple(aim(one) for aim in aims)
        if not any(beats(other, values) for other in kept):
            kept[values] = one
    return sorted(kept.values(), key=lambda s: (s.robust_acc, -s.clean_acc))


def beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether one point is at least as good as the other in every value."""
    return all(mine >= theirs for mine, theirs in zip(one, other, strict=True))


def undominated(scored: Iterable[Score], *, by: Callable[[Score], float]) -> list[Score]:
    """The trials that no other beats in both clean accuracy and `by`, by increasing `by`.

    Of equal trials, the first is kept.
    """
    kept: list[Score] = []
    for one in sorted(scored, key=lambda s: (-by(s), -s.clean_acc)):
        if not kept or one.clean_acc > kept[-1].clean_acc:
            kept.append(one)
    return kept[::-1]


def hypervolume(points: Iterable[tuple[float, float]], *, reference: tuple[float, float] = (0.0, 0.0)) -> float:
    """The area that (clean, robust) points dominate above `reference`; both larger is better.

    Source: Zitzler and Thiele 1998.
    """
    area, height = 0.0, reference[1]
    for clean, robust in sorted(points, reverse=True):
        if clean > reference[0] and robust > height:
            area += (clean - reference[0]) * (robust - height)
            height = robust
    return area


def sliced(points: Sequence[tuple[float, ...]]) -> float:
    """The hypervolume above 0 of points with two or more values, by slices along the last one."""
    if not points or len(points[0]) == 2:
        return hypervolume((first, second) for first, second in points)
    ordered = sorted(points, key=lambda point: -point[-1])
    bottoms = [*(point[-1] for point in ordered[1:]), 0.0]
    heights = [max(point[-1], 0.0) - max(bottom, 0.0) for point, bottom in zip(ordered, bottoms, strict=True)]
    bases = [point[:-1] for point in ordered]
    return sum(height * sliced(bases[: at + 1]) for at, height in enumerate(heights) if height)


class Growing(Protocol):
    """The hypervolume above 0 of points that come one by one."""

    area: float

    def add(self, *values: float) -> float:
        """The hypervolume with one more point."""
        ...


class Slices:
    """The hypervolume of points with any number of values that come one by one. Each costs that of the front."""

    def __init__(self) -> None:
        self.area = 0.0
        self._front: list[tuple[float, ...]] = []

    def add(self, *values: float) -> float:
        """The hypervolume above 0 with one more point; all values larger is better."""
        if min(values) > 0 and not any(beats(known, values) for known in self._front):
            self._front = [*(known for known in self._front if not beats(values, known)), values]
            self.area = sliced(self._front)
        return self.area


def growing(count: int) -> Growing:
    """An empty hypervolume of points with so many values."""
    return Staircase() if count == 2 else Slices()


class Staircase:
    """The hypervolume of points that come one by one. Each costs the logarithm of the front's size."""

    def __init__(self) -> None:
        self.area = 0.0
        self._cleans: list[float] = []  # of the points that no other beats, rising
        self._robusts: list[float] = []  # of the same points, falling

    def add(self, *values: float) -> float:
        """The hypervolume above (0, 0) with one more point (clean, robust); both larger is better."""
        clean, robust = values
        at = bisect_left(self._cleans, clean)
        if clean <= 0 or robust <= 0 or (at < len(self._cleans) and self._robusts[at] >= robust):
            return self.area
        if at < len(self._cleans) and self._cleans[at] == clean:
            at += 1  # beaten by the new point, as all before it that are not more robust
        first = at
        while first and self._robusts[first - 1] <= robust:
            first -= 1
        left = self._cleans[first - 1] if first else 0.0
        edges = [*self._cleans[first:at], clean]
        heights = [*self._robusts[first:at], self._robusts[at] if at < len(self._robusts) else 0.0]
        for edge, height in zip(edges, heights, strict=True):
            self.area += (edge - left) * (robust - height)
            left = edge
        self._cleans[first:at], self._robusts[first:at] = [clean], [robust]
        return self.area


def volume(scored: Sequence[Score], aims: Aims = CLEAN_AND_ROBUST) -> float:
    """The hypervolume of the trials that count, above 0."""
    return sliced([tuple(aim(one) for aim in aims) for one in scored if one.counts])


def largest_part(scored: Sequence[Score], count: int, aims: Aims = CLEAN_AND_ROBUST) -> list[Score]:
    """Choose `count` trials that together dominate a large area: greedily, the one that adds most each time."""
    chosen: list[Score] = []
    rest = list(scored)
    while rest and len(chosen) < count:
        best = max(rest, key=lambda one: volume([*chosen, one], aims))
        rest.remove(best)
        chosen.append(best)
    return chosen
