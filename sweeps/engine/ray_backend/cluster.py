"""Finds, joins, starts and leaves a Ray cluster."""

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder
from pathlib import Path

import ray
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import AuthenticationError, RuntimeEnvSetupError

import bat_core
import search_spaces
import sweeps
from bat_core.errors import InputError
from bat_core.user_modules import import_roots, user_files
from sweeps.engine.ray_backend.start import named_failures, start_ray
from sweeps.engine.storage.files import user_cache
from sweeps.engine.storage.undo import NothingStartedError
from sweeps.engine.sweep.spec import Resources

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
        NothingStartedError: Ray, or its dashboard, without which stopped trials do not release their resources,
            did not start; or the cluster at `address` cannot be reached or requires a token.
        InputError: the working folder has a package named like one of this project's.
    """
    refuse_namesakes()
    _let_workers_cache_byte_code()
    if address:
        # Every node runs the driver's code instead of its installed version, and gets the user's modules.
        code = {
            "py_modules": [*PACKAGES, *map(str, user_files().values())],
            "env_vars": {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(NODE_START)},
        }
        try:
            with named_failures(f"the Ray cluster at {address} cannot be joined"):
                context = ray.init(address=address, runtime_env=code, log_to_driver=False)
        except NothingStartedError as error:
            cause = error.__cause__
            if isinstance(cause, RuntimeEnvSetupError) and user_files():
                raise NothingStartedError(f"{error}; keep data and results out of the user's package") from error
            if not isinstance(cause, ConnectionError | AuthenticationError):
                raise
            first = str(cause).partition(". ")[0]
            raise NothingStartedError(
                f"{first}: start it or use --address local; if it is running, it requires RAY_AUTH_MODE=token"
                " and its token in ~/.ray/auth_token"
            ) from error
    else:
        context = start_ray(_import_path())
    try:
        if not context.dashboard_url:
            raise NothingStartedError(
                "Ray's dashboard is off, so stopped trials would keep their resources: install ray[default]"
            )
        yield
    finally:
        _leave()


def _import_path() -> dict[str, str]:
    """PYTHONPATH with which workers import what this process does: they work in other folders and orders."""
    given = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    entries = [*map(str, import_roots()), *map(os.path.abspath, given)]
    return {"PYTHONPATH": os.pathsep.join(dict.fromkeys(entries))} if entries else {}


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


def refuse_namesakes() -> None:
    """Check that Ray's processes, which look for modules in the working folder first, find this project's packages.

    Raises:
        InputError: the working folder has a module or a package (with `__init__.py`) of the same name.
    """
    here = Path.cwd()
    for package in (bat_core, search_spaces, sweeps):
        name = package.__name__
        found = PathFinder.find_spec(name, [str(here)])
        if found and found.origin and not Path(found.origin).samefile(package.__file__ or ""):
            raise InputError(
                f"the working folder has a module {name!r} ({found.origin!r}), which Ray's processes would import in"
                f" place of bat-sweeps' own: run the command in another folder, or rename it"
            )


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
        os.environ.setdefault("PYTHONPYCACHEPREFIX", str(user_cache() / "pycache"))
