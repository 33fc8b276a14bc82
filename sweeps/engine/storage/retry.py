"""Retry failing storage with exponential backoff, then report the failure in one sentence."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

PATIENCE = 60.0  # seconds to retry one read or write before its trial fails
FIRST_WAIT, LONGEST_WAIT = 0.2, 8.0  # seconds between attempts
VARIABLE = "BAT_SWEEPS_STORAGE_PATIENCE"  # overrides PATIENCE

FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE}  # errors that always come from storage
RESUME_HINT = "when the storage works again, use --resume"

Result = TypeVar("Result")


class StorageError(OSError):
    """Storage still failed after all retries. The message is one sentence that says what failed, and where."""

    def __str__(self) -> str:
        return str(self.args[0])


class TakenOverError(StorageError):
    """Another process has taken over the files that this one writes. This one must stop."""


def retry_storage(
    action: Callable[[], Result], what: str, where: str | Path, *, seconds: float | None = None
) -> Result:
    """Call `action`, retrying while storage fails, and return its result.

    Args:
        what: what failed, for the error message, such as "the checkpoint cannot be written".
        where: the folder or store, for the error message.
        seconds: how long to retry. Default: `patience()`.
    Raises:
        StorageError: the action still raised an OSError after that time.
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
        hint = f", for {patience():g} seconds; {RESUME_HINT}" if seconds is None else ""
        raise StorageError(f"{what} in {str(where)!r}: {reason(error)}{hint}") from error


def patience() -> float:
    """How many seconds to retry failing storage."""
    return float(os.environ.get(VARIABLE, PATIENCE))


def reason(error: OSError) -> str:
    """Why storage failed, in one line: the system's message or the library's."""
    message = error.strerror or str(error)
    return message.splitlines()[0].partition(" (Request ID")[0] if message else type(error).__name__
