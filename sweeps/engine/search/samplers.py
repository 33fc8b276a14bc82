"""The samplers of a search, and how a point is drawn from one."""

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler

from bat_core.rng import named_seed
from search_spaces.base import Parameter, Point, Space
from sweeps.engine.search.auto_sampler import AutoSampler
from sweeps.engine.search.objectives import get_objective
from sweeps.engine.search.spec import Search

STARTUP = 10  # random points before the sampler uses results
SEEDS = 2**32


def make_sampler(search: Search, there: int, recorded: int) -> BaseSampler:
    """The sampler, seeded by the number of trials, so that a reopened study draws other points."""
    return named_sampler(
        search.sampler,
        search.space,
        objectives=len(get_objective(search.objective).measures),
        seed=search.seed,
        draws=named_seed(search.seed, "sampler", there, recorded) % SEEDS,
    )


def named_sampler(name: str, space: Space, *, objectives: int, seed: int, draws: int) -> BaseSampler:
    """The sampler called `name`, one of SAMPLERS.

    `auto` proposes by `seed` and the study alone; the others draw from `draws`. With more than two objectives, `auto`
    is Optuna's Gaussian process.
    """
    if name == "auto" and objectives <= 2:
        free_ones = {one.name: _distribution(one) for one in space.parameters if one.fixed_value() is None}
        return AutoSampler(space, seed, free_ones)
    if name == "random":
        return RandomSampler(seed=draws)
    if name in {"gp", "auto"}:
        return GPSampler(seed=draws, n_startup_trials=STARTUP, warn_independent_sampling=False)
    return TPESampler(seed=draws, n_startup_trials=STARTUP, multivariate=True, group=True)


def draw(proposal: optuna.Trial, space: Space) -> Point:
    """Draw a point. Fixed parameters are not suggested by Optuna."""
    point: Point = {}
    for parameter in space.parameters:
        if parameter.applies(point):
            point[parameter.name] = _suggested(proposal, parameter)
    return point


def _suggested(proposal: optuna.Trial, parameter: Parameter) -> float | int | str | bool:
    name = parameter.name
    if (only := parameter.fixed_value()) is not None:
        return only
    if parameter.kind == "choice":
        chosen = proposal.suggest_categorical(name, parameter.options)
        assert chosen is not None
        return chosen
    if parameter.kind == "integer":
        return proposal.suggest_int(name, round(parameter.low), round(parameter.high), log=parameter.log)
    return proposal.suggest_float(name, parameter.low, parameter.high, log=parameter.log)


def free(space: Space, point: Point) -> Point:
    """The values of the free parameters. The study contains only these."""
    return {name: value for name, value in point.items() if space[name].fixed_value() is None}


def distributions(space: Space, point: Point) -> dict[str, BaseDistribution]:
    """Optuna's distributions of the free parameters of a point."""
    return {name: _distribution(space[name]) for name in free(space, point)}


def _distribution(parameter: Parameter) -> BaseDistribution:
    if parameter.kind == "choice":
        return CategoricalDistribution(parameter.options)
    if parameter.kind == "integer":
        return IntDistribution(round(parameter.low), round(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)
