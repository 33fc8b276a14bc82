"""CIFAR's binary format: records of label bytes and a 3x32x32 image, in files in one folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bat_core.data.base import Split
from bat_core.data.request import Request, locate
from bat_core.errors import InputError

IMAGE = 3 * 32 * 32  # bytes: the red, green and blue channels, each row by row


@dataclass(frozen=True, kw_only=True)
class BinaryFormat:
    """One of CIFAR's data sets: its files, its `labels` bytes before each image, and its archive.

    `pickled` is the folder of the authors' version for Python, which is refused: its pickles can run code.
    """

    title: str
    folder: str
    pickled: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    labels: int
    url: str
    archive: str

    def read(self, request: Request, folder: Path, *, label: int, md5: str) -> tuple[Split | None, Split]:
        """Train, if there is one, and test. Column `label` of the label bytes is the class.

        Raises:
            InputError: the files are missing, damaged or cannot be downloaded.
        """
        binary = self._find(request, folder, md5)
        parts = [self._part(binary, names, label) for names in (self.train, self.test)]
        train, test = parts
        if test is None:
            raise InputError(f"cannot read {binary / self.test[0]}: the test images are missing")
        return train, test

    def _find(self, request: Request, folder: Path, md5: str) -> Path:
        def fits(place: Path) -> bool:
            return any((place / name).is_file() for name in (*self.train, *self.test))

        found = (folder / self.folder) if (folder / self.folder).is_dir() else locate(folder, fits, name=self.folder)
        if found is not None:
            return found
        if not request.download:
            pickled = f", only {self.pickled}/, whose pickles can run code" if (folder / self.pickled).is_dir() else ""
            raise InputError(
                f"{folder} has neither train-*.parquet nor {self.folder}/{pickled}: give a folder with one of them, or"
                f" add --download to fetch {self.folder}/"
            )
        from torchvision.datasets.utils import download_and_extract_archive

        try:
            download_and_extract_archive(self.url, str(folder), filename=self.archive, md5=md5)
        except (OSError, RuntimeError) as error:
            raise download_failed(self.title, folder, error) from error
        return folder / self.folder

    def _part(self, folder: Path, names: tuple[str, ...], label: int) -> Split | None:
        """The records of several files, concatenated; None if no file is there."""
        if not any((folder / name).exists() for name in names) and folder.is_dir():
            return None
        records = np.concatenate([self._records(folder / name) for name in names])
        images = torch.from_numpy(records[:, self.labels :].reshape(-1, 3, 32, 32).copy())
        return Split.of(images, _classes(records[:, label]))

    def _records(self, path: Path) -> "np.ndarray[tuple[int, int], np.dtype[np.uint8]]":
        record = self.labels + IMAGE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        if not content or len(content) % record:
            raise InputError(f"{path} is truncated: its size of {len(content)} bytes is not a multiple of {record}")
        return np.frombuffer(content, dtype=np.uint8).reshape(-1, record)


def download_failed(title: str, folder: Path, error: Exception) -> InputError:
    """The error of a download that failed, with the first 200 characters of what the library said."""
    said = " ".join(str(error).split())[:200].rstrip(".")
    return InputError(
        f"cannot download {title} into {folder}: {said}; check the network, or put the files there by other means and"
        " leave --download out"
    )


def _classes(column: "np.ndarray[tuple[int], np.dtype[np.uint8]]") -> Tensor:
    return torch.from_numpy(column.astype(np.int64))
