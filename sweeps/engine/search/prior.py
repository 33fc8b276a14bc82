"""What other searches say of a space before this one has trials: a prior mean, used while it explains what is seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from search_spaces.base import Point
from search_spaces.encoding import Encoding
from sweeps.engine.search.gaussian import Array, Posterior, fit

PRIOR = "prior: "  # prefix of the study's attributes that hold trials of other searches
MOST = 100  # trials of other searches that a prior is fitted to
FEWEST = 10
PARAMETERS = 2  # of a prior: a shift and a slope, each of which must earn its place


@dataclass(frozen=True, kw_only=True)
class Prior:
    """A process per objective, fitted to trials of other searches, and their best points, best first."""

    processes: tuple[Posterior, ...]
    best: tuple[Point, ...]


def fit_prior(encoding: Encoding, rows: Sequence[dict[str, Any]], order: Callable[..., list[int]]) -> Prior | None:
    """A prior from rows of `point`, `values` and `noise`; None from too few. `order` ranks pairs of values."""
    if len(rows) < FEWEST:
        return None
    ranks = order([tuple(row["values"]) for row in rows])
    chosen = [rows[at] for at in ranks[:MOST]]
    x = np.array([encoding.vector(row["point"]) for row in chosen])
    values, noise = (np.array([row[name] for row in chosen]) for name in ("values", "noise"))
    processes = tuple(fit(x, values[:, at], noise[:, at]) for at in range(values.shape[1]))
    return Prior(processes=processes, best=tuple(row["point"] for row in chosen))


@dataclass(frozen=True)
class Shifted:
    """A process plus a multiple of a prior's mean."""

    rest: Posterior
    prior: Posterior
    slope: float

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation at (N, D) points. See `Posterior.predict`."""
        mean, deviation = self.rest.predict(x)
        return mean + self.slope * self.prior.predict(x)[0], deviation

    def believing(self, x: Array) -> "Shifted":
        """See `Posterior.believing`."""
        return replace(self, rest=self.rest.believing(x))


def fit_with_prior(x: Array, y: Array, noise: Array, prior: Posterior | None) -> Posterior | Shifted:
    """The process of what is seen, or that of its difference from the prior's mean, whichever explains it better.

    The prior's shift and slope are fitted by least squares; a slope below 0 says that the other search is no guide.
    The two are compared by the posterior density of their hyperparameters, less half a logarithm of N per parameter
    of the prior.

    Source: Schwarz 1978 (the penalty).
    """
    plain = fit(x, y, noise)
    if prior is None:
        return plain
    mean = prior.predict(x)[0]
    slope = float(np.cov(mean, y)[0, 1] / max(mean.var(ddof=1), 1e-12))
    if slope <= 0:
        return plain
    rest = fit(x, y - slope * mean, noise)
    gain = plain.cost - rest.cost - PARAMETERS * 0.5 * np.log(len(y))
    return Shifted(rest, prior, slope) if gain > 0 else plain
