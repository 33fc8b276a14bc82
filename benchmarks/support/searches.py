"""Whole searches as a bare loop in one process, without Ray. An interrupted search resumes where it stopped."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import torch

from bat_core.data import Dataset
from support.common import say
from sweeps.engine.cli.options import load_images
from sweeps.engine.ray_backend.search import EpochASHA, SearchScheduler
from sweeps.engine.ray_backend.tuning import TuneRun
from sweeps.engine.search.options import SearchOptions, default_halving
from sweeps.engine.search.results import Score, scores, volume
from sweeps.engine.search.run import search_rungs
from sweeps.engine.search.spec import Search
from sweeps.engine.search.study import SearchStudy
from sweeps.engine.search.warm_start import add_warm_starts
from sweeps.engine.storage.locks import sole_driver
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import SPEC, Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, trial_epochs

T = TypeVar("T")
PROCESSOR_SECONDS = "processor_seconds.txt"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The settings that all searches of a benchmark share."""

    dataset: str
    data_dir: Path | None
    model: str
    epochs: int
    train_size: int
    val_size: int
    cache: Path

    def images(self) -> Dataset:
        options = SearchOptions(
            dataset=self.dataset, train_size=self.train_size, val_size=self.val_size, data_dir=self.data_dir
        )
        return load_images(options.data_config(), self.data_dir, download=False)

    def search(self, dataset: Dataset, kind: "Kind", *, seed: int, num_trials: int) -> Search:
        earlier = () if kind.prior is None else (self.folder(kind.prior, seed),)
        return SearchOptions(
            dataset=self.dataset,
            train_size=self.train_size,
            val_size=self.val_size,
            model=self.model,
            epochs=self.epochs,
            schedule="one_cycle",
            seed=seed,
            num_trials=num_trials,
            sampler=kind.sampler,
            objective=kind.objective,
            early_stopping="none",
            verify_all=True,
            warm_start=earlier,
        ).search(dataset)

    def folder(self, name: str, seed: int) -> Path:
        """Where the search of a data set and kind, such as digits-random, is kept."""
        return (self.cache / f"{name}-{seed}").resolve()


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of search. `prior` names other searches in the cache, as in digits-random: that of the same seed is the
    warm start."""

    name: str
    sampler: str = "tpe"
    objective: str = "clean+robust"
    halving: bool = False
    grace: int | None = None
    prior: str | None = None


@dataclass(frozen=True)
class Outcome:
    """A completed search: its finished trials in order, and the processor seconds of all its trials."""

    kind: Kind
    seed: int
    folder: Path
    finished: tuple[Score, ...]
    proposed: int
    seconds: float

    def volume(self, after: int) -> float:
        """The hypervolume of the first `after` trials."""
        return volume([one for one in self.finished if int(one.id.rpartition("-")[2]) < after])


def run(setting: Setting, kind: Kind, seed: int, num_trials: int) -> Outcome:
    """Run one search, trial after trial, on one thread."""
    place = setting.folder(f"{setting.dataset}-{kind.name}", seed)
    with sole_driver(place.with_name(f".{place.name}"), "search"):
        return _run(setting, kind, seed, num_trials, SweepFolder(place))


def _run(setting: Setting, kind: Kind, seed: int, num_trials: int, folder: SweepFolder) -> Outcome:
    torch.set_num_threads(1)
    dataset = setting.images()
    search = setting.search(dataset, kind, seed=seed, num_trials=num_trials)
    if kind.halving:
        default = default_halving(search.objective, setting.epochs)
        search = replace(search, halving=replace(default, grace=kind.grace or default.grace))
    sweep = _sweep(folder, dataset)
    search.write(folder)
    study = SearchStudy(search, sweep, folder)
    for said in add_warm_starts(study, sweep.pixel):
        say(said)
    run = TuneRun(sweep=sweep, folder=folder, dataset=dataset, concurrent=1)
    rungs = search_rungs(search)
    halving = EpochASHA(run, study.trials(), rungs) if rungs else None
    scheduler = SearchScheduler(run, study, halving)
    waiting = study.unfinished()
    while True:
        if waiting:
            trial = waiting.pop(0)
        elif halving and (stopped := halving.next_stopped(any_rank=False)):
            study.reopen(trial := stopped)
        elif len(study.trials()) < num_trials:
            trial = study.propose()
        else:
            break
        run_one(trial, dataset, folder, scheduler)
        study.settle(trial)
    taken = sum(seconds(folder.trial(trial)) for trial in study.trials())
    return Outcome(kind, seed, folder.path, tuple(scores(sweep, folder)), len(study.trials()), taken)


def run_one(trial: Trial, dataset: Dataset, folder: SweepFolder, scheduler: SearchScheduler | None = None) -> None:
    """Run one trial until it ends or is stopped. A failure is recorded in its record."""
    epochs = trial_epochs(trial, dataset, folder.trial(trial), TrialRuntime(device=torch.device("cpu")))
    began = time.process_time()
    try:
        for metrics in epochs:
            if (
                scheduler
                and scheduler.on_trial_result(None, SimpleNamespace(config={"trial": trial.id}), metrics) == "STOP"
            ):
                epochs.close()
    except Exception:
        assert read_status(folder.trial(trial)).phase == "failed"
    finally:
        with (folder.trial(trial) / PROCESSOR_SECONDS).open("a") as file:
            print(time.process_time() - began, file=file)


def _sweep(folder: SweepFolder, dataset: Dataset) -> Sweep:
    if (folder.path / SPEC).exists():
        return folder.load()
    return new_sweep(folder, dataset)


def new_sweep(folder: SweepFolder, dataset: Dataset) -> Sweep:
    """Create the sweep of a search in a new folder."""
    sweep = Sweep(
        name="search", command="", data_dir=None, pixel=dataset.pixel, resources=Resources(), trials=(), open=True
    )
    folder.create(sweep)
    return sweep


def seconds(folder: Path) -> float:
    """Processor seconds of a trial over all attempts. They do not depend on other work on the machine."""
    return sum(map(float, (folder / PROCESSOR_SECONDS).read_text().split()))


def timed(function: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    """The result of a function, and its seconds."""
    began = time.perf_counter()
    result = function(*arguments)
    return result, time.perf_counter() - began
