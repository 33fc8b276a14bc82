"""What the trials of a front are worth by the model of all trials: the seen values are the lucky ones among many."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bat_core.stats import Z95
from search_spaces.base import Space
from search_spaces.encoding import Encoding
from sweeps.engine.search.gaussian import Array, Posterior, fit
from sweeps.engine.search.objectives import share_variance
from sweeps.engine.search.results import Score, front, hypervolume

FEWEST = 10  # trials from which a model is fitted
MOST = 300  # trials that it is fitted to: those of the front, and others at random
DRAWS = 1000

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A trial's clean and robust accuracy in the mean over training seeds, with 95 % intervals, by the model."""

    trial: Score
    clean_acc: float
    clean_interval: Interval
    robust_acc: float
    robust_interval: Interval


@dataclass(frozen=True, kw_only=True)
class ExpectedFront:
    """The seen front by the model, the other trials on the model's own front, and the seen front's hypervolume.

    `rows` are all trials that count. The hypervolume is that of the means, in [0, 1].
    """

    rows: tuple[Expected, ...]
    seen: tuple[Expected, ...]
    better: tuple[Expected, ...]
    volume: float
    volume_interval: Interval

    def front_of(self, allowed: Sequence[Score]) -> list[Score]:
        """The front of the means of some trials, by increasing robust accuracy, with those means."""
        rows = {row.trial.id: row for row in self.rows}
        known = [rows[one.id] for one in allowed if one.id in rows]
        return front([replace(row.trial, clean_acc=row.clean_acc, robust_acc=row.robust_acc) for row in known])


def expected_front(space: Space, finished: Sequence[Score]) -> ExpectedFront | None:
    """What the model expects of the seen front, and of the other trials that it would put on one.

    None with fewer than FEWEST trials that count. The model is the Gaussian process of the sampler `auto`, whatever
    sampler proposed the trials.
    """
    known = [one for one in finished if one.counts]
    encoding = Encoding(space)
    if len(known) < FEWEST or encoding.width == 0:
        return None
    x = np.array([encoding.vector(one.point) for one in known])
    seen_ids = [one.id for one in front(known)]
    on_front = np.array([at for at, one in enumerate(known) if one.id in seen_ids])
    others = np.random.default_rng(0).permutation(np.setdiff1d(np.arange(len(known)), on_front))
    chosen = np.sort(np.concatenate([on_front, others])[:MOST])
    clean = np.array([(one.clean_acc, share_variance(one.clean_acc, one.n)) for one in known])
    robust = np.array([(one.robust_acc, share_variance(one.robust_acc, one.robust_n)) for one in known])
    models = [fit(x[chosen], *shown[chosen].T) for shown in (clean, robust)]
    shown = [_means(model, x) for model in models]
    rows = {one.id: _row(one, *(part[at] for part in shown)) for at, one in enumerate(known)}
    draws = np.stack([_draws(model, x[on_front], seed) for seed, model in enumerate(models)])
    volumes = [hypervolume(map(tuple, draws[:, :, sample].T)) for sample in range(DRAWS)]
    found = ExpectedFront(
        rows=tuple(rows.values()),
        seen=tuple(rows[name] for name in seen_ids),
        better=(),
        volume=hypervolume((rows[name].clean_acc, rows[name].robust_acc) for name in seen_ids),
        volume_interval=_interval(np.array(volumes)),
    )
    better = [one.id for one in found.front_of(known) if one.id not in seen_ids]
    return replace(found, better=tuple(rows[name] for name in better[::-1]))


def _means(model: Posterior, x: Array) -> Array:
    """(N, 3) shares in the mean over seeds: mean, and the ends of a 95 % interval."""
    mean, deviation = model.predict(x)
    return np.clip(np.column_stack([mean, mean - Z95 * deviation, mean + Z95 * deviation]), 0.0, 1.0)


def _draws(model: Posterior, x: Array, seed: int) -> Array:
    """(N, DRAWS) joint draws of shares in the mean over seeds."""
    return np.clip(model.draws(x, DRAWS, np.random.default_rng(seed)), 0.0, 1.0)


def _row(one: Score, clean: Array, robust: Array) -> Expected:
    return Expected(
        trial=one,
        clean_acc=float(clean[0]),
        clean_interval=(float(clean[1]), float(clean[2])),
        robust_acc=float(robust[0]),
        robust_interval=(float(robust[1]), float(robust[2])),
    )


def _interval(draws: Array) -> Interval:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
