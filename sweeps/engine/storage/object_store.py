"""Files by key in an object store (`s3://`) or a folder that is mounted elsewhere: pushed whole, pulled whole."""

import contextlib
import errno
import functools
import os
import secrets
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from pyarrow import fs

from bat_core.checkpoint import sync
from bat_core.errors import InputError
from sweeps.engine.storage.files import is_uri
from sweeps.engine.storage.retry import reason, retry_storage

SCHEMES = ("s3://", "file://")
CHUNK = 8 << 20  # bytes that are copied at once
CONNECT_TIMEOUT, REQUEST_TIMEOUT = 5.0, 30.0  # seconds

Result = TypeVar("Result")


@dataclass(frozen=True)
class Stored:
    """One file of a store: its key, and what tells that it has changed."""

    key: str
    size: int
    changed: int  # nanoseconds since 1970, by the store's clock


@dataclass(frozen=True)
class Storage:
    """The files below a URI. A file is there whole or not at all; there is no rename and no lock.

    Every call waits for storage that fails (`retry_storage`, for `patience` seconds), and then raises StorageError.
    """

    uri: str
    below: str = ""
    patience: float | None = None

    @classmethod
    def at(cls, uri: str) -> "Storage":
        """The store that a person named.

        Raises:
            InputError: there is none, or it cannot be reached.
        """
        if "@" in urlsplit(uri).netloc:
            raise InputError("--storage-path holds a password: leave it to AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        store = cls(uri if is_uri(uri) else Path(uri).absolute().as_uri())
        try:
            system, root = _connect(store.uri)
            if isinstance(system, fs.LocalFileSystem):
                system.create_dir(root, recursive=True)
            with contextlib.suppress(FileNotFoundError):  # of a bucket that is there
                system.get_file_info(fs.FileSelector(root))
        except (OSError, ValueError) as error:
            said = reason(error) if isinstance(error, OSError) else error
            raise InputError(f"--storage-path {uri!r} cannot be used: {said}") from error
        return store

    def under(self, key: str) -> "Storage":
        """The part of the store whose keys begin with `key`."""
        return replace(self, below=self._key(key))

    @property
    def name(self) -> str:
        """The last part of where the store lies."""
        return urlsplit(self.uri).path.rstrip("/").rpartition("/")[2] or urlsplit(self.uri).netloc

    def __str__(self) -> str:
        return "/".join(filter(None, (self.uri.partition("?")[0].rstrip("/"), self.below)))

    def push(self, source: Path, key: str) -> None:
        """Keep a copy of the file `source`, in place of what was there."""

        def copy(system: fs.FileSystem, path: str) -> None:
            if isinstance(system, fs.LocalFileSystem):
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                _copy_whole(system, str(source), Path(path))
            else:
                _copy(fs.LocalFileSystem(), str(source), system, path)

        self._patiently(copy, key, "cannot be written")

    def write(self, content: str, key: str) -> None:
        """Keep a small file of this content, in place of what was there."""
        with tempfile.NamedTemporaryFile("w") as file:
            file.write(content)
            file.flush()
            self.push(Path(file.name), key)

    def pull(self, key: str, target: Path) -> None:
        """Copy a file into the folder of `target`, which readers find as it was or as it is, never a part."""

        def copy(system: fs.FileSystem, path: str) -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy_whole(system, path, target)

        self._patiently(copy, key, "cannot be read")

    def read(self, key: str) -> bytes:
        """A small file's content."""

        def read(system: fs.FileSystem, path: str) -> bytes:
            with system.open_input_file(path) as file:
                return bytes(file.read())

        return self._patiently(read, key, "cannot be read")

    def files(self, key: str = "") -> list[Stored]:
        """All files whose keys begin with `key/`, in the order of their keys; with none, none."""

        def look(system: fs.FileSystem, path: str) -> list[Stored]:
            files = [info for info in _listed(system, path, recursive=True) if info.type == fs.FileType.File]
            root = self._path(_connect(self.uri)[1], "")
            return sorted(
                (
                    Stored(info.path.removeprefix(root).lstrip("/"), info.size, info.mtime_ns or 0)
                    for info in files
                    if not info.base_name.startswith(".")
                ),
                key=lambda stored: stored.key,
            )

        return self._patiently(look, key, "cannot be listed")

    def names(self, key: str = "") -> list[str]:
        """What lies directly under `key`: files and folders, by name, sorted."""

        def look(system: fs.FileSystem, path: str) -> list[str]:
            return sorted(info.base_name for info in _listed(system, path) if not info.base_name.startswith("."))

        return self._patiently(look, key, "cannot be listed")

    def exists(self, key: str) -> bool:
        """Whether there is a file of that key."""
        return self._patiently(
            lambda system, path: bool(system.get_file_info(path).type == fs.FileType.File), key, "cannot be looked for"
        )

    def drop(self, key: str) -> None:
        """Remove a file, or all files below; what is not there is none to remove."""

        def remove(system: fs.FileSystem, path: str) -> None:
            kind = system.get_file_info(path).type
            if kind == fs.FileType.File:
                system.delete_file(path)
            elif kind == fs.FileType.Directory:
                system.delete_dir(path)

        self._patiently(remove, key, "cannot be removed")

    def _patiently(self, action: Callable[[fs.FileSystem, str], Result], key: str, failed: str) -> Result:
        def act() -> Result:
            system, root = _connect(self.uri)
            if isinstance(system, fs.LocalFileSystem) and not Path(root).is_dir():
                raise FileNotFoundError(errno.ENOENT, "the folder is not there: is it mounted?", root)
            return action(system, self._path(root, key))

        return retry_storage(act, f"{key or 'the store'} {failed}", str(self), seconds=self.patience)

    def _key(self, key: str) -> str:
        return "/".join(filter(None, (self.below, key)))

    def _path(self, root: str, key: str) -> str:
        return "/".join(filter(None, (root.rstrip("/"), self._key(key))))


@functools.lru_cache
def _connect(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path in it. Trying again is left to `retry_storage`, which says what it waits for."""
    if not uri.startswith(SCHEMES):
        raise ValueError(f"write {' or '.join(SCHEMES)}, or a folder")
    system, path = fs.FileSystem.from_uri(uri)
    if not isinstance(system, fs.S3FileSystem):
        return system, path
    said = {name: values[-1] for name, values in parse_qs(urlsplit(uri).query).items()}
    scheme, _, endpoint = os.environ.get("AWS_ENDPOINT_URL", "https://").partition("://")
    return (
        fs.S3FileSystem(
            region=system.region,
            endpoint_override=said.get("endpoint_override") or endpoint or None,
            scheme=said.get("scheme") or scheme,
            allow_delayed_open=True,  # a small file is one request
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
            connect_timeout=CONNECT_TIMEOUT,
            request_timeout=REQUEST_TIMEOUT,
        ),
        path,
    )


def _listed(system: fs.FileSystem, path: str, *, recursive: bool = False) -> list[fs.FileInfo]:
    try:
        return list(system.get_file_info(fs.FileSelector(path, recursive=recursive)))
    except FileNotFoundError:
        return []


def _copy(source: fs.FileSystem, path: str, target: fs.FileSystem, to: str) -> None:
    """Copy one file. (`fs.copy_files` keeps to itself that a server was away when the last of it was sent.)"""
    with source.open_input_stream(path) as file:
        chunk = file.read(CHUNK)
        out = target.open_output_stream(to)
        while chunk:
            out.write(chunk)
            chunk = file.read(CHUNK)
        out.close()


def _copy_whole(source: fs.FileSystem, path: str, target: Path) -> None:
    """Copy beside the target, then rename."""
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        _copy(source, path, fs.LocalFileSystem(), str(partial))
        sync(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
