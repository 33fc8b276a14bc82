"""Lock files. The system releases them when the process ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from bat_core.errors import InputError
from bat_core.paths import Rooted, below, make_folder, open_lock


@contextlib.contextmanager
def exclusive(path: Rooted, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file at `path` during the body. The system releases it if the process dies.

    Raises:
        BlockingIOError: another process holds the lock and `wait` is false.
        InputError: the lock file is a link or not a regular file.
    """
    make_folder(Rooted(path.parent))
    with open_lock(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        _HELD.add(file)
        try:
            yield
        finally:
            _HELD.discard(file)


_HELD: set[IO[bytes]] = set()


def _release_in_child() -> None:
    """Close inherited locks. A forked process, such as a data loader, can outlive its parent by seconds."""
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def sole_driver(folder: Path, noun: str) -> Iterator[None]:
    """Make this process the only driver of the sweep or evaluation in a folder during the body.

    Raises:
        InputError: another process already drives it.
    """
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(below(folder, ".lock"), wait=False))
        except BlockingIOError as error:
            raise InputError(f"the {noun} in {str(folder)!r} is already running: wait for it, or stop it") from error
        yield
