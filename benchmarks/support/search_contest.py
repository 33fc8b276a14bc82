"""Part `surrogate` of the search benchmark: many simulated searches of each sampler on problems of known truth."""

import heapq
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from scipy.stats import mannwhitneyu

from bat_core.errors import InputError
from bat_core.rng import named_seed
from search_spaces.base import Point
from search_spaces.encoding import Encoding
from support.common import say, table
from support.search_truths import Array, Problem
from sweeps.engine.search.objectives import share_variance
from sweeps.engine.search.observations import NOISE
from sweeps.engine.search.prior import PRIOR
from sweeps.engine.search.results import hypervolume
from sweeps.engine.search.samplers import SEEDS, draw, free, named_sampler
from sweeps.engine.search.spec import SAMPLERS

BAR, RIVAL = "random", "tpe"
BAR_TRIALS = 40
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


def contest(
    problems: Sequence[Problem],
    contenders: Sequence[str],
    *,
    searches: int,
    trials: Sequence[int],
    workers: Sequence[int],
    kept: "KeptRuns",
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Run all contenders on all problems, print a table per problem and number of workers, and `keep` each result.

    Searches that are among the `kept` ones are not run again.
    """
    results: dict[str, Any] = {}
    for problem in problems:
        for count in workers:
            runs: dict[str, list[Run]] = {}
            for contender in dict.fromkeys((BAR, *contenders)):
                runs[contender] = [
                    kept.run(problem, contender, seed=seed, trials=max(trials), workers=count)
                    for seed in range(searches)
                ]
                say(f"{problem.name}, {count} workers, {contender}: {searches} searches")
                results[f"{problem.name}, {count} workers"] = summary = _summary(runs, trials)
                keep(results)
            _print(problem, count, searches, trials, summary)
    return results


class KeptRuns:
    """The simulated searches so far, one JSON line each, so that an interrupted contest goes on where it was.

    Remove the file after a change of a sampler or of a problem.
    """

    def __init__(self, path: Path, about: str, earlier: Callable[[str], Problem]) -> None:
        """`about` tells apart what the problems were fitted to; `earlier` makes the problem that a prior comes from."""
        self._path, self._about, self._earlier = path, about, earlier
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self._known = dict(json.loads(line) for line in lines)

    def run(self, problem: Problem, contender: str, *, seed: int, trials: int, workers: int) -> Run:
        """A simulated search, from the file if it is there. `auto+NAME` has a prior from a search on problem NAME."""
        name = f"{self._about}, {problem.name}, {problem.images} images, {contender}, {workers}, {trials}, seed {seed}"
        if name not in self._known:
            sampler, _, other = contender.partition("+")
            prior = earlier_search(self._earlier(other), seed) if other else []
            run = simulate(problem, sampler, seed=seed, trials=trials, workers=workers, prior=prior)
            self._known[name] = asdict(run)
            with self._path.open("a") as file:
                print(json.dumps([name, self._known[name]]), file=file)
        return Run(**self._known[name])


def _summary(runs: dict[str, list[Run]], trials: Sequence[int]) -> dict[str, Any]:
    """For each contender: true hypervolumes, tests against random and TPE, trials to random's 40, what was seen."""
    bar_at = min(BAR_TRIALS, max(trials))
    bar = float(np.median([run.true[bar_at - 1] for run in runs[BAR]]))
    found: dict[str, Any] = {"bar": bar, "bar_trials": bar_at}
    for name, mine in runs.items():
        medians = np.median([run.true for run in mine], axis=0)
        reached = np.flatnonzero(medians >= bar)
        found[name] = {
            "true": {at: [run.true[at - 1] for run in mine] for at in trials},
            "seen": {at: [run.seen[at - 1] for run in mine] for at in trials},
            "trials_to_bar": int(reached[0]) + 1 if len(reached) else None,
            "clean_end": float(np.median([run.clean_end for run in mine])),
            "seconds_per_proposal": float(np.mean([run.seconds for run in mine])) / max(trials),
            "p": {rival: {at: _p(mine, runs[rival], at) for at in trials}
                  for rival in (BAR, RIVAL) if rival in runs and rival != name},
        }  # fmt: skip
    return found


def _p(mine: Sequence[Run], rival: Sequence[Run], at: int) -> float:
    """p of the two-sided Mann-Whitney test of the true hypervolumes after `at` trials."""
    return float(mannwhitneyu([run.true[at - 1] for run in mine], [run.true[at - 1] for run in rival]).pvalue)


def _print(problem: Problem, workers: int, searches: int, trials: Sequence[int], summary: dict[str, Any]) -> None:
    rows = []
    for name, one in summary.items():
        if name in {"bar", "bar_trials"}:
            continue
        at = summary["bar_trials"] if summary["bar_trials"] in trials else max(trials)
        tests = [f"{one['p'][rival][at]:.2g}" if rival in one["p"] else "" for rival in (BAR, RIVAL)]
        volumes = [f"{np.median(one['true'][count]):.0f}" for count in trials]
        rows.append([
            name, *volumes, f"{np.median(one['seen'][at]):.0f}", str(one["trials_to_bar"] or f"> {max(trials)}"),
            *tests, f"{100 * one['clean_end']:.1f}", f"{one['seconds_per_proposal']:.2f}",
        ])  # fmt: skip
    title = (
        f"{problem.name}, {workers} workers: median true hypervolume of the observed front, n = {searches} searches,"
        f" {problem.images} images, bar {summary['bar']:.0f}"
    )
    columns = (
        "sampler", *(f"{count} trials" for count in trials), f"seen at {at}", "trials to bar", f"p, {BAR}",
        f"p, {RIVAL}", "clean end, %", "s per proposal",
    )  # fmt: skip
    table(title, columns, rows)
