"""Runs trials on Ray: the one place that knows of it.

A trial with one worker runs in a Tune trial's own process; with several, the Tune trial builds a
TorchTrainer. Trials find their state in the sweep's own folder, so nothing is ever restored from Ray.
"""

import gc
import logging
import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

# Ray reads these when it is imported or when it starts processes.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # workers use this environment as it is
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the records are ours
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # `stop_on_signals` has it

import ray
import torch
from ray import tune
from ray._private import ray_constants
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import AuthenticationError, RayError
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher
from ray.util import ActorPool

import bat_core
import search_spaces
import sweeps
from bat_core.data import Dataset
from bat_core.errors import InputError
from sweeps.engine.folder import SweepFolder
from sweeps.engine.patience import StorageError
from sweeps.engine.ray_trials import FAILURE, TRIAL_RETRIES, InProcess, why, with_train
from sweeps.engine.ray_watch import Overseer
from sweeps.engine.records import read_status
from sweeps.engine.sweep import Resources, Sweep, Trial

LOOPBACK = "127.0.0.1"
DASHBOARDS = 100  # clusters of one machine that find a port
API_SERVER = ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE
NOMINAL_MEMORY = 2**20  # bytes for a trial that only watches its workers; Ray wants something above zero
NODE_START = 1800  # seconds that workers wait for nodes which are still being set up
T = TypeVar("T")
TaskError = RayError  # what a call of `run_tasks` raised, or that its process died
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
        context = _start()
    try:
        if not context.dashboard_url:
            raise RuntimeError("Ray's dashboard is off: install ray[default], without it stopped trials leak resources")
        yield
    finally:
        _leave()


def _start() -> Any:
    """A cluster on this machine whose processes know its dashboard by its address.

    Ray Train asks the dashboard whether a trial's controller lives, and ends the trial's workers if not. Without an
    address it asks whichever cluster it finds first, and that of another sweep knows nothing of this one's trials.
    """
    port = _dashboard_port()
    os.environ[API_SERVER] = f"http://{LOOPBACK}:{port}"  # inherited by all that Ray starts
    try:
        return ray.init(
            address="local",
            include_dashboard=True,
            dashboard_host=LOOPBACK,
            dashboard_port=port,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    finally:
        del os.environ[API_SERVER]


def _dashboard_port() -> int:
    """A port that nobody on this machine listens at; sweeps that start at the same moment begin at different ones."""
    for turn in range(DASHBOARDS):
        port = ray_constants.DEFAULT_DASHBOARD_PORT + (os.getpid() + turn) % DASHBOARDS
        with socket.socket() as probe, suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port
    raise RuntimeError(f"{DASHBOARDS} ports from {ray_constants.DEFAULT_DASHBOARD_PORT} on are taken: no Ray dashboard")


def _leave() -> None:
    """Leave the cluster, with nothing of it left for other threads to collect while Ray shuts down.

    A reference let go of between the end of Ray's core worker and the end of `ray.shutdown` ends the process at
    once, with exit code 1; and the collector runs in whichever thread allocates, as that of the mirror does.
    """
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collecting:
            gc.enable()


def concurrent_trials(resources: Resources) -> int:
    """How many trials fit the running cluster at once; at least one."""
    cluster_has = ray.cluster_resources()
    fits = cluster_has.get("CPU", 1) / (resources.cpus_per_worker * resources.num_workers)
    if resources.gpus_per_worker:
        fits = min(fits, cluster_has.get("GPU", 0) / (resources.gpus_per_worker * resources.num_workers))
    return max(int(fits), 1)


def run_trials(
    trials: Sequence[Trial],
    sweep: Sweep,
    dataset: Dataset,
    folder: SweepFolder,
    *,
    concurrent: int,
    stall: float | None = None,
) -> dict[str, str]:
    """Run every trial once, `concurrent` at a time; each leaves its own record.

    A trial that fails does so in its record and does not stop the others; one that gets nothing done
    for `stall` seconds fails.

    Returns:
        Why trials failed whose storage did not even take that, by their ids.
    """
    results = tune_trials(
        sweep,
        dataset,
        folder,
        concurrent=concurrent,
        stall=stall,
        param_space={"trial": tune.grid_search([trial.id for trial in trials])},
        num_samples=1,
    )
    unrecorded: dict[str, str] = {}
    gone = ""
    for result in results:
        trial = folder.find(sweep, result.config["trial"])
        reason = why(result.error) if result.error else (result.metrics or {}).get(FAILURE, "")
        try:
            if not gone:  # what has been waited for once is not waited for again
                _settle(trial, reason, folder)
        except StorageError as error:
            gone = str(error)
        if gone:
            unrecorded[trial.id] = reason or gone
    return unrecorded


def tune_trials(
    sweep: Sweep,
    dataset: Dataset,
    folder: SweepFolder,
    *,
    concurrent: int,
    stall: float | None,
    num_samples: int,
    param_space: dict[str, Any] | None = None,
    search_alg: Searcher | None = None,
    scheduler: TrialScheduler | None = None,
) -> tune.ResultGrid:
    """Let Tune run trials, which it is given by their ids."""
    resources, overseer = sweep.resources, Overseer(sweep, folder, stall=stall)
    if resources.num_workers == 1:
        needs = {"cpu": resources.cpus_per_worker, "gpu": resources.gpus_per_worker}
        trainable = tune.with_parameters(
            InProcess, sweep=sweep, folder=folder, dataset=dataset, version=bat_core.__version__
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
            max_concurrent_trials=concurrent,
            reuse_actors=resources.num_workers == 1,
            num_samples=num_samples,
            search_alg=search_alg,
            scheduler=scheduler,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.ray(sweep).resolve()),
            verbose=0,
            stop=overseer,
            callbacks=[overseer],
            failure_config=tune.FailureConfig(max_failures=TRIAL_RETRIES),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what fails is in the records, and in the table
    results = tuner.fit()
    shutil.rmtree(folder.ray(sweep), ignore_errors=True)
    return results


def run_tasks(
    function: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    shared: tuple[Any, ...],
    *,
    gpus: float,
    most: int | None,
) -> Iterator[T]:
    """`function(*shared, *call)` for every call, each in a Ray worker, `most` at a time.

    Workers are kept from call to call, so that what a process has loaded it need not load again. A call is
    taken from `calls` when a worker is free for it.

    Yields:
        What each call returned, in the order in which they ended.
    Raises:
        Exception: what the first call that failed raised.
    """
    fits = concurrent_trials(Resources(gpus_per_worker=gpus))
    common = [ray.put(one) for one in shared]

    worker = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker)
    waiting = iter(calls)
    first = list(islice(waiting, min(most or fits, fits)))
    pool = ActorPool([worker.remote(function) for _ in first])

    def submit(these: Iterable[tuple[Any, ...]]) -> None:
        for call in these:
            pool.submit(lambda one, call: one.run.remote(call, *common), call)

    submit(first)
    while pool.has_next():
        answer = pool.get_next_unordered()
        submit(islice(waiting, 1))
        yield answer


class _Worker:
    """A process that calls one function again and again."""

    def __init__(self, function: Callable[..., Any]) -> None:
        torch.set_num_threads(1)
        self.function = function

    def run(self, call: tuple[Any, ...], *shared: Any) -> Any:
        return self.function(*shared, *call)


def _settle(trial: Trial, reason: str, folder: SweepFolder) -> None:
    """A process that was killed could not say why its trial failed; its owner does."""
    folder.refresh(trial)
    if reason and not read_status(folder.trial(trial)).done:
        folder.tell(trial, "failed", reason=reason)


def _let_workers_cache_byte_code() -> None:
    """Workers that may not write byte code beside their modules would compile torch at every start."""
    if sys.dont_write_bytecode:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path.home() / ".cache" / "bat-sweeps" / "pycache"))
