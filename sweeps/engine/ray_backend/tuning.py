"""Runs trials with Ray Tune.

A trial with one worker runs in the Tune trial's own process. With several workers, the Tune trial builds a
TorchTrainer. Trials keep their state in the sweep's folder, so nothing is restored from Ray.
"""

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

import bat_core
from bat_core.data import Dataset
from bat_core.paths import remove
from sweeps.engine.ray_backend.control import TuneSupervisor
from sweeps.engine.ray_backend.trainables import FAILURE, TRIAL_RETRIES, TrialTrainable, root_cause, run_with_train
from sweeps.engine.storage.retry import StorageError
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Sweep, Trial

NOMINAL_MEMORY = 2**20  # bytes for a trial that only waits for its workers; Ray requires more than zero


@dataclass(frozen=True, kw_only=True)
class TuneRun:
    """The inputs of a Tune run: the sweep, its folder and data set, and how to run its trials.

    `concurrent` trials run at a time. A trial without progress for `stall` seconds fails; None disables the check.
    Without `cycles`, every step of PGD runs. `say` tells the user what goes on.
    """

    sweep: Sweep
    folder: SweepFolder
    dataset: Dataset
    concurrent: int
    stall: float | None = None
    cycles: bool = True
    say: Callable[[str], None] = print


def run_trials(run: TuneRun, trials: Sequence[Trial]) -> dict[str, str]:
    """Run every trial once. Each writes its own record.

    A failed trial has the reason in its record, and does not stop the others.

    Returns:
        The reasons of failures that could not be recorded because storage failed, by trial id.
    """
    results = tune_trials(
        run,
        param_space={"trial": tune.grid_search([trial.id for trial in trials])},
        num_samples=1,
    )
    unrecorded: dict[str, str] = {}
    storage_error = ""
    for result in results:
        trial = run.folder.find(run.sweep, result.config["trial"])
        reason = root_cause(result.error) if result.error else (result.metrics or {}).get(FAILURE, "")
        try:
            if not storage_error:  # wait for failing storage only once
                _settle(trial, reason, run.folder)
        except StorageError as error:
            storage_error = str(error)
        if storage_error:
            unrecorded[trial.id] = reason or storage_error
    return unrecorded


def tune_trials(
    run: TuneRun,
    *,
    num_samples: int,
    param_space: dict[str, Any] | None = None,
    search_alg: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
) -> tune.ResultGrid:
    """Run trials with Tune, which identifies them by their ids."""
    sweep, folder, dataset = run.sweep, run.folder, run.dataset
    resources, supervisor = sweep.resources, TuneSupervisor(sweep, folder, stall=run.stall, say=run.say)
    if resources.num_workers == 1:
        needs = {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker}
        trainable = tune.with_parameters(
            TrialTrainable,
            sweep=sweep,
            folder=folder,
            dataset=dataset,
            version=bat_core.__version__,
            cycles=run.cycles,
        )
    else:
        needs = {"memory": NOMINAL_MEMORY}
        shared, version, cycles = ray.put(dataset), bat_core.__version__, run.cycles

        def trainable(config: dict[str, str]) -> None:
            trial = folder.find(sweep, config["trial"])
            run_with_train(trial, shared, folder, sweep, version=version, cycles=cycles)

    tuner = tune.Tuner(
        tune.with_resources(trainable, needs),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=run.concurrent,
            reuse_actors=resources.num_workers == 1,
            num_samples=num_samples,
            search_alg=search_alg,
            scheduler=scheduler,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.ray(sweep).resolve()),
            verbose=0,
            stop=supervisor,
            callbacks=[supervisor],
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are in the records and the table
    with supervisor.watching():
        results = tuner.fit()
    with contextlib.suppress(OSError):
        remove(folder.ray(sweep))
    return results


def _settle(trial: Trial, reason: str, folder: SweepFolder) -> None:
    """Record why a trial failed, if its process was killed before it could."""
    if read_status(folder.trial(trial)).phase not in {"finished", "stopped"}:  # what is over is here already
        folder.refresh(trial)
    if reason and not read_status(folder.trial(trial)).done:
        folder.append_event(trial, "failed", reason=reason)
