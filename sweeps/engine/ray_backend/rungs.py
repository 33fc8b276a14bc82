"""Successive halving by two aims: which trials continue after a rung, and how many may be expected to."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sweeps.engine.sweep.records import TrialStatus

# After each epoch, on validation images; the second by a few PGD steps.
CLEAN, SIGNAL = "val_clean_acc", "val_robust_acc"
Pair = tuple[float, float]  # clean and PGD accuracy

ALWAYS = 3  # the best of a rung continue, however few the others are, unless a search says otherwise


def kept(reached: int, factor: float, always: int = ALWAYS) -> int:
    """How many of the `reached` trials of a rung continue."""
    return min(max(math.ceil(reached / factor), always), reached)


def expected_whole(trials: int, factor: float, always: int = ALWAYS) -> int:
    """How many of `trials` are expected to pass a rung, if the order in which they come says nothing of them."""
    return round(sum(kept(reached, factor, always) / reached for reached in range(1, trials + 1)))


def ranked(points: Sequence[Pair]) -> list[int]:
    """Positions of the points from best to worst: by front, and within a front the least crowded first.

    Both values are to be maximised. Of equally crowded points the earlier one is better.

    Source: Deb et al. 2002 (NSGA-II), the fast sort in two dimensions by peeling.
    """
    left = sorted(range(len(points)), key=lambda at: (-points[at][0], -points[at][1], at))
    order: list[int] = []
    while left:
        front: list[int] = []
        rest: list[int] = []
        height = -math.inf
        for at in left:
            same = bool(front) and points[front[-1]] == points[at]
            if points[at][1] > height or same:
                front.append(at)
                height = points[at][1]
            else:
                rest.append(at)
        room = _room(front, points)
        order += sorted(front, key=lambda at: (-room[at], at))
        left = rest
    return order


def _room(front: Sequence[int], points: Sequence[Pair]) -> dict[int, float]:
    """Each point's distance between its neighbours on a front that is sorted; infinite at the ends."""
    wide = points[front[0]][0] - points[front[-1]][0] or 1.0
    high = points[front[-1]][1] - points[front[0]][1] or 1.0
    room = dict.fromkeys(front, math.inf)
    for before, at, after in zip(front, front[1:], front[2:], strict=False):
        room[at] = (points[before][0] - points[after][0]) / wide + (points[after][1] - points[before][1]) / high
    return room


@dataclass
class FrontRung:
    """An asynchronous rung: of those that came so far, the best 1 / factor continue, and at least the best `always`.

    `stopped` are the trials that did not. One of them may continue later: see `next_stopped`.
    """

    epoch: int
    factor: float
    always: int = ALWAYS
    stopped: set[str] = field(default_factory=set)
    _reached: dict[str, Pair] = field(default_factory=dict)
    _order: list[str] | None = None

    def replay(self, rows: Iterable[tuple[str, TrialStatus]]) -> None:
        """Enter trials of earlier, with their records' word on which of them are stopped."""
        for trial, status in rows:
            for epoch in status.epochs:
                if epoch["epoch"] == self.epoch:
                    self._reached[trial], self._order = (epoch[CLEAN], epoch[SIGNAL]), None
            if status.halved:
                self.stopped.add(trial)
            else:
                self.stopped.discard(trial)

    def stops(self, trial: str, epoch: int, point: Pair) -> bool:
        """Enter a trial's accuracies at an epoch; whether it stops there. Other epochs than the rung's stop nothing."""
        if epoch != self.epoch:
            return False
        self._reached[trial], self._order = point, None
        if trial in self._ranked()[: self._kept]:
            return False
        self.stopped.add(trial)
        return True

    def next_stopped(self, *, any_rank: bool) -> str | None:
        """The best of the stopped trials; with `any_rank` false only if the rung would keep it among all that came.

        Source: Li et al. 2020 (asynchronous successive halving promotes such trials).
        """
        if not self.stopped:
            return None
        best = self._ranked()
        best = best if any_rank else best[: self._kept]
        return next((trial for trial in best if trial in self.stopped), None)

    @property
    def _kept(self) -> int:
        return kept(len(self._reached), self.factor, self.always)

    def _ranked(self) -> list[str]:
        if self._order is None:
            names = list(self._reached)
            self._order = [names[at] for at in ranked(list(self._reached.values()))]
        return self._order
