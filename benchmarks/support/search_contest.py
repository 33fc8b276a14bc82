"""Part `surrogate` of the search benchmark: many simulated searches of each sampler on problems of known truth."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from support.common import say, table
from support.search_kept import KeptRuns, Searches, sampler_and_prior
from support.search_simulation import Run

BAR, RIVAL = "random", "tpe"
BAR_TRIALS = 40
ROUND = 10  # searches of every contender on every problem, before more of any


def contest(
    problems: Sequence[str],
    contenders: Sequence[str],
    *,
    searches: int,
    trials: Sequence[int],
    workers: Sequence[int],
    kept: KeptRuns,
    processes: int,
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Run all contenders on all problems, and print a table per problem and number of workers.

    They run in rounds of ROUND searches each, and what is known is passed to `keep` after every round. Searches that
    are among the `kept` ones are not run again.
    """
    cells = [(problem, count) for problem in problems for count in workers]
    names = tuple(dict.fromkeys((BAR, *contenders)))
    rounds = [tuple(range(first, min(first + ROUND, searches))) for first in range(0, searches, ROUND)]
    results: dict[str, Any] = {}
    for number, seeds in enumerate(rounds):
        kept.fill(
            [Searches(problem, name, count, max(trials), seeds) for problem, count in cells for name in names],
            processes,
        )
        for problem, count in cells:
            runs = {
                name: [
                    run for known in rounds[: number + 1]
                    for run in kept.of(Searches(problem, name, count, max(trials), known))
                ]
                for name in names
            }  # fmt: skip
            results[f"{problem}, {count} workers"] = _summary(runs, trials)
        say(f"{seeds[-1] + 1} of {searches} searches of each contender")
        keep(results)
    for problem, count in cells:
        _print(problem, count, searches, trials, results[f"{problem}, {count} workers"], kept.images)
    return results


def _summary(runs: dict[str, list[Run]], trials: Sequence[int]) -> dict[str, Any]:
    """For each contender: true hypervolumes, tests against its rivals, trials to random's 40, what was seen."""
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
            "p": {rival: {at: rank_test([run.true[at - 1] for run in mine], [run.true[at - 1] for run in runs[rival]])
                          for at in trials}
                  for rival in _rivals(name) if rival in runs},
        }  # fmt: skip
    return found


def _rivals(name: str) -> list[str]:
    """What a contender is tested against: random, TPE, and for one with a prior the same sampler without it."""
    alone, _ = sampler_and_prior(name)
    return [rival for rival in dict.fromkeys((BAR, RIVAL, alone)) if rival != name]


def rank_test(values: Sequence[float], others: Sequence[float]) -> float:
    """p of the two-sided Mann-Whitney test. Where all values are equal, scipy's later versions say nothing; it is 1."""
    return 1.0 if len({*values, *others}) == 1 else float(mannwhitneyu(values, others).pvalue)


def _print(
    problem: str, workers: int, searches: int, trials: Sequence[int], summary: dict[str, Any], images: int
) -> None:
    contenders = {name: one for name, one in summary.items() if name not in {"bar", "bar_trials"}}
    tested = {rival for one in contenders.values() for rival in one["p"]}
    rivals = [name for name in dict.fromkeys((BAR, RIVAL, *contenders)) if name in tested]
    rows = []
    for name, one in contenders.items():
        at = summary["bar_trials"] if summary["bar_trials"] in trials else max(trials)
        tests = [f"{one['p'][rival][at]:.2g}" if rival in one["p"] else "" for rival in rivals]
        volumes = [f"{np.median(one['true'][count]):.0f}" for count in trials]
        rows.append([
            name, *volumes, f"{np.median(one['seen'][at]):.0f}", str(one["trials_to_bar"] or f"> {max(trials)}"),
            *tests, f"{100 * one['clean_end']:.1f}", f"{one['seconds_per_proposal']:.2f}",
        ])  # fmt: skip
    title = (
        f"{problem}, {workers} workers: median true hypervolume of the observed front, n = {searches} searches,"
        f" {images} images, bar {summary['bar']:.0f}"
    )
    columns = (
        "sampler", *(f"{count} trials" for count in trials), f"seen at {at}", "trials to bar",
        *(f"p, {rival}" for rival in rivals), "clean end, %", "s per proposal",
    )  # fmt: skip
    table(title, columns, rows)
