"""Scores of finished trials, read from their records, and the Pareto front they span."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from bat_core.masking.flags import ONE_CLASS, status_in_words
from bat_core.stats import wilson
from search_spaces.base import Point
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import TrialStatus
from sweeps.engine.sweep.spec import Sweep, Trial

MASKED = "masked"


@dataclass(frozen=True, kw_only=True)
class Score:
    """A finished trial. Accuracies in [0, 1], on validation images.

    `robust_acc` is the worst case under `suite` on `robust_n` images; `pgd_acc` is the worst case under the PGD
    trajectory alone, on `n` images. `hours` is the training time, summed over all processes. `ended` is when the
    trial ended, in Unix seconds.
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
    )


def scores(sweep: Sweep, folder: SweepFolder, *, role: str = "search") -> list[Score]:
    """The scores of all finished trials of a role, in the order of their proposal."""
    return scores_of((row for row in folder.statuses(sweep) if row[0].role == role), sweep)


def scores_of(rows: Iterable[tuple[Trial, TrialStatus]], sweep: Sweep) -> list[Score]:
    """The scores of those trials that are finished."""
    found = (score(trial, status, sweep.resources.num_workers) for trial, status in rows)
    return [one for one in found if one is not None]


def front(scored: Iterable[Score]) -> list[Score]:
    """The trials that no other trial beats in both clean and robust accuracy, by increasing robust accuracy.

    A trial that does not count (`Score.counts`) is excluded. Of equal trials, the first is kept.
    """
    return undominated((one for one in scored if one.counts), by=lambda one: one.robust_acc)


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


class Staircase:
    """The hypervolume of points that come one by one. Each costs the logarithm of the front's size."""

    def __init__(self) -> None:
        self.area = 0.0
        self._cleans: list[float] = []  # of the points that no other beats, rising
        self._robusts: list[float] = []  # of the same points, falling

    def add(self, clean: float, robust: float) -> float:
        """The hypervolume above (0, 0) with one more point; both larger is better."""
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


def volume(scored: Sequence[Score]) -> float:
    """The hypervolume of the trials that count, above (0, 0)."""
    return hypervolume((one.clean_acc, one.robust_acc) for one in scored if one.counts)


def largest_part(scored: Sequence[Score], count: int) -> list[Score]:
    """Choose `count` trials that together dominate a large area: greedily, the one that adds most each time."""
    chosen: list[Score] = []
    rest = list(scored)
    while rest and len(chosen) < count:
        best = max(rest, key=lambda one: volume([*chosen, one]))
        rest.remove(best)
        chosen.append(best)
    return chosen
