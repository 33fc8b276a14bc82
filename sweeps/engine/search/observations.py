"""What the trials of a study say about its objectives: measured, forecast from stopped trials, or infeasible."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search_spaces.base import Point
from search_spaces.encoding import Encoding
from sweeps.engine.search.gaussian import Array

NOISE, SIGNALS, TRIAL = "noise", "signals", "trial"  # names of user attributes
UNTRUSTED = ("masked", "one class")  # constraints of trials whose accuracies are not what they seem
FEWEST = 6  # finished trials from which a stopped trial's end is forecast
END = "end"  # the signals after the last epoch


@dataclass(frozen=True, kw_only=True)
class Observations:
    """Values of N points, all to be maximised, with the variance of their known noise; and which of M are feasible.

    `x` and `ended_x` are the vectors of `points` and of all trials that ended. `broken` has a column per constraint
    on values, and one for failures and for accuracies that are not what they seem: above 0, the trial is infeasible.
    `reference` is the worst value of each objective.
    """

    points: tuple[Point, ...]
    x: Array
    values: Array
    noise: Array
    ended_x: Array
    broken: Array
    reference: tuple[float, float]

    def thinned(self, most: int, rng: np.random.Generator) -> "Observations":
        """At most `most` points: the best ones by any mixture of the objectives, and others at random."""
        if len(self.points) <= most:
            return self
        scaled = (self.values - self.values.min(axis=0)) / np.maximum(np.ptp(self.values, axis=0), 1e-12)
        shares = np.linspace(0.0, 1.0, 11)[:, None] if scaled.shape[1] == 2 else np.ones((1, 1))
        weights = np.column_stack([shares, 1 - shares])[:, : scaled.shape[1]]
        best = np.unique(np.argsort(-(scaled @ weights.T), axis=0)[: most // 5])[:most]
        rest = rng.permutation(np.setdiff1d(np.arange(len(self.points)), best))
        kept = np.sort(np.concatenate([best, rest[: most - len(best)]]))
        ended = np.sort(rng.permutation(len(self.ended_x))[:most])
        return replace(
            self,
            points=tuple(self.points[at] for at in kept),
            x=self.x[kept],
            values=self.values[kept],
            noise=self.noise[kept],
            ended_x=self.ended_x[ended],
            broken=self.broken[ended],
        )


def observe(encoding: Encoding, directions: Sequence[StudyDirection], trials: Sequence[FrozenTrial]) -> Observations:
    """Read the trials that ended.

    A finished trial is measured. A masked one is infeasible, and its accuracies are not used. A pruned one is
    forecast from its last signals, with the error of that forecast as noise, once enough trials have finished. A
    failed one is infeasible.
    """
    signs = np.array([-1.0 if direction == StudyDirection.MINIMIZE else 1.0 for direction in directions])
    ended = last_ends([one for one in trials if one.state.is_finished() and one.params])
    finished = [one for one in ended if one.state == TrialState.COMPLETE and _trusted(one)]
    values = [np.array(one.values) for one in finished]
    noise = [np.array(one.user_attrs.get(NOISE, np.zeros(len(signs)))) for one in finished]
    seen = list(finished)
    forecasts = _Forecasts(finished)
    for one in ended:
        forecast = forecasts.of(one) if one.state == TrialState.PRUNED else None
        if forecast is not None:
            seen.append(one)
            values.append(forecast[0])
            noise.append(forecast[1])
    names = sorted({name for one in ended for name in one.constraints} - {*UNTRUSTED})
    broken = [[*(one.constraints.get(name, -1.0) for name in names), -1.0 if _usable(one) else 1.0] for one in ended]
    array = np.array(values).reshape(len(seen), len(signs)) * signs
    return Observations(
        points=tuple(one.params for one in seen),
        x=np.array([encoding.vector(one.params) for one in seen]).reshape(len(seen), encoding.width),
        values=array,
        noise=np.array(noise).reshape(len(seen), len(signs)),
        ended_x=np.array([encoding.vector(one.params) for one in ended]).reshape(len(ended), encoding.width),
        broken=np.array(broken).reshape(len(ended), len(names) + 1),
        reference=_reference(array, signs),
    )


def last_ends(ended: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials without the earlier ends of those that were stopped and continued."""
    last = {one.user_attrs[TRIAL]: one.number for one in ended if TRIAL in one.user_attrs}
    return [one for one in ended if last.get(one.user_attrs.get(TRIAL), one.number) == one.number]


def _reference(values: Array, signs: Array) -> tuple[float, float]:
    """0 for what is maximised, as the reported hypervolume has it, and the worst value for what is minimised."""
    worst = [0.0 if sign > 0 else float(column.min(initial=0.0)) for sign, column in zip(signs, values.T, strict=True)]
    return worst[0], worst[-1]


def _usable(trial: FrozenTrial) -> bool:
    return trial.state != TrialState.FAIL and _trusted(trial)


def _trusted(trial: FrozenTrial) -> bool:
    return all(trial.constraints.get(name, -1.0) <= 0 for name in UNTRUSTED)


class _Forecasts:
    """What stopped trials would have reached: a line in clean and PGD accuracy, fitted to the finished trials at the
    same epoch."""

    def __init__(self, finished: Sequence[FrozenTrial]) -> None:
        self._finished = finished
        self._lines: dict[str, tuple[Array, Array] | None] = {}

    def of(self, stopped: FrozenTrial) -> tuple[Array, Array] | None:
        """Values, and the variance of that forecast; None if too few trials have finished, or no epoch is known."""
        signals: Mapping[str, Any] = stopped.user_attrs.get(SIGNALS, {})
        if not signals:
            return None
        stage = END if END in signals else max(signals, key=int)
        if stage not in self._lines:
            self._lines[stage] = self._line(stage)
        line = self._lines[stage]
        return None if line is None else (np.array([1.0, *signals[stage]]) @ line[0], line[1])

    def _line(self, stage: str) -> tuple[Array, Array] | None:
        known = [one for one in self._finished if stage in one.user_attrs.get(SIGNALS, {})]
        if len(known) < FEWEST:
            return None
        early = np.array([[1.0, *one.user_attrs[SIGNALS][stage]] for one in known])
        late = np.array([one.values for one in known])
        ridge = 1e-3 * np.diag([0.0, 1.0, 1.0])
        slopes = np.linalg.solve(early.T @ early + ridge, early.T @ late)
        return slopes, ((late - early @ slopes) ** 2).sum(axis=0) / max(len(known) - 3, 1)
