"""The life of a Ray cluster: found, joined or started, and left."""

import gc
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import AuthenticationError

import bat_core
import search_spaces
import sweeps
from bat_core.errors import InputError
from sweeps.engine.sweep.spec import Resources

LOOPBACK = "127.0.0.1"
DASHBOARDS = 100  # clusters of one machine that find a port
API_SERVER = ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE
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
        with socket.socket() as query, suppress(OSError):
            query.bind((LOOPBACK, port))
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


def _let_workers_cache_byte_code() -> None:
    """Workers that may not write byte code beside their modules would compile torch at every start."""
    if sys.dont_write_bytecode:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path.home() / ".cache" / "bat-sweeps" / "pycache"))
