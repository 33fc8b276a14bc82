"""Files by key, in an object store (`s3://`) or a shared folder. Every push and pull is atomic."""

import contextlib
import errno
import functools
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TypeVar
from urllib.parse import parse_qs, urlsplit

from pyarrow import fs

from bat_core.errors import InputError
from bat_core.paths import CHUNK, Rooted, atomic_file, below, chosen, make_folder, open_regular, remove
from sweeps.engine.storage.files import is_uri
from sweeps.engine.storage.retry import reason, retry_storage

SCHEMES = ("s3://", "file://")
MAX_SMALL = 256 << 20  # bytes of a file that is read whole
THREADS = 16  # requests at once
CONNECT_TIMEOUT, REQUEST_TIMEOUT = 5.0, 30.0  # seconds

Result = TypeVar("Result")
Item = TypeVar("Item")
Source = TypeVar("Source")


@dataclass(frozen=True)
class Stored:
    """A file in a store: its key, and the size and time that show whether it has changed."""

    key: str
    size: int
    changed: int  # nanoseconds since 1970 by the store's clock


@dataclass(frozen=True)
class Storage:
    """The files under a URI. Writes are atomic; renames and locks are not available.

    Every call retries failing storage (`retry_storage`, for `patience` seconds) and then raises StorageError.
    """

    uri: str
    below: str = ""
    patience: float | None = None

    @classmethod
    def at(cls, uri: str) -> "Storage":
        """The store at a URI or folder that the user named.

        Raises:
            InputError: the store does not exist or cannot be reached.
        """
        if "@" in urlsplit(uri).netloc:
            raise InputError("--storage-path contains a password: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        store = cls(uri if is_uri(uri) else Path(uri).absolute().as_uri())
        try:
            system, root = _connect(store.uri)
            if isinstance(system, fs.LocalFileSystem):
                make_folder(chosen(Path(root)))
            with contextlib.suppress(FileNotFoundError):  # the bucket exists but is empty
                system.get_file_info(fs.FileSelector(root))
        except (OSError, ValueError) as error:
            cause = reason(error) if isinstance(error, OSError) else error
            raise InputError(f"--storage-path {uri!r} cannot be used: {cause}") from error
        return store

    def under(self, key: str) -> "Storage":
        """The part of the store under `key`."""
        return replace(self, below=self._key(key))

    @property
    def name(self) -> str:
        """The last part of the store's path, or its bucket."""
        return urlsplit(self.uri).path.rstrip("/").rpartition("/")[2] or urlsplit(self.uri).netloc

    def __str__(self) -> str:
        return "/".join(filter(None, (self.uri.partition("?")[0].rstrip("/"), self.below)))

    def push(self, source: Path, key: str) -> None:
        """Upload the file `source`, replacing any existing file.

        `fs.copy_files` would not report a failure to send the last chunk.
        """
        self._send(lambda: open_regular(source), functools.partial(shutil.copyfileobj, length=CHUNK), key)

    def write(self, content: str, key: str) -> None:
        """Write a small file, replacing any existing one."""
        self.send(lambda out: out.write(content.encode()), key)

    def send(self, write: Callable[[IO[bytes]], object], key: str) -> None:
        """Upload what `write` writes to a stream, replacing any existing file. A retry calls it again.

        If `write` raises an exception, what it has written may have replaced the file.
        """
        self._send(contextlib.nullcontext, lambda _, out: write(out), key)

    def _send(
        self,
        source: Callable[[], AbstractContextManager[Source]],
        write: Callable[[Source, IO[bytes]], object],
        key: str,
    ) -> None:
        def attempt(system: fs.FileSystem, path: str) -> None:
            with source() as opened:  # before the stream, which would upload nothing when it is destroyed
                if isinstance(system, fs.LocalFileSystem):
                    target = self._local(key)
                    make_folder(Rooted(target.parent))
                    with atomic_file(target) as out:
                        write(opened, out)
                else:
                    out = system.open_output_stream(path)
                    write(opened, out)
                    out.close()  # outside `with`, which would hide a failure to send the last chunk

        self._retry(attempt, key, "cannot be written")

    def pull(self, key: str, target: Rooted) -> None:
        """Download a file to `target` atomically: readers see either the old content or the new.

        Whoever can write to the store chooses the keys in it: a target that is named after one is made by `below`.
        """

        def copy(file: IO[bytes]) -> None:
            make_folder(Rooted(target.parent))
            with atomic_file(target) as out:
                shutil.copyfileobj(file, out, CHUNK)

        self.receive(copy, key)

    def read(self, key: str) -> bytes:
        """Read a small file."""
        content = self.head(key, MAX_SMALL + 1)
        if len(content) > MAX_SMALL:
            raise InputError(f"{key} in {self} has more than {MAX_SMALL} bytes: this program writes no such file")
        return content

    def head(self, key: str, size: int) -> bytes:
        """The first `size` bytes of a file, or all if there are fewer."""
        return self.receive(lambda file: bytes(file.read(size)), key)

    def receive(self, read: Callable[[IO[bytes]], Result], key: str) -> Result:
        """Download a file: what `read` returns for its stream. A retry calls it again."""

        def attempt(system: fs.FileSystem, path: str) -> Result:
            with self._open(system, key, path) as file:
                return read(file)

        return self._retry(attempt, key, "cannot be read")

    def files(self, key: str = "") -> list[Stored]:
        """All files under `key`, sorted by key; hidden files are omitted."""

        def list_files(system: fs.FileSystem, path: str) -> list[Stored]:
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

        return self._retry(list_files, key, "cannot be listed")

    def names(self, key: str = "") -> list[str]:
        """The names of files and folders directly under `key`, sorted; hidden ones are omitted."""

        def list_names(system: fs.FileSystem, path: str) -> list[str]:
            return sorted(info.base_name for info in _listed(system, path) if not info.base_name.startswith("."))

        return self._retry(list_names, key, "cannot be listed")

    def exists(self, key: str) -> bool:
        """Whether a file with this key exists."""
        return self._retry(
            lambda system, path: bool(system.get_file_info(path).type == fs.FileType.File), key, "cannot be checked"
        )

    def drop(self, key: str) -> None:
        """Remove a file, or a folder with all its files. A missing key is ignored."""

        def delete(system: fs.FileSystem, path: str) -> None:
            kind = system.get_file_info(path).type
            if isinstance(system, fs.LocalFileSystem):
                remove(self._local(key))
            elif kind == fs.FileType.File:
                system.delete_file(path)
            elif kind == fs.FileType.Directory:
                system.delete_dir(path)

        self._retry(delete, key, "cannot be removed")

    def _retry(self, action: Callable[[fs.FileSystem, str], Result], key: str, failed: str) -> Result:
        def attempt() -> Result:
            system, root = _connect(self.uri)
            if isinstance(system, fs.LocalFileSystem) and not Path(root).is_dir():
                raise FileNotFoundError(errno.ENOENT, "the folder does not exist: is it mounted?", root)
            return action(system, self._path(root, key))

        return retry_storage(attempt, f"{key or 'the store'} {failed}", str(self), seconds=self.patience)

    def _local(self, key: str) -> Rooted:
        """The path of a key in a folder."""
        return below(Path(_connect(self.uri)[1]), self._key(key))

    def _open(self, system: fs.FileSystem, key: str, path: str) -> IO[bytes]:
        stream: IO[bytes] = (
            open_regular(self._local(key)) if isinstance(system, fs.LocalFileSystem) else system.open_input_stream(path)
        )
        return stream

    def _key(self, key: str) -> str:
        return "/".join(filter(None, (self.below, key)))

    def _path(self, root: str, key: str) -> str:
        return "/".join(filter(None, (root.rstrip("/"), self._key(key))))


@functools.lru_cache
def _connect(uri: str) -> tuple[fs.FileSystem, str]:
    """The file system and the path in it. Its own retries are off: `retry_storage` retries and reports failures."""
    if not uri.startswith(SCHEMES):
        raise ValueError(f"use {' or '.join(SCHEMES)}, or a folder")
    system, path = fs.FileSystem.from_uri(uri)
    if not isinstance(system, fs.S3FileSystem):
        return system, path
    query = {name: values[-1] for name, values in parse_qs(urlsplit(uri).query).items()}
    scheme, _, endpoint = os.environ.get("AWS_ENDPOINT_URL", "https://").partition("://")
    return (
        fs.S3FileSystem(
            region=system.region,
            endpoint_override=query.get("endpoint_override") or endpoint or None,
            scheme=query.get("scheme") or scheme,
            allow_delayed_open=True,  # a small file is one request
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=1),
            connect_timeout=CONNECT_TIMEOUT,
            request_timeout=REQUEST_TIMEOUT,
        ),
        path,
    )


def in_threads(act: Callable[[Item], object], items: Sequence[Item]) -> None:
    """Call `act` for each item, several at once: a store answers slowly, and many at a time.

    Raises:
        Exception: the first error of a call. Those that have begun end first.
    """
    if len(items) == 1:
        act(items[0])
    elif items:
        with ThreadPoolExecutor(min(THREADS, len(items)), thread_name_prefix="store") as pool:
            for done in [pool.submit(act, item) for item in items]:
                try:
                    done.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise


def _listed(system: fs.FileSystem, path: str, *, recursive: bool = False) -> list[fs.FileInfo]:
    try:
        return list(system.get_file_info(fs.FileSelector(path, recursive=recursive)))
    except FileNotFoundError:
        return []
