"""What the trials of a front are worth by the model of all trials: the seen values are the lucky ones among many."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces.base import Space
from search_spaces.encoding import Encoding
from sweeps.engine.search.gaussian import Array, fit
from sweeps.engine.search.objectives import share_variance
from sweeps.engine.search.results import Score, front, hypervolume

FEWEST = 10  # trials from which a model is fitted
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
    """The seen front by the model, its hypervolume in [0, 1], and the ids of the trials on the model's own front."""

    seen: tuple[Expected, ...]
    better: tuple[Expected, ...]
    volume: float
    volume_interval: Interval


def expected_front(space: Space, finished: Sequence[Score]) -> ExpectedFront | None:
    """What the model expects of the seen front, and of the other trials that it would put on one.

    None with fewer than FEWEST trials that count. The model is the Gaussian process of the sampler `auto`, whatever
    sampler proposed the trials.
    """
    known = [one for one in finished if one.counts]
    if len(known) < FEWEST:
        return None
    encoding = Encoding(space)
    if encoding.width == 0:
        return None
    x = np.array([encoding.vector(one.point) for one in known])
    clean = [(one.clean_acc, share_variance(one.clean_acc, one.n)) for one in known]
    robust = [(one.robust_acc, share_variance(one.robust_acc, one.robust_n)) for one in known]
    draws = np.stack([_draws(x, np.array(seen), seed) for seed, seen in enumerate((clean, robust))])
    rows = dict(zip((one.id for one in known), (_row(one, draws[:, at]) for at, one in enumerate(known)), strict=True))
    seen = [one.id for one in front(known)]
    better = _front_ids(list(rows.values()))
    chosen = [at for at, one in enumerate(known) if one.id in seen]
    volumes = [hypervolume(map(tuple, draws[:, chosen, sample].T)) for sample in range(DRAWS)]
    return ExpectedFront(
        seen=tuple(rows[name] for name in seen),
        better=tuple(rows[name] for name in better if name not in seen),
        volume=hypervolume((rows[name].clean_acc, rows[name].robust_acc) for name in seen),
        volume_interval=_interval(np.array(volumes)),
    )


def _draws(x: Array, seen: Array, seed: int) -> Array:
    """(N, DRAWS) joint draws of shares in the mean over seeds, from (N, 2) seen shares and their variances."""
    return np.clip(fit(x, *seen.T).draws(x, DRAWS, np.random.default_rng(seed)), 0.0, 1.0)


def _row(one: Score, draws: Array) -> Expected:
    return Expected(
        trial=one,
        clean_acc=float(draws[0].mean()),
        clean_interval=_interval(draws[0]),
        robust_acc=float(draws[1].mean()),
        robust_interval=_interval(draws[1]),
    )


def _interval(draws: Array) -> Interval:
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def _front_ids(rows: Sequence[Expected]) -> list[str]:
    kept: list[Expected] = []
    for one in sorted(rows, key=lambda row: (-row.robust_acc, -row.clean_acc)):
        if not kept or one.clean_acc > kept[-1].clean_acc:
            kept.append(one)
    return [one.trial.id for one in kept]
