"""Keeps MLflow abreast of a sweep in the background; trouble with it never reaches the trials."""

import contextlib
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.engine.cli.redact import redacted
from sweeps.engine.cli.text import relative
from sweeps.engine.storage.periodic import every
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Sweep

if TYPE_CHECKING:
    from sweeps.engine.tracking.sync import SweepSync

INTERVAL = 3.0  # seconds between two looks at the records
PATIENCE, PATIENCE_A_RUN = 60.0, 2.0  # seconds that the end of a sweep or evaluation waits for MLflow at most
LONGEST = 240  # characters of an error that are shown
NOISY = ("alembic", "mlflow", "mlflow.store.db.utils", "mlflow.utils.environment", "urllib3")


def tracking_uri() -> str:
    """The tracking server or database that MLFLOW_TRACKING_URI names, else MLflow's own default here."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def why(error: Exception) -> str:
    """An error of MLflow's in one line that shows no password."""
    said = redacted(" ".join(str(error).split())) or "no reason given"
    if len(said) > LONGEST:  # what was asked stands first, and why it came to nothing last
        said = f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"
    return f"{type(error).__name__}: {said}"


def quiet_mlflow() -> None:
    """Silence MLflow's loggers; to be called after it is imported, which sets their levels."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def time_limit(runs: int) -> float:
    """How many seconds to wait until so many runs are in MLflow; one takes a tenth of a second or two."""
    return PATIENCE + PATIENCE_A_RUN * runs


def failure_of(act: Callable[[], None], *, patience: float) -> str | None:
    """Do what needs MLflow, for at most `patience` seconds.

    A server that answers every request, but late, would otherwise hold up the end for hours. What is
    left undone then ends with this process, and the records still say it all.

    Returns:
        None, or in a few words why it was not done.
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
    return None if trouble is None else why(trouble)


class BackgroundSync:
    """Mirrors one sweep to the tracking server that MLFLOW_TRACKING_URI names.

    Without that variable it is MLflow's own default, an SQLite file in the working folder.
    """

    def __init__(self, sweep: Sweep, folder: SweepFolder) -> None:
        self.uri = tracking_uri()
        self._sweep, self._folder = sweep, folder
        self._mirror: SweepSync | None = None
        self._busy = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """SweepSync every few seconds, in a thread of its own, while the body runs."""

        def look() -> None:
            with contextlib.suppress(Exception):  # it is tried again, and `once` reports what remains
                self._sync()

        with every(INTERVAL, look, name="mlflow-sync", join=False):
            yield

    def once(self, *, patience: float | None = None) -> str | None:
        """SweepSync what there is now, for at most `patience` seconds (default: by the number of trials).

        Returns:
            None, or why MLflow did not take everything.
        """
        if patience is None:
            patience = time_limit(len(self._folder.trials(self._sweep)))
        return failure_of(self._sync, patience=patience)

    def _sync(self) -> None:
        with self._busy:
            if self._mirror is None:
                self._mirror = self._connect()
            self._mirror.sync()

    def _connect(self) -> "SweepSync":
        from sweeps.engine.tracking.sync import SweepSync  # noqa: PLC0415 (seconds to import)

        quiet_mlflow()
        return SweepSync(self._sweep, self._folder, uri=self.uri)


def how_to_open(uri: str) -> str:
    """What to type, or where to look, to see what MLflow has; without a password that is in the URI."""
    if uri.startswith("http"):
        return redacted(uri)
    if redacted(uri) != uri:
        uri = '"$MLFLOW_TRACKING_URI"'
    return f"{relative(Path(sys.executable))} -m mlflow ui --backend-store-uri {uri}, then http://127.0.0.1:5000"
