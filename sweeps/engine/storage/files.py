"""Places on local disks: the cache, output folders that must be new, and how a path is shown."""

import contextlib
import os
import shlex
import tempfile
from pathlib import Path

from bat_core.errors import InputError
from bat_core.paths import below, chosen, make_folder


def is_uri(text: str) -> bool:
    """Whether the text is a URI rather than a local path."""
    return "://" in text


def cache() -> Path:
    """This node's cache folder for sweeps, in `user_cache`."""
    return user_cache() / "sweeps"


def user_cache() -> Path:
    """This user's cache folder on this node: $BAT_SWEEPS_CACHE, else ~/.cache/bat-sweeps, else one for temporary files.

    The last is for users who have no home folder or cannot write there.
    """
    if given := os.environ.get("BAT_SWEEPS_CACHE"):
        return Path(given)
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: the user has no home folder
        folder = Path.home() / ".cache" / "bat-sweeps"
        make_folder(chosen(folder))
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    folder = chosen(Path(tempfile.gettempdir()) / f"bat-sweeps-{os.getuid()}")
    make_folder(folder)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise InputError(f"the cache folder {str(folder)!r} belongs to somebody else: set BAT_SWEEPS_CACHE")
    return folder


def relative(path: Path) -> str:
    """The path relative to the working folder if it lies inside it, else unchanged."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def pasted(path: Path) -> str:
    """A path as one word of a shell command: relative where it can be, and quoted."""
    return shlex.quote(unquoted(path))


def unquoted(path: Path) -> str:
    """A path as a word of a command, before quoting: relative where it can be, and never an option."""
    word = relative(path)
    return f"./{word}" if word.startswith("-") else word


def refuse_if_used(folder: Path, spec: str, noun: str) -> None:
    """Check that an output folder is missing or empty.

    Args:
        spec: the file whose presence shows that the folder contains a `noun`.
        noun: for the message, such as "a sweep".
    Raises:
        InputError: the folder is not empty, or cannot be accessed.
    """
    try:
        if os.path.lexists(below(folder, spec)):
            raise InputError(f"{str(folder)!r} already contains {noun}: use --resume, or another --output")
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"output folder {str(folder)!r} is not empty: use another --output")
    except OSError as error:
        raise InputError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error
