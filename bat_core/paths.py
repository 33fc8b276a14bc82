"""Paths made of names that may come from anyone, and the only calls that write, replace or remove files.

A folder may have been unpacked from a stranger's archive. `below` makes a path of names that it brings along and
refuses what leads out of it. What writes takes such a path only (`Rooted`, which mypy checks) and follows no link.
Reading opens regular files of a bounded size: a FIFO would block, and a sparse file would fill the memory.
"""

import errno
import fcntl
import fnmatch
import io
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NewType

from bat_core.errors import InputError, brief_repr

Rooted = NewType("Rooted", Path)

MAX_BYTES = 256 << 20  # of a file that is read whole
CHUNK = 1 << 20
LONGEST = 255  # bytes of a name on common file systems
DRIVE = re.compile(r"[A-Za-z]:")
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{number}" for port in ("COM", "LPT") for number in range(10))}
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
SHARED_FILE, SHARED_FOLDER = 0o660, 0o2770  # within a folder whose owner shares it with its group (chmod g+s)


def below(root: Path, *names: str) -> Rooted:
    """The path of `names` below `root`. Each name may have several parts, separated by slashes.

    Raises:
        InputError: a part is empty, `.` or `..`, is absolute, has a drive letter, a backslash, a control character
            or a name that is reserved for a device, or is a link that leads out of `root`.
    """
    path = root
    for name in names:
        for part in name.split("/"):
            _check_part(name, part)
            path = path / part
            if _is_link(path) and not _is_inside(path, root):
                raise InputError(f"{str(path)!r} is a link that leads out of {str(root)!r}: replace it with a copy")
    return Rooted(path)


def chosen(path: Path) -> Rooted:
    """A path that the user named on the command line, or that this program chose itself: never one from a file."""
    return Rooted(path)


def _check_part(name: str, part: str) -> None:
    if part in ("", ".", ".."):
        why = "an empty part" if not part else f"the part {part!r}"
    elif "\\" in part or DRIVE.match(part) or not part.isprintable():
        why = "a backslash, a drive letter or a control character"
    elif part.partition(".")[0].rstrip().upper() in DEVICES:
        why = f"the name of a device, {part!r}"
    elif len(os.fsencode(part)) > LONGEST:
        why = f"a part of more than {LONGEST} bytes"
    else:
        return
    raise InputError(f"the path {brief_repr(name)} has {why}: it must stay within its folder")


def _is_link(path: Path) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False  # what is done with the path says what is wrong with it


def _is_inside(path: Path, root: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading.

    Raises:
        InputError: it is a folder, a FIFO, a device, a socket, or a link that leads back to itself.
        OSError: it is missing or unreadable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError(f"{str(path)!r} is a link that leads back to itself: remove it") from error
        if error.errno == errno.ENXIO:
            raise InputError(f"{str(path)!r} is not a regular file: remove it") from error
        raise
    try:
        _check_regular(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def check_regular(path: Path) -> Path:
    """The path, which a library will open by itself.

    Raises:
        InputError: it is a folder, a FIFO, a device or a socket. Opening a FIFO could wait for ever.
        OSError: it is missing or unreadable.
    """
    open_regular(path).close()
    return path


def read_regular(path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises:
        InputError: it is not a regular file, or is larger.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        return read_open(file, path, limit=limit)


def read_open(file: IO[bytes], path: Path, *, limit: int = MAX_BYTES) -> bytes:
    """The rest of an open file that has at most `limit` bytes. `path` is for the error message.

    Raises:
        InputError: it is larger.
        OSError: it cannot be read.
    """
    if (size := os.fstat(file.fileno()).st_size) > limit:
        raise InputError(f"{str(path)!r} has {size} bytes: this program writes at most {limit} there")
    content = file.read(limit + 1)
    if len(content) > limit:
        raise InputError(f"{str(path)!r} has more than {limit} bytes: this program writes no such file")
    return content


@contextmanager
def atomic_file(path: Rooted) -> Iterator[IO[bytes]]:
    """Write a file atomically: readers see either the old content or, after the body, the new.

    The temporary file beside it has a random name and is created anew, so no link is followed. A file that is
    replaced passes on its permissions; a new one is private to its owner, or shared like its folder.
    """
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.fdopen(os.open(partial, flags, PRIVATE_FILE), "wb")
    try:
        with file:
            os.fchmod(file.fileno(), _file_mode(path))
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except IsADirectoryError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{str(path)!r} is a folder, and a file belongs there: remove it") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_atomically(path: Rooted, content: str | bytes) -> None:
    """Write a small file atomically. See `atomic_file`."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def append_to(path: Rooted) -> IO[bytes]:
    """Open a file for unbuffered appending, private to its owner if it is new.

    A file that has a second name (a hard link) is replaced by a copy first: the other name keeps its content.

    Raises:
        InputError: it is a link or not a regular file.
    """
    descriptor = _open_own(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    if os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        copy_file(path, path)
        descriptor = _open_own(path, os.O_WRONLY | os.O_APPEND)
    return os.fdopen(descriptor, "ab", buffering=0)


def open_lock(path: Rooted) -> IO[bytes]:
    """Open a lock file, which is created but never written.

    Raises:
        InputError: it is a link or not a regular file.
    """
    return os.fdopen(_open_own(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)


def _open_own(path: Rooted, flags: int) -> int:
    """A descriptor of a regular file that is opened itself, not through a link."""
    new = not os.path.lexists(path)
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise InputError(f"{str(path)!r} is a link, and it is not followed: replace it with a copy") from error
        if error.errno in (errno.ENXIO, errno.EISDIR):  # a FIFO that nobody reads, a folder
            raise InputError(f"{str(path)!r} is not a regular file: remove it") from error
        raise
    try:
        _check_regular(descriptor, path)
        if new and (mode := _file_mode(path, new=True)) != PRIVATE_FILE:
            os.fchmod(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_regular(descriptor: int, path: Path) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise InputError(f"{str(path)!r} is not a regular file: remove it")
    fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) & ~os.O_NONBLOCK)


def drop_torn_line(path: Rooted) -> None:
    """Truncate an incomplete last line, as a crash or a full disk leaves it."""
    try:
        with open_regular(path) as file:
            end = file.seek(0, os.SEEK_END)
            complete = _end_of_last_line(file, end)
    except FileNotFoundError:
        return
    if complete < end:
        with append_to(path) as file:
            file.truncate(complete)


def _end_of_last_line(file: IO[bytes], end: int) -> int:
    """The position after the last line break, searched backwards: the file may be large."""
    while end > 0:
        start = max(end - CHUNK, 0)
        file.seek(start)
        if (found := file.read(end - start).rfind(b"\n")) >= 0:
            return start + found + 1
        end = start
    return 0


def make_folder(path: Rooted, *, parents: bool = True) -> None:
    """Create a folder, private to its owner or shared like the folder above it. An existing one stays as it is.

    `parents` creates the missing folders above it too.

    Raises:
        InputError: a file is in its place.
    """
    missing = [path]
    while parents and not missing[-1].parent.is_dir() and missing[-1].parent != missing[-1]:
        missing.append(Rooted(missing[-1].parent))
    for folder in reversed(missing):
        mode = SHARED_FOLDER if _is_shared(folder.parent) else PRIVATE_FOLDER
        try:
            folder.mkdir(mode=PRIVATE_FOLDER)
        except FileExistsError as error:
            if not folder.is_dir():
                raise InputError(
                    f"{str(folder)!r} is not a folder, and one belongs there: remove it, or name another place"
                ) from error
        else:
            if mode != PRIVATE_FOLDER:
                folder.chmod(mode)


@contextmanager
def new_folder(path: Rooted) -> Iterator[Rooted]:
    """Write a folder atomically: an existing one is replaced after the body, by what the body wrote into the new one.

    Only one process may write it at a time. The folder above must exist.
    """
    partial = Rooted(path.with_name(f".{path.name}.partial"))
    remove(partial)
    make_folder(partial, parents=False)
    yield partial
    remove(path)
    partial.replace(path)
    sync(path.parent)


def remove(path: Rooted) -> None:
    """Remove a file, a link (not what it points to) or a folder with all that it holds. Nothing may be there."""
    try:
        path.unlink()
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):  # what Linux and others say of a folder
        shutil.rmtree(path)


def remove_partial_files(folder: Path, *, but: str | None = None) -> None:
    """Remove the temporary files that killed writers left in a folder and below it, except in its subfolder `but`."""
    for place, folders, files in os.walk(folder):
        if but in folders and Path(place) == folder:
            folders.remove(but)  # it is not even listed: it may hold thousands of trials
        for name in fnmatch.filter([*folders, *files], ".*.partial"):
            remove(Rooted(Path(place, name)))


def remove_empty(path: Rooted) -> None:
    """Remove a folder if it is empty."""
    if path.is_dir() and not any(path.iterdir()):
        path.rmdir()


def copy_file(source: Path, target: Rooted) -> None:
    """Copy a regular file atomically."""
    with open_regular(source) as read, atomic_file(target) as written:
        shutil.copyfileobj(read, written, CHUNK)


def copy_folder(source: Path, target: Rooted) -> None:
    """Copy the regular files of a folder without its subfolders, replacing an existing one."""
    with new_folder(target) as folder:
        for file in sorted(source.iterdir()):
            copy_file(below(source, file.name), below(folder, file.name))


def make_private(path: Rooted) -> None:
    """Create an empty file that only its owner may read, for a library that will open it by its name."""
    append_to(path).close()


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_mode(path: Path, *, new: bool = False) -> int:
    """The permissions of a file: those it has already, else its folder's choice."""
    if not new:
        try:
            known = os.lstat(path).st_mode
        except OSError:
            known = 0
        if stat.S_ISREG(known):
            return stat.S_IMODE(known) & 0o777
    return SHARED_FILE if _is_shared(path.parent) else PRIVATE_FILE


def _is_shared(folder: Path) -> bool:
    """Whether the owner of a folder shares it with its group: write permission and the set-group-ID bit."""
    mode = folder.stat().st_mode
    return bool(mode & stat.S_ISGID and mode & stat.S_IWGRP)
