"""Runs trials on Ray: the one place that knows of it.

A trial with one worker runs in a Tune trial's own process; with several, the Tune trial builds a
TorchTrainer. Trials find their state in the sweep's own folder, so nothing is ever restored from Ray.
"""

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

import bat_core
from bat_core.data import Dataset
from sweeps.engine.ray_backend.control import TuneSupervisor
from sweeps.engine.ray_backend.trainables import FAILURE, TRIAL_RETRIES, TrialTrainable, why, with_train
from sweeps.engine.storage.retry import StorageError
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Sweep, Trial

NOMINAL_MEMORY = 2**20  # bytes for a trial that only watches its workers; Ray wants something above zero


@dataclass(frozen=True, kw_only=True)
class TuneRun:
    """What a run of Tune needs to know: the sweep, its folder and images, and how its trials are run.

    `concurrent` trials run at a time. A trial without progress for `stall` seconds fails; None: never.
    """

    sweep: Sweep
    folder: SweepFolder
    dataset: Dataset
    concurrent: int
    stall: float | None = None


def run_trials(run: TuneRun, trials: Sequence[Trial]) -> dict[str, str]:
    """Run every trial once; each leaves its own record.

    A trial that fails does so in its record and does not stop the others.

    Returns:
        Why trials failed whose storage did not even take that, by their ids.
    """
    results = tune_trials(
        run,
        param_space={"trial": tune.grid_search([trial.id for trial in trials])},
        num_samples=1,
    )
    unrecorded: dict[str, str] = {}
    gone = ""
    for result in results:
        trial = run.folder.find(run.sweep, result.config["trial"])
        reason = why(result.error) if result.error else (result.metrics or {}).get(FAILURE, "")
        try:
            if not gone:  # what has been waited for once is not waited for again
                _settle(trial, reason, run.folder)
        except StorageError as error:
            gone = str(error)
        if gone:
            unrecorded[trial.id] = reason or gone
    return unrecorded


def tune_trials(
    run: TuneRun,
    *,
    num_samples: int,
    param_space: dict[str, Any] | None = None,
    search_alg: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
) -> tune.ResultGrid:
    """Let Tune run trials, which it is given by their ids."""
    sweep, folder, dataset = run.sweep, run.folder, run.dataset
    resources, supervisor = sweep.resources, TuneSupervisor(sweep, folder, stall=run.stall)
    if resources.num_workers == 1:
        needs = {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker}
        trainable = tune.with_parameters(
            TrialTrainable, sweep=sweep, folder=folder, dataset=dataset, version=bat_core.__version__
        )
    else:
        needs = {"memory": NOMINAL_MEMORY}
        shared, version = ray.put(dataset), bat_core.__version__

        def trainable(config: dict[str, str]) -> None:
            with_train(folder.find(sweep, config["trial"]), shared, folder, sweep, version=version)

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
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is in the records, and in the table
    results = tuner.fit()
    shutil.rmtree(folder.ray(sweep), ignore_errors=True)
    return results


def _settle(trial: Trial, reason: str, folder: SweepFolder) -> None:
    """A process that was killed could not say why its trial failed; its owner does."""
    folder.refresh(trial)
    if reason and not read_status(folder.trial(trial)).done:
        folder.append_event(trial, "failed", reason=reason)
