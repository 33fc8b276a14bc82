"""A checkpoint as one file in a store, where a request costs time: a tar file whose first member is its checksums."""

import io
import os
import re
import shutil
import tarfile
from pathlib import Path
from typing import IO

from bat_core.checkpoint import CHECKSUMS
from bat_core.errors import InputError
from bat_core.paths import CHUNK, Rooted, atomic_file, below, make_folder, open_regular

HEAD = 64 << 10  # bytes at the start of a packed checkpoint that contain its name and its checksums
NAME = re.compile(r"epoch_\d{4,9}(_batch_\d{6,9})?")


def pack(folder: Path, out: IO[bytes]) -> None:
    """Write a checkpoint to a stream."""
    with tarfile.open(fileobj=out, mode="w|", bufsize=CHUNK, format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(folder.iterdir(), key=lambda path: (path.name != CHECKSUMS, path.name)):
            with open_regular(path) as file:
                member = tarfile.TarInfo(f"{folder.name}/{path.name}")
                member.size = os.fstat(file.fileno()).st_size
                tar.addfile(member, file)


def read_head(content: bytes) -> tuple[str, bytes] | None:
    """The name and the checksums of the packed checkpoint that begins with `content`; None if it is damaged there."""
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r|") as tar:
            member = tar.next()
            file = tar.extractfile(member) if member else None
            name, _, first = member.name.partition("/") if member else ("", "", "")
            if file is None or first != CHECKSUMS or not NAME.fullmatch(name):
                return None
            return name, file.read()
    except (tarfile.TarError, OSError):
        return None


def unpack(file: IO[bytes], folder: Rooted) -> None:
    """Write the files of a packed checkpoint into `folder`.

    Raises:
        InputError: the file is damaged. What was read before the damage is in the folder.
    """
    make_folder(folder)
    try:
        with tarfile.open(fileobj=file, mode="r|", bufsize=CHUNK) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise InputError(f"{member.name!r} in a packed checkpoint is not a file")
                with atomic_file(below(folder, member.name.rpartition("/")[2])) as out:
                    shutil.copyfileobj(content, out, CHUNK)
    except tarfile.TarError as error:
        raise InputError(f"a packed checkpoint is damaged: {error}") from error
