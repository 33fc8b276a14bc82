"""Lock files, held by a process and let go when it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from bat_core.errors import InputError


@contextlib.contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file at `path`; it is let go when the process ends, however it ends.

    Raises:
        BlockingIOError: someone else holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        _HELD.add(file)
        try:
            yield
        finally:
            _HELD.discard(file)


_HELD: set[IO[str]] = set()


def _let_go() -> None:
    """A forked process, as a data loader's, may outlive its parent for seconds; the parent's locks must not."""
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def sole_driver(folder: Path, noun: str) -> Iterator[None]:
    """One process at a time drives the sweep or evaluation in a folder.

    Raises:
        InputError: another does.
    """
    with ExitStack() as held:
        try:
            held.enter_context(exclusive(folder / ".lock", wait=False))
        except BlockingIOError as error:
            raise InputError(f"the {noun} in {str(folder)!r} is running already") from error
        yield
