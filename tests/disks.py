"""A small disk of a test's own, which can be full, read-only or gone."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest


class Disk:
    """A tmpfs, seen through a second mount so that it can go and come back with what it holds."""

    def __init__(self, root: Path, size: str) -> None:
        self._disk, self.path = root / "disk", root / "mounted"
        for folder in (self._disk, self.path):
            folder.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(self._disk)],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            pytest.skip(f"mount is not permitted here: {made.stderr.strip()}")
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "--bind", str(self._disk), str(self.path)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)

    def read_only(self) -> None:
        """As a kernel makes it after an error, whatever is open: a second mount over the first."""
        self.mount()
        subprocess.run(["mount", "-o", "remount,bind,ro", str(self.path)], check=True)

    def writable(self) -> None:
        self.unmount()

    def fill(self) -> None:
        """To the last page, whoever else writes meanwhile."""
        with (self._disk / "filler").open("xb", buffering=0) as file:
            while (room := os.statvfs(self._disk)).f_bfree:
                with contextlib.suppress(OSError):
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, room.f_bfree * room.f_bsize)

    def free(self) -> None:
        (self._disk / "filler").unlink()

    def close(self) -> None:
        while self.path.is_mount():
            self.unmount()
        subprocess.run(["umount", "--lazy", str(self._disk)], check=True)
