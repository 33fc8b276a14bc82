"""Leaves no trace of a new sweep or evaluation that could not start, so that the same command can be typed again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bat_core.errors import InputError
from bat_core.paths import chosen, remove, remove_empty
from sweeps.engine.storage.files import pasted


class NothingStartedError(InputError):
    """What runs the work did not start, so none of it has begun."""


@contextmanager
def undone_if_not_started(
    folder: Path, *, new: bool, started: Callable[[], bool], undo: Callable[[], None]
) -> Iterator[None]:
    """If the body raises NothingStartedError, empty the folder of new work of which nothing has begun.

    Args:
        folder: made or found empty by this process if `new`.
        started: whether any of the work has begun.
        undo: removes what was written elsewhere.
    Raises:
        NothingStartedError: with the remedy.
    """
    try:
        yield
    except NothingStartedError as error:
        if not new:
            raise NothingStartedError(f"{error}; then type the same command again") from error
        if started():
            raise NothingStartedError(f"{error}; then resume with --resume {pasted(folder)}") from error
        undo()
        for path in folder.iterdir():
            remove(chosen(path))  # a link is removed, and what it points to is not
        with suppress(OSError):  # such as a mount point
            remove_empty(chosen(folder))
        raise NothingStartedError(f"{error}; nothing was kept: type the same command again") from error
