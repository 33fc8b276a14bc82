"""CIFAR-10, from the Hugging Face hub's Parquet files or from torchvision's folder."""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import download_and_extract_archive

from bat_core.data.augment import CROP_AND_FLIP
from bat_core.data.base import DATASETS, Request, Source, Split
from bat_core.data.parquet import has_parquet, read_split
from bat_core.errors import InputError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@DATASETS.register("cifar10")
def cifar10(request: Request) -> Source:
    """50,000 train and 10,000 test images, 3x32x32.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    folder = request.require_dir()
    if folder.is_dir() and has_parquet(folder):
        train, test = read_split(folder, "train"), read_split(folder, "test")
    else:
        train, test = _torchvision_folder(folder, download=request.download)
    return Source(train=train, test=test, class_names=CLASS_NAMES, augmentation=CROP_AND_FLIP)


def _torchvision_folder(folder: Path, *, download: bool) -> tuple[Split, Split]:
    batches = folder / CIFAR10.base_folder
    if not batches.is_dir():
        if not download:
            raise InputError(
                f"{folder} holds neither train-*.parquet nor {CIFAR10.base_folder}/: name CIFAR-10's folder, or add"
                " --download"
            )
        try:
            download_and_extract_archive(CIFAR10.url, str(folder), filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
        except (OSError, RuntimeError) as error:
            raise InputError(f"CIFAR-10 cannot be downloaded into {folder}: {error}") from error
    return _batches(batches, CIFAR10.train_list), _batches(batches, CIFAR10.test_list)


def _batches(folder: Path, files: list[list[str]]) -> Split:
    images, labels = [], []
    for name, md5 in files:
        batch = _read_batch(folder / name, md5)
        images.append(torch.from_numpy(batch["data"].reshape(-1, 3, 32, 32)))
        labels += batch["labels"]
    return Split.of(torch.cat(images), torch.tensor(labels, dtype=torch.int64))


def _read_batch(path: Path, md5: str) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise InputError(f"{path} is cut short or is not the published file: its MD5 differs")
    return PlainUnpickler(content).load_batch()


class PlainUnpickler(pickle.Unpickler):
    """Reads the published batches, which are pickles, without the power to run anything.

    Only what rebuilds a numpy array is let through. The file's digest is checked before.
    """

    ALLOWED = frozenset(
        [
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        ]
    )

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a batch of images")
        return super().find_class(module, name)

    def load_batch(self) -> dict[str, Any]:
        """{"data": uint8 (N, 3072), "labels": N ints}."""
        batch = self.load()
        return {"data": np.asarray(batch["data"], dtype=np.uint8), "labels": list(batch["labels"])}
