"""Finds, joins, starts and leaves a Ray cluster."""

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
from ray.exceptions import AuthenticationError, RuntimeEnvSetupError

import bat_core
import search_spaces
import sweeps
from bat_core.errors import InputError
from bat_core.user_modules import import_roots, user_files
from sweeps.engine.sweep.spec import Resources

LOOPBACK = "127.0.0.1"
DASHBOARDS = 100  # ports to try, one per cluster on a machine
API_SERVER = ray_constants.RAY_API_SERVER_ADDRESS_ENVIRONMENT_VARIABLE
NODE_START = 1800  # seconds that workers wait for nodes that are still starting
PACKAGES = [str(Path(package.__path__[0])) for package in (bat_core, search_spaces, sweeps)]


def existing_cluster(address: str | None) -> str | None:
    """The cluster to join: `address`, else RAY_ADDRESS, else the one that `ray start` started on this machine.

    Returns:
        None to start a new cluster on this machine, as for `address="local"`. "auto" for the one found on this
        machine: only then does Ray send the machine's token automatically.
    """
    if address == "local":
        return None
    found = get_ray_address_from_environment(None, None) and "auto"
    return address or os.environ.get("RAY_ADDRESS") or found


@contextmanager
def cluster(*, address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster during the body: the one at `address`, or a new one on this machine.

    Raises:
        InputError: the cluster at `address` cannot be reached or requires a token.
        RuntimeError: Ray's dashboard did not start. Without it, stopped trials do not release their resources.
    """
    _let_workers_cache_byte_code()
    if address:
        # Every node runs the driver's code instead of its installed version, and gets the user's modules.
        code = {
            "py_modules": [*PACKAGES, *map(str, user_files().values())],
            "env_vars": {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(NODE_START)},
        }
        try:
            context = ray.init(address=address, runtime_env=code, log_to_driver=False)
        except RuntimeEnvSetupError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"the user's modules cannot be sent to the cluster's nodes: {reason}; keep data and results out of the"
                " package's folder"
            ) from error
        except (ConnectionError, AuthenticationError) as error:
            first = str(error).partition(". ")[0]
            raise InputError(
                f"{first}: start it or use --address local; if it is running, it requires RAY_AUTH_MODE=token"
                " and its token in ~/.ray/auth_token"
            ) from error
    else:
        context = _start()
    try:
        if not context.dashboard_url:
            raise RuntimeError("Ray's dashboard is off, so stopped trials would leak resources: install ray[default]")
        yield
    finally:
        _leave()


def _start() -> Any:
    """Start a cluster on this machine whose processes know its dashboard's address.

    Ray Train asks the dashboard whether a trial's controller is alive, and ends the trial's workers if not. Without an
    address it asks the first cluster it finds. If that belongs to another sweep, it does not know this one's trials.
    """
    port = _dashboard_port()
    inherited = {API_SERVER: f"http://{LOOPBACK}:{port}", **_import_path()}  # by all processes that Ray starts
    before = {name: os.environ.get(name) for name in inherited}
    os.environ.update(inherited)
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
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _import_path() -> dict[str, str]:
    """PYTHONPATH with which workers import what this process does: they work in other folders and orders."""
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    entries = [*map(str, import_roots()), *map(os.path.abspath, given)]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(entries))} if entries else {}


def _dashboard_port() -> int:
    """A free port. The first candidate depends on the process, so that concurrent sweeps do not collide."""
    for turn in range(DASHBOARDS):
        port = ray_constants.DEFAULT_DASHBOARD_PORT + (os.getpid() + turn) % DASHBOARDS
        with socket.socket() as query, suppress(OSError):
            query.bind((LOOPBACK, port))
            return port
    raise RuntimeError(
        f"no free port for Ray's dashboard from {ray_constants.DEFAULT_DASHBOARD_PORT} on: {DASHBOARDS} are in use"
    )


def _leave() -> None:
    """Leave the cluster with garbage collection off, so that no thread releases a Ray reference during shutdown.

    A reference that is released between the end of Ray's core worker and the end of `ray.shutdown` ends the process
    with exit code 1. The collector runs in any thread that allocates, such as the MLflow sync.
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
    """How many trials the running cluster can run at once; at least one."""
    cluster_has = ray.cluster_resources()
    fits = cluster_has.get("CPU", 1) / (resources.cpus_per_worker * resources.num_workers)
    if resources.gpus_per_worker:
        fits = min(fits, cluster_has.get("GPU", 0) / (resources.gpus_per_worker * resources.num_workers))
    return max(int(fits), 1)


def _let_workers_cache_byte_code() -> None:
    """Give workers a byte code cache. If they cannot write byte code, they compile torch at every start."""
    if sys.dont_write_bytecode:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(Path.home() / ".cache" / "bat-sweeps" / "pycache"))
