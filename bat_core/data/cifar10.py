"""CIFAR-10, from Parquet files as on the Hugging Face hub or from the authors' binary version."""

from pathlib import Path

import numpy as np
import torch
from torchvision.datasets.utils import download_and_extract_archive

from bat_core.data.augment import CROP_AND_FLIP
from bat_core.data.base import DATASETS, Request, Source, Split
from bat_core.data.parquet import has_parquet, read_split
from bat_core.errors import InputError

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE, MD5 = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
BINARY, PICKLED = "cifar-10-batches-bin", "cifar-10-batches-py"
TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = ("test_batch.bin",)
IMAGE = 3 * 32 * 32
RECORD = 1 + IMAGE  # bytes: the label, then the red, green and blue channels, each row by row


@DATASETS.register("cifar10")
def cifar10(request: Request) -> Source:
    """50,000 train and 10,000 test images, 3x32x32.

    The authors' version for Python is rejected: it consists of pickles, which can run code.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    folder = request.require_dir()
    if folder.is_dir() and has_parquet(folder):
        train, test = read_split(folder, "train"), read_split(folder, "test")
    else:
        binary = _binary_folder(folder, download=request.download)
        train, test = _read(binary, TRAIN), _read(binary, TEST)
    return Source(train=train, test=test, class_names=CLASS_NAMES, augmentation=CROP_AND_FLIP)


def _binary_folder(folder: Path, *, download: bool) -> Path:
    binary = folder / BINARY
    if binary.is_dir():
        return binary
    if not download:
        pickled = f", only {PICKLED}/, whose pickles can run code" if (folder / PICKLED).is_dir() else ""
        raise InputError(
            f"{folder} has neither train-*.parquet nor {BINARY}/{pickled}: give a folder with one of them, or add"
            f" --download to fetch {BINARY}/"
        )
    try:
        download_and_extract_archive(URL, str(folder), filename=ARCHIVE, md5=MD5)
    except (OSError, RuntimeError) as error:
        raise InputError(f"cannot download CIFAR-10 into {folder}: {error}") from error
    return binary


def _read(folder: Path, names: tuple[str, ...]) -> Split:
    """The records of several files, concatenated."""
    records = np.concatenate([_records(folder / name) for name in names])
    images = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
    return Split.of(images, torch.from_numpy(records[:, 0].astype(np.int64)))


def _records(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if not content or len(content) % RECORD:
        raise InputError(f"{path} is truncated: its size of {len(content)} bytes is not a multiple of {RECORD}")
    return np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD)
