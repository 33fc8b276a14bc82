"""One simulated search of a sampler on a problem of known truth."""

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from bat_core.errors import InputError
from bat_core.rng import named_seed
from search_spaces.base import Point
from search_spaces.encoding import Encoding
from support.search_truths import Array, Problem
from sweeps.engine.search.objectives import share_variance
from sweeps.engine.search.observations import NOISE
from sweeps.engine.search.prior import PRIOR
from sweeps.engine.search.results import hypervolume
from sweeps.engine.search.samplers import SEEDS, draw, free, named_sampler
from sweeps.engine.search.spec import SAMPLERS

EARLIER = 40  # trials of the search that a prior comes from
Row = dict[str, Any]
FEASIBLE = {"masked": -1.0, "one class": -1.0}


@dataclass(frozen=True)
class Run:
    """One simulated search: after each trial, the true and the seen hypervolume of the observed front.

    `clean_end` is the true clean accuracy of the front's cleanest trial at the end. `seconds` are those of all
    proposals.
    """

    true: tuple[float, ...]
    seen: tuple[float, ...]
    clean_end: float
    seconds: float


def simulate(
    problem: Problem, contender: str, *, seed: int, trials: int, workers: int, prior: Sequence[Row] = ()
) -> Run:
    """Search a problem with `workers` trials at a time, whose durations differ with their attack steps."""
    rng = np.random.default_rng(named_seed(seed, "contest", problem.name))
    study = optuna.create_study(directions=["maximize"] * 2, sampler=_sampler(contender, problem, seed))
    if prior:
        study.set_user_attr(f"{PRIOR}earlier", list(prior))
    study.enqueue_trial(free(problem.space, problem.space.default_point()))
    running: list[tuple[float, int, optuna.Trial, Point]] = []
    seen, true, clock, spent, begun = [], [], 0.0, 0.0, 0
    while len(seen) < trials:
        while begun < trials and len(running) < workers:
            began = time.process_time()
            trial = study.ask()
            point = draw(trial, problem.space)
            spent += time.process_time() - began
            hours = (2 + float(point["num_steps"])) * rng.uniform(0.9, 1.1)
            heapq.heappush(running, (clock + hours, begun, trial, point))
            begun += 1
        clock, _, trial, point = heapq.heappop(running)
        truth = problem.truth([point])[0]
        shown = problem.measure(truth, rng)
        trial.set_user_attr(NOISE, [share_variance(float(share), problem.images) for share in shown])
        for name, value in FEASIBLE.items():
            trial.set_constraint(name, value)
        study.tell(trial, [float(share) for share in shown])
        seen.append(shown)
        true.append(truth)
    front = _front(seen)
    return Run(
        true=tuple(_true_volume(seen[: k + 1], true[: k + 1]) for k in range(trials)),
        seen=tuple(1e4 * hypervolume(map(tuple, seen[: k + 1])) for k in range(trials)),
        clean_end=float(max(true[at][0] for at in front)),
        seconds=spent,
    )


def earlier_search(problem: Problem, seed: int) -> list[Row]:
    """What a search of EARLIER random trials on a problem leaves as a prior."""
    rng = np.random.default_rng(named_seed(seed, "earlier", problem.name))
    encoding = Encoding(problem.space)
    points = [encoding.point(row) for row in rng.random((EARLIER, len(encoding.choices)))]
    shown = [problem.measure(truth, rng) for truth in problem.truth(points)]
    return [
        {"point": point, "values": values.tolist(),
         "noise": [share_variance(float(share), problem.images) for share in values]}
        for point, values in zip(points, shown, strict=True)
    ]  # fmt: skip


def _sampler(contender: str, problem: Problem, seed: int) -> BaseSampler:
    if contender not in SAMPLERS:
        raise InputError(f"unknown contender {contender!r}; known: {', '.join(SAMPLERS)}")
    draws = named_seed(seed, "sampler", 0, 0) % SEEDS
    return named_sampler(contender, problem.space, objectives=2, seed=seed, draws=draws)


def _front(seen: Sequence[Array]) -> list[int]:
    """Which trials are on the observed front."""
    kept: list[int] = []
    for at in sorted(range(len(seen)), key=lambda one: (-seen[one][1], -seen[one][0])):
        if not kept or seen[at][0] > seen[kept[-1]][0]:
            kept.append(at)
    return kept


def _true_volume(seen: Sequence[Array], true: Sequence[Array]) -> float:
    """10,000 times the hypervolume of the true values of the trials on the observed front."""
    return 1e4 * hypervolume((float(true[at][0]), float(true[at][1])) for at in _front(seen))
