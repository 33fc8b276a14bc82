"""Starts Ray on this machine: a temporary folder that its sockets fit into, enough file descriptors, a free port.

Private names of Ray are not used here: the session's layout below is checked by a test that starts Ray.
"""

import logging
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray

from bat_core.environment import environment
from sweeps.engine.storage.undo import NothingStartedError

LOOPBACK = "127.0.0.1"
FIRST_PORT, DASHBOARDS = 8265, 100  # ports to try, one per cluster on a machine
API_SERVER = "RAY_API_SERVER_ADDRESS"  # where Ray's processes look for the dashboard
SOCKET_LIMIT = 107  # bytes of a Unix socket's path
SOCKET = "/ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"  # in a temporary folder; the longest
DESCRIPTORS = 65536  # open files that Ray's documentation asks for, if the system allows as many
CAUSE_LENGTH = 240  # characters of Ray's own words that are shown


def start_ray(variables: Mapping[str, str]) -> Any:
    """Start a cluster on this machine whose processes know its dashboard's address and have these `variables`.

    Ray Train asks the dashboard whether a trial's controller is alive, and ends the trial's workers if not. Without an
    address it asks the first cluster it finds. If that belongs to another sweep, it does not know this one's trials.

    Raises:
        NothingStartedError: Ray did not start, or not in time.
    """
    allow_open_files()
    folder = temporary_folder()
    port = dashboard_port()
    with (
        environment({API_SERVER: f"http://{LOOPBACK}:{port}", **variables}),
        named_failures("Ray did not start", folder),
    ):
        return ray.init(
            address="local",
            include_dashboard=True,
            dashboard_host=LOOPBACK,
            dashboard_port=port,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder / "ray"),
        )


@contextmanager
def named_failures(what: str, folder: Path | None = None) -> Iterator[None]:
    """Turn whatever Ray raises in the body into one sentence with the place of its logs, and stop what has started.

    Raises:
        NothingStartedError: the body raised an exception.
    """
    try:
        yield
    except Exception as error:
        with suppress(Exception):
            ray.shutdown()
        words = " ".join(str(error).split()) or "no reason given"
        cause = words if len(words) <= CAUSE_LENGTH else f"{words[:CAUSE_LENGTH]} ..."
        logs = _logs(folder) if folder else ""
        raise NothingStartedError(f"{what} ({type(error).__name__}: {cause.rstrip('.')}){logs}") from error


def _logs(folder: Path) -> str:
    """Where the logs of this process's newest session are; without one, where Ray meant to make its folder."""
    sessions = sorted((folder / "ray").glob(f"session_*_{os.getpid()}"))
    if sessions:
        return f"; its logs are in {str(sessions[-1] / 'logs')!r}"
    return f"; its folder was to be {str(folder / 'ray')!r}"


def temporary_folder() -> Path:
    """Where Ray shall make its folder `ray`: RAY_TMPDIR, TMPDIR or /tmp, unless Ray's sockets do not fit there."""
    name = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    wanted = Path(os.environ.get(name) or "/tmp").absolute()  # noqa: S108 (as Ray)
    if _fits(wanted):
        return wanted
    shorter = short_folder()
    print(
        f"warning: {name or 'the folder'} {str(wanted)!r} is too long for Ray, whose sockets' paths may have"
        f" {SOCKET_LIMIT} bytes: Ray uses {str(shorter)!r}",
        file=sys.stderr,
    )
    return shorter


def short_folder() -> Path:
    """A new folder of this user's with a short name.

    Raises:
        NothingStartedError: no folder with a short name can be written.
    """
    for place in ("/tmp", "/var/tmp", "/dev/shm", str(Path("~").expanduser())):  # noqa: S108 (mkdtemp is private)
        with suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="ray-", dir=place))
            if _fits(folder):
                return folder
            folder.rmdir()
    raise NothingStartedError(
        f"Ray did not start: its sockets' paths may have {SOCKET_LIMIT} bytes, and no folder with a short name can be"
        " written: name one by RAY_TMPDIR"
    )


def _fits(folder: Path) -> bool:
    return len(os.fsencode(f"{folder}{SOCKET.format(pid=os.getpid())}")) <= SOCKET_LIMIT


def allow_open_files() -> None:
    """Raise this process's limit of open files, which Ray's processes inherit, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def dashboard_port() -> int:
    """A free port. The first candidate depends on the process, so that concurrent sweeps do not collide.

    Raises:
        NothingStartedError: all are in use.
    """
    for turn in range(DASHBOARDS):
        port = FIRST_PORT + (os.getpid() + turn) % DASHBOARDS
        with socket.socket() as query, suppress(OSError):
            query.bind((LOOPBACK, port))
            return port
    raise NothingStartedError(f"no free port for Ray's dashboard from {FIRST_PORT} on: {DASHBOARDS} are in use")
