"""Files on this machine's disks: written as a whole, or not at all."""

import os
from pathlib import Path

from bat_core.errors import InputError


def drop_torn_line(path: Path) -> None:
    """Cut off what a crash, or a full disk, left of a last line."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


def is_uri(text: str) -> bool:
    """Whether a person named a store, and not a folder."""
    return "://" in text


def cache() -> Path:
    """Where this node keeps what a store has: BAT_SWEEPS_CACHE, else a folder in the user's home."""
    return Path(os.environ.get("BAT_SWEEPS_CACHE") or Path.home() / ".cache" / "bat-sweeps") / "sweeps"


def refuse_if_used(folder: Path, spec: str, noun: str) -> None:
    """Raises InputError when the folder holds something already: `noun`, if `spec` lies in it."""
    try:
        if (folder / spec).exists():
            raise InputError(f"{str(folder)!r} holds {noun} already: go on with --resume, or name another --output")
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"output folder {str(folder)!r} is not empty: name another --output")
    except OSError as error:
        raise InputError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that readers find the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
