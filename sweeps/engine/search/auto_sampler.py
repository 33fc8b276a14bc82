"""The sampler `auto`: a Gaussian process that knows the noise of its observations, and the improvement of its front."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState
from scipy.stats import qmc

from bat_core.rng import named_seed
from search_spaces.base import Point, Space
from search_spaces.encoding import Encoding
from sweeps.engine.ray_backend.rungs import ranked
from sweeps.engine.search.gaussian import Array, Posterior, fit
from sweeps.engine.search.improvement import expected_excess, expected_hypervolume_gain
from sweeps.engine.search.observations import Observations, observe
from sweeps.engine.search.prior import PRIOR, Prior, fit_prior, fit_with_prior

STARTUP = 6  # observations before the process is used; until then, points of a Sobol sequence
HINTS = 3  # of the first proposals that are the best points of those searches
CROWD = 32  # with this many trials running, too little is known of each: points of the Sobol sequence
MOST = 150  # observations that the process is fitted to
ANYWHERE, NEAR = 400, 200  # candidates of each proposal: in the whole space, and close to the front
ROUNDS, PARENTS, CHILDREN = 3, 6, 20  # refinement of the best candidates
MOVE = 0.12  # standard deviation of a move, in [0, 1]; it halves with each round

Acquisition = Callable[[Array], Array]


class AutoSampler(BaseSampler):
    """Proposes the point with the largest expected gain of hypervolume over the posterior mean's front.

    It depends on the study alone: a reopened study proposes what an uninterrupted one would.
    """

    def __init__(self, space: Space, seed: int, distributions: dict[str, BaseDistribution]) -> None:
        self._encoding, self._seed, self._distributions = Encoding(space), seed, distributions
        self._random = RandomSampler(seed=seed)
        self._prior: tuple[int, Prior | None] = (0, None)  # of how many trials of other searches

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        return self._distributions

    def sample_relative(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        others = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        seen = observe(self._encoding, study.directions, others)
        running = [one.params for one in others if one.state == TrialState.RUNNING and one.params]
        rng = np.random.default_rng(named_seed(self._seed, "auto", trial.number))
        prior = self._prior_of(study)
        if len(seen.values) < STARTUP or len(running) >= CROWD:
            tried = [one.params for one in others]
            hints = [point for point in prior.best[:HINTS] if point not in tried] if prior else []
            point = hints[0] if hints and len(seen.values) < STARTUP else self._sobol(trial.number)
        else:
            point = propose(self._encoding, seen, running, rng, prior)
        return {name: value for name, value in point.items() if name in search_space}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, one: BaseDistribution) -> Any:
        return self._random.sample_independent(study, trial, name, one)

    def reseed_rng(self) -> None:
        """Do nothing: a proposal depends on the study alone."""

    def _prior_of(self, study: optuna.Study) -> Prior | None:
        """The prior that the study's trials of other searches give. They never change, but for more of them."""
        rows = [row for name, found in study.user_attrs.items() if name.startswith(PRIOR) for row in found]
        if len(rows) != self._prior[0]:
            self._prior = (len(rows), fit_prior(self._encoding, rows, ranked))
        return self._prior[1]

    def _sobol(self, number: int) -> Point:
        sequence = qmc.Sobol(len(self._encoding.choices), rng=named_seed(self._seed, "sobol"))
        if number:
            sequence.fast_forward(number)
        return self._encoding.point(sequence.random(1)[0])


def propose(
    encoding: Encoding,
    seen: Observations,
    running: Sequence[Point],
    rng: np.random.Generator,
    prior: Prior | None = None,
) -> Point:
    """The point that is expected to improve the front most, given what was seen and what is running."""
    seen = seen.thinned(MOST, rng)
    pending = np.array([encoding.vector(point) for point in running]).reshape(len(running), seen.x.shape[1])
    gain, front = _acquisition(seen, pending, prior)
    positions = np.concatenate([
        rng.random((ANYWHERE, len(encoding.choices))),
        _moved(encoding, [seen.points[at] for at in front], NEAR, MOVE, rng),
    ])  # fmt: skip
    values = gain(encoding.vectors(positions))
    for round_ in range(ROUNDS):
        best = np.argsort(-values, kind="stable")[:PARENTS]
        parents = [encoding.point(positions[at]) for at in best]
        near = _moved(encoding, parents, PARENTS * CHILDREN, MOVE / 2**round_, rng)
        positions = np.concatenate([positions[best], near])
        values = np.concatenate([values[best], gain(encoding.vectors(near))])
    return encoding.point(positions[int(values.argmax())])


def _acquisition(seen: Observations, pending: Array, prior: Prior | None) -> tuple[Acquisition, list[int]]:
    """The expected gain times the probability of being feasible, and which observations are the mean's front."""
    processes = [
        fit_with_prior(seen.x, seen.values[:, at], seen.noise[:, at], prior.processes[at] if prior else None)
        for at in range(seen.values.shape[1])
    ]
    rules = [fit(seen.ended_x, values, np.zeros(len(values))) for values in seen.broken.T if values.max() > 0]
    means = np.column_stack([process.predict(seen.x)[0] for process in processes])
    expected = means
    if len(pending):
        believed = np.column_stack([process.predict(pending)[0] for process in processes])
        processes = [process.believing(pending) for process in processes]
        expected = np.concatenate([means, believed])
    reference = seen.reference

    def gain(x: Array) -> Array:
        known = [process.predict(x) for process in processes]
        if len(known) == 1:
            value = expected_excess(*known[0], float(expected.max()))
        else:
            value = expected_hypervolume_gain(
                (known[0][0], known[1][0]), (known[0][1], known[1][1]), expected, reference
            )
        for rule in rules:
            value = value * _probability_below_zero(rule, x)
        return value

    return gain, _front(means)


def _probability_below_zero(rule: Posterior, x: Array) -> Array:
    from scipy.special import ndtr

    mean, deviation = rule.predict(x)
    return ndtr(-mean / deviation)


def _front(values: Array) -> list[int]:
    """The rows that no other row beats or equals in every column."""
    kept: list[int] = []
    for at in np.lexsort(-values.T[::-1]):
        if all((values[at] > values[other]).any() for other in kept):
            kept.append(int(at))
    return kept


def _moved(encoding: Encoding, parents: Sequence[Point], count: int, size: float, rng: np.random.Generator) -> Array:
    """`count` positions close to the parents: numbers move by a normal step, and some choices are drawn anew."""
    origin = np.array([encoding.positions(parent) for parent in parents])
    origin = origin[np.arange(count) % len(origin)]
    numbers = ~np.array(encoding.choices)
    moves = rng.random(origin.shape) < np.where(numbers, 0.6, 0.15)
    steps = np.where(numbers, origin + size * rng.standard_normal(origin.shape), rng.random(origin.shape))
    return np.clip(np.where(moves, steps, origin), 0.0, 1.0)
