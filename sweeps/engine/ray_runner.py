"""Runs trials on Ray: the one place that knows of it.

A trial with one worker runs in a Tune trial's own process; with several, the Tune trial builds a
TorchTrainer. Trials find their state in the sweep's own folder, so nothing is ever restored from Ray.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Ray reads these when it is imported or when it starts processes.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this environment as it is
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the records are ours
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")

import ray
import torch
from ray import train, tune
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import AuthenticationError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.util import ActorPool

import bat_core
import search_spaces
import sweeps
from bat_core.data import Dataset
from bat_core.errors import InputError
from bat_core.workers import Workers
from sweeps.engine.records import Record, read_status
from sweeps.engine.sweep import Resources, Sweep, SweepFolder, Trial
from sweeps.engine.trial import run_trial, trial_epochs

TRIAL_RETRIES = 2  # of a worker that died; a trial that failed by itself is not tried again
NOMINAL_MEMORY = 2**20  # bytes for a trial that only watches its workers; Ray wants something above zero
NODE_START = 1800  # seconds that workers wait for nodes which are still being set up
PACKAGES = [str(Path(package.__path__[0])) for package in (bat_core, search_spaces, sweeps)]


def existing_cluster(address: str | None) -> str | None:
    """The cluster to join: `address`, else RAY_ADDRESS, else the one `ray start` left running here.

    Returns:
        None where one is to be started on this machine; `address="local"` asks for that. "auto" is the one
        found here, the only one that Ray shows this machine's token to unasked.
    """
    if address == "local":
        return None
    found = get_ray_address_from_environment(None, None) and "auto"
    return address or os.environ.get("RAY_ADDRESS") or found


@contextmanager
def cluster(*, address: str | None) -> Iterator[None]:
    """A Ray cluster for the body: the one at `address`, or one of its own on this machine, ended after.

    Raises:
        InputError: the cluster at `address` cannot be reached, or lets nobody in without its token.
        RuntimeError: Ray's dashboard did not start; without it a stopped trial keeps its resources.
    """
    _let_workers_cache_byte_code()
    if address:
        # Every node runs the driver's code, whatever is installed there.
        code = {
            "py_modules": PACKAGES,
            "env_vars": {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(NODE_START)},
        }
        try:
            context = ray.init(address=address, runtime_env=code, log_to_driver=False)
        except (ConnectionError, AuthenticationError) as error:
            first = str(error).partition(". ")[0]
            raise InputError(
                f"{first}: start it or say --address local; where it is running, it wants RAY_AUTH_MODE=token"
                " and its token in ~/.ray/auth_token"
            ) from error
    else:
        context = ray.init(address="local", include_dashboard=True, log_to_driver=False, logging_level=logging.ERROR)
    try:
        if not context.dashboard_url:
            raise RuntimeError("Ray's dashboard is off: install ray[default], without it stopped trials leak resources")
        yield
    finally:
        ray.shutdown()


def concurrent_trials(resources: Resources) -> int:
    """How many trials fit the running cluster at once; at least one."""
    cluster_has = ray.cluster_resources()
    fits = cluster_has.get("CPU", 1) / (resources.cpus_per_worker * resources.num_workers)
    if resources.gpus_per_worker:
        fits = min(fits, cluster_has.get("GPU", 0) / (resources.gpus_per_worker * resources.num_workers))
    return max(int(fits), 1)


def run_trials(
    trials: Sequence[Trial], sweep: Sweep, dataset: Dataset, folder: SweepFolder, *, concurrent: int
) -> None:
    """Run every trial once, `concurrent` at a time; each leaves its own record.

    A trial that fails does so in its record and does not stop the others.
    """
    ids = [trial.id for trial in trials]
    results = tune_trials(
        sweep, dataset, folder, concurrent=concurrent, param_space={"trial": tune.grid_search(ids)}, num_samples=1
    )
    for result in results:
        if result.error:
            _record_death(folder.trial(folder.find(sweep, result.config["trial"])), result.error)


def tune_trials(
    sweep: Sweep,
    dataset: Dataset,
    folder: SweepFolder,
    *,
    concurrent: int,
    num_samples: int,
    param_space: dict[str, Any] | None = None,
    search_alg: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
) -> tune.ResultGrid:
    """Let Tune run trials, which it is given by their ids."""
    resources = sweep.resources
    if resources.num_workers == 1:
        needs = {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker}
        trainable = tune.with_parameters(_InProcess, sweep=sweep, folder=folder, dataset=dataset)
    else:
        needs = {"memory": NOMINAL_MEMORY}
        shared = ray.put(dataset)

        def trainable(config: dict[str, str]) -> None:
            _with_train(folder.find(sweep, config["trial"]), shared, folder, resources, sweep)

    tuner = tune.Tuner(
        tune.with_resources(trainable, needs),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            max_concurrent_trials=concurrent,
            reuse_actors=resources.num_workers == 1,
            num_samples=num_samples,
            search_alg=search_alg,
            scheduler=scheduler,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str((folder.path / "ray").resolve()),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    return tuner.fit()


def run_tasks(
    function: Callable[..., None],
    calls: Sequence[tuple[Any, ...]],
    shared: tuple[Any, ...],
    *,
    gpus: float,
    most: int | None,
) -> None:
    """`function(*shared, *call)` for every call, each in a Ray worker, `most` at a time.

    Workers are kept from call to call, so that what a process has loaded it need not load again.

    Raises:
        Exception: what the first call that failed raised.
    """
    fits = concurrent_trials(Resources(gpus_per_worker=gpus))
    common = [ray.put(one) for one in shared]

    worker = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker)
    pool = ActorPool([worker.remote(function) for _ in range(min(most or fits, fits, len(calls)))])
    for _ in pool.map_unordered(lambda one, call: one.run.remote(call, *common), calls):
        pass


class _Worker:
    """A process that calls one function again and again."""

    def __init__(self, function: Callable[..., None]) -> None:
        torch.set_num_threads(1)
        self.function = function

    def run(self, call: tuple[Any, ...], *shared: Any) -> None:
        self.function(*shared, *call)


def _record_death(trial_folder: Path, error: Exception) -> None:
    """A process that was killed could not say why its trial failed; its owner does."""
    if not read_status(trial_folder).done:
        Record(trial_folder).append("failed", reason=f"{type(error).__name__}: {error}")


class _InProcess(tune.Trainable):  # type: ignore[misc]
    """A trial in Tune's own process, an epoch a step; the process is kept for the next trial."""

    def setup(self, config: dict[str, str], *, sweep: Sweep, folder: SweepFolder, dataset: Dataset) -> None:
        self._sweep, self._folder, self._dataset = sweep, folder, dataset
        torch.set_num_threads(sweep.resources.cpus_per_worker)
        self._device = torch.device("cuda" if sweep.resources.gpus_per_worker else "cpu")
        self._begin(config)

    def step(self) -> dict[str, Any]:
        metrics = next(self._epochs, None)
        return {"done": True} if metrics is None else metrics

    def reset_config(self, new_config: dict[str, str]) -> bool:
        self._epochs.close()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self._epochs.close()

    def _begin(self, config: dict[str, str]) -> None:
        trial = self._folder.find(self._sweep, config["trial"])
        self._epochs = trial_epochs(
            trial, self._dataset, self._folder.trial(trial), device=self._device, workers=Workers()
        )


def _with_train(trial: Trial, shared: Any, folder: SweepFolder, resources: Resources, sweep: Sweep) -> None:
    def worker() -> None:
        torch.set_num_threads(resources.cpus_per_worker)
        run_trial(
            trial,
            ray.get(shared),
            folder.trial(trial),
            device=get_device(),
            workers=Workers.current(),
            report=train.report,
        )

    needs: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        needs["GPU"] = resources.gpus_per_worker
    TorchTrainer(
        worker,
        torch_config=TorchConfig(backend="nccl" if resources.gpus_per_worker else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=bool(resources.gpus_per_worker),
            resources_per_worker=needs,
        ),
        run_config=train.RunConfig(
            name=f"{trial.id}-{sweep.id}",
            storage_path=str((folder.path / "ray").resolve()),
            callbacks=[TuneReportCallback()],
            failure_config=train.FailureConfig(max_failures=TRIAL_RETRIES, controller_failure_limit=TRIAL_RETRIES),
        ),
    ).fit()


def _let_workers_cache_byte_code() -> None:
    """Workers that may not write byte code beside their modules would compile torch at every start."""
    if sys.dont_write_bytecode:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path.home() / ".cache" / "bat-sweeps" / "pycache"))
