"""Mirrors a sweep to MLflow in the background. MLflow errors never affect the trials."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bat_core.errors import InputError
from sweeps.engine.cli.redact import redacted
from sweeps.engine.storage.periodic import every
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Sweep
from sweeps.engine.tracking.location import prepare, tracking_uri

if TYPE_CHECKING:
    from sweeps.engine.tracking.sync import SweepSync

INTERVAL = 3.0  # seconds between syncs
PATIENCE, PATIENCE_A_RUN = 60.0, 2.0  # maximum wait for MLflow at the end, in seconds: base, and per run
MAX_ERROR_LENGTH = 240  # characters of an error that are shown
NOISY = ("alembic", "mlflow", "mlflow.store.db.utils", "mlflow.utils.environment", "urllib3")


def describe_error(error: Exception) -> str:
    """An MLflow error in one line, without passwords."""
    message = redacted(" ".join(str(error).split())) or "no reason given"
    if isinstance(error, InputError):  # our own sentence, which no cut may spoil
        return message
    if len(message) > MAX_ERROR_LENGTH:  # the request comes first and the cause last
        message = f"{message[: MAX_ERROR_LENGTH // 2]} ... {message[-MAX_ERROR_LENGTH // 2 :]}"
    return f"{type(error).__name__}: {message}"


def quiet_mlflow() -> None:
    """Silence MLflow's loggers. Call this after importing MLflow, since the import sets their levels."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def time_limit(runs: int) -> float:
    """How many seconds to wait for this many runs to reach MLflow. One usually takes 0.1 to 0.2 seconds."""
    return PATIENCE + PATIENCE_A_RUN * runs


def failure_of(act: Callable[[], None], *, patience: float) -> str | None:
    """Call `act`, which uses MLflow, and wait for at most `patience` seconds.

    Otherwise a slow server could delay the end for hours. Unfinished work stops with this process; the records
    remain complete.

    Returns:
        None on success, else a short reason.
    """
    ended: queue.Queue[Exception | None] = queue.Queue()

    def run() -> None:
        try:
            act()
        except Exception as error:
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=run, name="mlflow", daemon=True).start()
    try:
        trouble = ended.get(timeout=patience)
    except queue.Empty:
        return f"it was not done within {patience:g} s"
    return None if trouble is None else describe_error(trouble)


class BackgroundSync:
    """Mirrors one sweep to the tracking server that MLFLOW_TRACKING_URI names.

    Without that variable it uses an SQLite file in the working folder.
    """

    def __init__(self, sweep: Sweep, folder: SweepFolder) -> None:
        self.uri = tracking_uri()
        self._sweep, self._folder = sweep, folder
        self._mirror: SweepSync | None = None
        self._link = ""
        self._busy = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sync every few seconds in a background thread while the body runs."""

        def sync() -> None:
            with contextlib.suppress(Exception):  # the next sync retries, and `once` reports lasting errors
                self._sync()

        with every(INTERVAL, sync, name="mlflow-sync", join=False):
            yield

    def once(self, *, patience: float | None = None) -> str | None:
        """Sync now, for at most `patience` seconds (default: depends on the number of trials).

        Returns:
            None on success, else why the sync is incomplete.
        """
        if patience is None:
            patience = time_limit(len(self._folder.trials(self._sweep)))
        return failure_of(self._sync, patience=patience)

    @property
    def link(self) -> str:
        """The part of a link behind the server's address that opens the leaderboard; empty before the first sync."""
        return self._link

    def _sync(self) -> None:
        with self._busy:
            if self._mirror is None:
                self._mirror = self._connect()
            self._mirror.sync()
            self._link = self._mirror.leaderboard()

    def _connect(self) -> "SweepSync":
        prepare(self.uri)
        from sweeps.engine.tracking.sync import SweepSync

        quiet_mlflow()
        return SweepSync(self._sweep, self._folder, uri=self.uri)
