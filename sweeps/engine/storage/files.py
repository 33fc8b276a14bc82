"""Files on local disks, written atomically."""

import os
from pathlib import Path

from bat_core.errors import InputError


def drop_torn_line(path: Path) -> None:
    """Truncate an incomplete last line, as a crash or a full disk leaves it."""
    if not path.exists():
        return
    content = path.read_bytes()
    complete = content.rfind(b"\n") + 1
    if complete < len(content):
        os.truncate(path, complete)


def is_uri(text: str) -> bool:
    """Whether the text is a URI rather than a local path."""
    return "://" in text


def cache() -> Path:
    """This node's cache folder: $BAT_SWEEPS_CACHE/sweeps, else ~/.cache/bat-sweeps/sweeps."""
    return Path(os.environ.get("BAT_SWEEPS_CACHE") or Path.home() / ".cache" / "bat-sweeps") / "sweeps"


def refuse_if_used(folder: Path, spec: str, noun: str) -> None:
    """Check that an output folder is missing or empty.

    Args:
        spec: the file whose presence shows that the folder contains a `noun`.
        noun: for the message, such as "a sweep".
    Raises:
        InputError: the folder is not empty, or cannot be accessed.
    """
    try:
        if (folder / spec).exists():
            raise InputError(f"{str(folder)!r} already contains {noun}: use --resume, or another --output")
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"output folder {str(folder)!r} is not empty: use another --output")
    except OSError as error:
        raise InputError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file atomically: readers see either the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
