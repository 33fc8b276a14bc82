"""Part d of the search benchmark: the same trials on Ray Tune and as a bare loop, taking turns."""

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bat_core.data import Dataset
from support.common import say, table, yes_or_no
from support.searches import Kind, Setting, new_sweep, run_one, timed
from sweeps.engine.ray_backend import cluster
from sweeps.engine.ray_backend.search import search_trials
from sweeps.engine.ray_backend.tuning import TuneRun
from sweeps.engine.search.pace import Budget, Pace
from sweeps.engine.search.spec import Search
from sweeps.engine.search.study import SearchStudy
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Sweep, Trial

MAX_SHARE, MAX_SECONDS = 0.10, 3.0  # targets: share of the wall time of long trials; seconds per short trial
TURNS = 3
SHORT, LONG = 12, 6  # trials per turn


def overhead(setting: Setting, *, long_epochs: int, processes: int) -> dict[str, Any]:
    """The wall time of a search on Ray minus that of its trials in bare processes, `processes` at a time."""
    dataset = setting.images()
    base = setting.search(dataset, Kind(name="random", sampler="random"), seed=0, num_trials=SHORT)
    cases = {"short": (base, SHORT, TURNS), "long": (_longer(base, long_epochs), LONG, 1)}
    rows, measured = [], {}
    for name, (search, count, turns) in cases.items():
        pairs = []
        for turn in range(turns):
            say(f"{name} trials, turn {turn + 1} of {turns}")
            order = ("ray", "bare") if turn % 2 == 0 else ("bare", "ray")
            trials = _trials(search, count, dataset, setting)
            seconds = {how: _run(how, search, trials, dataset, setting, processes) for how in order}
            pairs.append(seconds)
        added = median(pair["ray"] - pair["bare"] for pair in pairs)
        share = median(pair["ray"] / pair["bare"] - 1 for pair in pairs)
        each = median(pair["bare"] for pair in pairs) * processes / count
        held = share <= MAX_SHARE if name == "long" else added / count <= MAX_SECONDS
        measured[name] = {"pairs": pairs, "trials": count, "seconds_each": each, "added": added, "share": share}
        rows.append(
            [f"{count} {name} trials", f"{each:.1f}", f"{median(p['bare'] for p in pairs):.1f}",
             f"{median(p['ray'] for p in pairs):.1f}", f"{added / count:+.2f}", f"{share:+.1%}", yes_or_no(held)]
        )  # fmt: skip
    columns = ("", "s per trial", "bare s", "Ray s", "added s per trial", "added", "target met")
    table(f"d: overhead of the platform, {processes} trials at a time, median of turns", columns, rows)
    return measured


def _longer(search: Search, epochs: int) -> Search:
    return replace(search, base=replace(search.base, train=replace(search.base.train, epochs=epochs)))


def _trials(search: Search, count: int, dataset: Dataset, setting: Setting) -> list[Trial]:
    """The points that the search will propose. They are known in advance, because random search ignores results."""
    folder, sweep = _fresh(setting.cache / "overhead-points", dataset)
    search.write(folder)
    study = SearchStudy(replace(search, num_trials=count), sweep, folder)
    return [study.propose() for _ in range(count)]


def _run(how: str, search: Search, trials: list[Trial], dataset: Dataset, setting: Setting, processes: int) -> float:
    place = setting.cache / f"overhead-{how}"
    if how == "bare":
        return timed(_bare, trials, dataset, place, processes)[1]
    folder, sweep = _fresh(place, dataset)
    search.write(folder)
    study = SearchStudy(replace(search, num_trials=len(trials)), sweep, folder)
    with cluster.cluster(address=None):
        ray_seconds = timed(
            lambda: search_trials(
                TuneRun(sweep=sweep, folder=folder, dataset=dataset, concurrent=processes),
                study,
                rungs=None,
                budget=Budget(study.search, study, Pace(sweep, folder)),
            )
        )[1]
    assert {t.config.hash for t in study.trials()} == {t.config.hash for t in trials}, "both ran the same trials"
    return ray_seconds


def _bare(trials: list[Trial], dataset: Dataset, place: Path, processes: int) -> None:
    folder, _ = _fresh(place, dataset)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        list(pool.map(_one, trials, [dataset] * len(trials), [folder] * len(trials)))


def _one(trial: Trial, dataset: Dataset, folder: SweepFolder) -> None:
    torch.set_num_threads(1)
    run_one(trial, dataset, folder)


def _fresh(place: Path, dataset: Dataset) -> tuple[SweepFolder, Sweep]:
    shutil.rmtree(place, ignore_errors=True)
    folder = SweepFolder(place.resolve())
    return folder, new_sweep(folder, dataset)
