"""Keeps MLflow abreast of a sweep in the background; trouble with it never reaches the trials."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.engine.sweep import Sweep, SweepFolder

if TYPE_CHECKING:
    from sweeps.engine.mlflow_mirror import Mirror

INTERVAL = 3.0  # seconds between two looks at the records
NOISY = ("alembic", "mlflow", "mlflow.store.db.utils", "mlflow.utils.environment")


def tracking_uri() -> str:
    """The tracking server or database that MLFLOW_TRACKING_URI names, else MLflow's own default here."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path.cwd() / 'mlflow.db'}"


def why(error: Exception) -> str:
    """An error of MLflow's in one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"


def hush() -> None:
    """Silence MLflow's loggers; to be called after it is imported, which sets their levels."""
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


class Mirroring:
    """Mirrors one sweep to the tracking server that MLFLOW_TRACKING_URI names.

    Without that variable it is MLflow's own default, an SQLite file in the working folder.
    """

    def __init__(self, sweep: Sweep, folder: SweepFolder) -> None:
        self.uri = tracking_uri()
        self._sweep, self._folder = sweep, folder
        self._mirror: Mirror | None = None
        self._busy = threading.Lock()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Mirror every few seconds, in a thread of its own, while the body runs."""
        stop = threading.Event()

        def loop() -> None:
            while not stop.wait(INTERVAL):
                self.once()

        thread = threading.Thread(target=loop, name="mirror", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()

    def once(self) -> str | None:
        """Mirror what there is now. Returns None, or why MLflow did not take everything."""
        with self._busy:
            try:
                if self._mirror is None:
                    self._mirror = self._connect()
                self._mirror.sync()
            except Exception as error:
                return why(error)
            return None

    def _connect(self) -> "Mirror":
        from sweeps.engine.mlflow_mirror import Mirror  # noqa: PLC0415 (seconds to import)

        hush()
        return Mirror(self._sweep, self._folder, uri=self.uri)
