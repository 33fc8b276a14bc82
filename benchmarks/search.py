"""Is the search worth its compute, and are its results real?

python benchmarks/search.py                                                     # digits
python benchmarks/search.py --dataset cifar10 --data-dir DIR --train-size 4000 --model small_cnn_16

Each search runs as a bare loop in its own process. All trials have the same number of epochs. Hypervolumes are of
(clean, verified robust) accuracy above (0, 0), on validation images, times 100 x 100. A second run reuses finished
results.

a  samplers compared with random search: hypervolume after all trials and after half of them. With auto+NAME, a sampler
   that starts from another search is also compared with itself.
b  successive halving compared with full trials: what it loses and what it saves
c  the same search with objective PGD-20 and with the verified suite: both fronts under AutoAttack's standard suite
d  the overhead of the platform: the same trials on Ray Tune and as a bare loop
surrogate  samplers on problems of known truth: fitted to the recorded trials in --trials (two families) and an analytic
   one, each seen with the noise of training seeds and of a sample of images. It trains nothing. The trials are JSON
   lines, or searches over the space `bat` with full trials, such as those in the --cache of part a. Every simulated
   search is kept in --cache (surrogate.jsonl): stopped, it goes on where it was, and it may run several times at once.
replay  successive halving and the bound before verification, as the search has them, on those recorded trials, each
   time in another order and with another part of them; hypervolumes are those of the recorded numbers
"""

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from scipy.stats import bootstrap
from support.common import command, machine, say, table, write_report, yes_or_no
from support.search_contest import BAR, contest, rank_test
from support.search_kept import KeptRuns, sampler_and_prior
from support.search_masks import compare_fronts
from support.search_overhead import overhead
from support.search_replay import replay
from support.search_truths import Problems, Recorded, recorded_trials
from support.searches import Kind, Outcome, Setting, run

from bat_core.errors import InputError

TPE = Kind(name="tpe")
PGD = Kind(name="pgd", objective="clean+pgd")
Differences = dict[int, dict[str, float]]  # by number of trials
SAME_TRIALS = ("dataset", "model", "epochs", "train_size", "val_size", "num_trials")
WITHIN_POINTS, SHARE_OF_COMPUTE = 1.0, 0.4  # targets of part b


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """Which images, which trials, how many searches."""

    parts: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("a", "b", "c", "d")
    """What to measure: a (samplers), b (halving), c (PGD as the objective), d (overhead), surrogate (samplers on
    problems of known truth), replay (halving of recorded trials)."""
    dataset: str = "digits"
    """Images: digits (embedded), cifar10, svhn."""
    data_dir: Path | None = None
    """Folder with the images."""
    model: str = "small_cnn_16"
    """The network of every trial."""
    epochs: int = 10
    """Passes over the training images."""
    train_size: int = 700
    """Number of training images."""
    val_size: int = 200
    """Number of validation images, held out of train."""
    num_trials: int = 40
    """Trials of each search."""
    seeds: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0, 1, 2, 3, 4)
    """Searches of each kind."""
    grace: int | None = None
    """Epochs before part b's halving may stop a trial. Default: that of the search."""
    standard_n: int = 200
    """Test images for AutoAttack in part c."""
    standard_seeds: int = 2
    """Number of searches whose fronts part c evaluates."""
    long_epochs: int = 200
    """Epochs of part d's long trials, enough for 30 seconds each."""
    processes: int = 2
    """Concurrent searches, one thread each."""
    cache: Path = Path("outputs/benchmarks/search")
    """Folder of the searches."""
    trials: Path | None = None
    """Part surrogate: folder of recorded trials."""
    problems: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("gp", "forest", "analytic")
    """Part surrogate: the problems, gp, forest, analytic and budget (gp at a smaller evaluation budget)."""
    contenders: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("random", "tpe", "auto")
    """Parts a and surrogate: the samplers to compare with random. auto+NAME starts from another search: of problem NAME
    in part surrogate; in part a from a finished one in --cache, as in auto+digits-random."""
    searches: int = 50
    """Part surrogate: searches of each contender."""
    counts: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (10, 20, 40, 80)
    """Part surrogate: numbers of trials after which searches are compared."""
    workers: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1, 8, 64)
    """Part surrogate: numbers of concurrent trials."""
    earlier: Path | None = None
    """Part a: an --output of the same trials with other seeds, whose searches are added."""
    output: Path | None = None
    """JSON file for all measurements."""
    figure: Path | None = None
    """PNG file for the figure of part c."""


def main(options: Options = Options()) -> dict[str, Any]:
    """Measure the search. The top of the file describes the parts."""
    if unknown := set(options.parts) - {*"abcd", "surrogate", "replay"}:
        raise InputError(f"unknown --parts {sorted(unknown)[0]!r}: give one or more of a, b, c, d, surrogate, replay")
    setting = Setting(
        dataset=options.dataset,
        data_dir=options.data_dir,
        model=options.model,
        epochs=options.epochs,
        train_size=options.train_size,
        val_size=options.val_size,
        cache=options.cache,
    )
    report: dict[str, Any] = {"machine": machine("cpu"), "options": asdict(options), "parts": {}}
    halved = Kind(
        name="halving" if options.grace is None else f"halving{options.grace}", halving=True, grace=options.grace
    )
    by_sampler = tuple(map(_kind, dict.fromkeys((BAR, *options.contenders))))
    kinds = {"a": by_sampler, "b": (TPE, halved), "c": (TPE, PGD)}
    wanted = dict.fromkeys(kind for part in options.parts for kind in kinds.get(part, ()))
    outcomes = _searches(options, setting, tuple(wanted))
    for part in options.parts:
        say(f"part {part}")
        if part == "a":
            report["parts"][part] = samplers({kind.name: outcomes[kind] for kind in by_sampler}, options)
        elif part == "surrogate":
            report["parts"][part] = surrogate(options, report)
        elif part == "replay":
            report["parts"][part] = replay(_recorded(options), num_trials=options.num_trials, searches=options.searches)
        elif part == "b":
            report["parts"][part] = halving(outcomes[TPE], outcomes[halved])
        elif part == "c":
            report["parts"][part] = compare_fronts(
                {"verified": outcomes[TPE], "PGD-20": outcomes[PGD]},
                setting,
                n=options.standard_n,
                searches=options.standard_seeds,
                figure=options.figure,
            )
        else:
            report["parts"][part] = overhead(setting, long_epochs=options.long_epochs, processes=options.processes)
        write_report(options.output, report)
    return report


def _kind(contender: str) -> Kind:
    sampler, prior = sampler_and_prior(contender)
    return Kind(name=contender, sampler=sampler, prior=prior or None)


def _searches(options: Options, setting: Setting, kinds: Sequence[Kind]) -> dict[Kind, list[Outcome]]:
    """Run every kind of search with every seed, several at once; PGD searches only with the seeds of part c."""
    outcomes: dict[Kind, list[Outcome]] = {kind: [] for kind in kinds}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.processes, mp_context=context) as pool:
        jobs = [
            (kind, pool.submit(run, setting, kind, seed, options.num_trials))
            for seed in options.seeds
            for kind in kinds
            if kind != PGD or seed in options.seeds[: options.standard_seeds]
        ]
        for kind, job in jobs:
            outcome = job.result()
            outcomes[kind].append(outcome)
            say(
                f"{kind.name}, seed {outcome.seed}: {len(outcome.finished)} of {outcome.proposed} trials finished,"
                f" hypervolume {100 * 100 * outcome.volume(options.num_trials):.0f}, {outcome.seconds:.0f} s"
            )
    return outcomes


def _recorded(options: Options) -> list[Recorded]:
    if options.trials is None:
        raise InputError("the parts surrogate and replay need recorded trials: give --trials")
    return recorded_trials(options.trials)


def surrogate(options: Options, report: dict[str, Any]) -> dict[str, Any]:
    """Part surrogate: simulated searches. The report is written after every round of searches."""
    for name, given in (("counts", options.counts), ("workers", options.workers), ("searches", (options.searches,))):
        if not given or min(given) < 1:
            raise InputError(f"--{name} must be at least 1")
    priors = [prior for _, prior in map(sampler_and_prior, options.contenders) if prior]
    named = [*options.problems, *priors]
    trials = () if set(named) == {"analytic"} else tuple(_recorded(options))
    problems = Problems(trials, options.val_size)
    for name in named:
        problems.named(name)  # unknown names are refused before anything runs

    def keep(results: dict[str, Any]) -> None:
        write_report(options.output, {**report, "parts": {**report["parts"], "surrogate": results}})

    return contest(
        options.problems,
        options.contenders,
        searches=options.searches,
        trials=options.counts,
        workers=options.workers,
        kept=KeptRuns(options.cache, problems),
        processes=options.processes,
        keep=keep,
    )


def samplers(outcomes: dict[str, list[Outcome]], options: Options) -> dict[str, Any]:
    """Part a: hypervolumes of the samplers, and their differences from random search with as many trials.

    A difference is one of medians, with its 95 % bootstrap interval; p is that of a two-sided Mann-Whitney test.
    """
    counts = (options.num_trials // 2, options.num_trials)
    volumes = {
        name: {after: [1e4 * outcome.volume(after) for outcome in each] for after in counts}
        for name, each in outcomes.items()
    }
    seeds = list(options.seeds)
    if options.earlier is not None:
        seeds = [*_add(volumes, options.earlier, options), *seeds]
    bar = median(volumes[BAR][options.num_trials])
    differences = _above(volumes, {name: BAR for name in volumes if name != BAR})
    pairs = ((name, sampler_and_prior(name)[0]) for name in volumes)
    alone = {name: sampler for name, sampler in pairs if sampler != name and sampler in volumes}
    without_prior = _above(volumes, alone)
    rows = []
    for name, by_count in volumes.items():
        for after, values in by_count.items():
            row = [f"{name}, {after} trials", f"{median(values):.0f}", f"{min(values):.0f} to {max(values):.0f}"]
            row += _in_words(differences[name][after]) if name in differences else ["", ""]
            rows.append([*row, yes_or_no(median(values) >= bar)])
    title = f"a: hypervolume, {len(seeds)} searches each, n = {options.val_size} validation images"
    columns = ("search", "median", "least to most", "above random", "p", f"reaches random's {bar:.0f}")
    table(title, columns, rows)
    for name, by_after in without_prior.items():
        for after, one in by_after.items():
            said, p = _in_words(one)
            say(f"{name} above {alone[name]}, {after} trials: {said}, p {p}")
    return {
        "seeds": seeds, "hypervolume": volumes, "bar": bar, "above_random": differences, "above_alone": without_prior
    }  # fmt: skip


def _above(volumes: dict[str, dict[int, list[float]]], rivals: dict[str, str]) -> dict[str, Differences]:
    """The differences of samplers from their rivals, by number of trials."""
    return {
        name: {after: _difference(values, volumes[rival][after]) for after, values in volumes[name].items()}
        for name, rival in rivals.items()
    }


def _in_words(one: dict[str, float]) -> list[str]:
    return [f"{one['difference']:+.0f} ({one['low']:+.0f} to {one['high']:+.0f})", f"{one['p']:.2g}"]


def _add(volumes: dict[str, dict[int, list[float]]], path: Path, options: Options) -> list[int]:
    """Put an earlier report's hypervolumes before those of this run. Returns the earlier seeds."""
    report = json.loads(path.read_text())
    seeds: list[int] = report["parts"]["a"].get("seeds", report["options"]["seeds"])
    differs = [name for name in SAME_TRIALS if report["options"][name] != getattr(options, name)]
    if differs or set(seeds) & set(options.seeds):
        what = f"other {', '.join(differs)}" if differs else "the same seeds"
        raise InputError(f"--earlier {str(path)!r} must differ in its seeds, and in nothing else: it has {what}")
    for name, by_count in volumes.items():
        for after in by_count:
            by_count[after] = [*report["parts"]["a"]["hypervolume"][name][str(after)], *by_count[after]]
    return seeds


def _difference(values: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    if len(values) < 2:
        return dict.fromkeys(("difference", "low", "high", "p"), float("nan"))
    found = bootstrap(
        (values, others), lambda a, b, axis: np.median(a, axis=axis) - np.median(b, axis=axis),
        method="percentile", rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    difference = median(values) - median(others)
    return {
        "difference": difference, "low": float(found.low), "high": float(found.high), "p": rank_test(values, others)
    }  # fmt: skip


def halving(whole: Sequence[Outcome], stopped: Sequence[Outcome]) -> dict[str, Any]:
    """Part b: pairs of searches with and without halving, with the same seed."""
    rows, pairs = [], []
    for full, halved in zip(whole, stopped, strict=True):
        lost = 100 * (full.volume(full.proposed) - halved.volume(halved.proposed))
        best = [100 * max(one.robust_acc for one in outcome.finished if one.counts) for outcome in (full, halved)]
        share = halved.seconds / full.seconds
        pairs.append({"seed": full.seed, "lost": lost, "best_robust": best, "share": share})
        rows.append(
            [f"seed {full.seed}", f"{lost:+.2f}", f"{best[0]:.1f} / {best[1]:.1f}", f"{share:.0%}",
             f"{len(halved.finished)} of {halved.proposed}"]
        )  # fmt: skip
    lost, share = median(pair["lost"] for pair in pairs), median(pair["share"] for pair in pairs)
    rows.append(["median", f"{lost:+.2f}", "", f"{share:.0%}", ""])
    columns = ("search", "hypervolume lost, points", "most robust, full / halved", "compute", "trials finished")
    table("b: successive halving against full trials", columns, rows)
    print(f"within {WITHIN_POINTS:g} point: {yes_or_no(lost <= WITHIN_POINTS)}")
    print(f"at most {SHARE_OF_COMPUTE:.0%} of the compute: {yes_or_no(share <= SHARE_OF_COMPUTE)}")
    return {"pairs": pairs, "median": {"lost": lost, "share": share}}


if __name__ == "__main__":
    command(main)
