"""Storage that fails is tried again for a while, ever more rarely; what fails for longer is said in one sentence."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

PATIENCE = 60.0  # seconds that one write or read is tried for, before its trial fails
FIRST_WAIT, LONGEST_WAIT = 0.2, 8.0  # seconds between two tries
VARIABLE = "BAT_SWEEPS_STORAGE_PATIENCE"  # other seconds than PATIENCE

FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}  # of storage, whoever meets them
LATER = "when the storage is well again, go on with --resume"

Result = TypeVar("Result")


class StorageError(OSError):
    """Storage failed for longer than it was waited for. Its text is one sentence that names what and where."""

    def __str__(self) -> str:
        return str(self.args[0])


class TakenOverError(StorageError):
    """Another process writes now what this one wrote, which must stop."""


def retry_storage(
    action: Callable[[], Result], what: str, where: str | Path, *, seconds: float | None = None
) -> Result:
    """What `action` returns, tried again while storage fails.

    Args:
        what: what it does, for the error's sentence: "the checkpoint cannot be written".
        seconds: for how long it is tried. Default: `patience()`.
    Raises:
        StorageError: it failed with an OSError for so long.
    """
    tries = Retrying(
        stop=stop_after_delay(patience() if seconds is None else seconds),
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        retry=retry_if_exception(lambda error: isinstance(error, OSError) and not isinstance(error, StorageError)),
        reraise=True,
    )
    try:
        return tries(action)
    except StorageError:
        raise
    except OSError as error:
        later = f", for {patience():g} seconds; {LATER}" if seconds is None else ""
        raise StorageError(f"{what} in {str(where)!r}: {reason(error)}{later}") from error


def patience() -> float:
    """How many seconds failing storage is waited for."""
    return float(os.environ.get(VARIABLE, PATIENCE))


def reason(error: OSError) -> str:
    """Why storage failed, in one line: the system's words, or those of the library that spoke for it."""
    said = error.strerror or str(error)
    return said.splitlines()[0].partition(" (Request ID")[0] if said else type(error).__name__
