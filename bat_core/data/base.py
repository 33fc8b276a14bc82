"""Data sets in a canonical order, with a validation split taken from train so that test is never used to choose."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from bat_core.data.augment import NO_AUGMENTATION, Augmentation
from bat_core.data.files import Crops, ImageFiles
from bat_core.errors import InputError, check_finite
from bat_core.models.base import ImageShape
from bat_core.registry import Registry

VAL_DIVISOR = 10  # the validation split is a tenth of the train images ...
VAL_MAX = 1000  # ... and at most this many

Images: TypeAlias = Tensor | ImageFiles


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), labels int64 (N,), and each image's row in its source, int64 (N,).

    Images are a tensor, or files that are decoded when indexed: `images[:200]` is a tensor in both cases.
    """

    images: Images
    labels: Tensor
    rows: Tensor

    @classmethod
    def of(cls, images: Images, labels: Tensor) -> "Split":
        """A split with rows 0 ... N-1."""
        return cls(images, labels, torch.arange(len(images)))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: Tensor | slice) -> "Split":
        """The examples at `positions`, in that order. Images in files are not decoded."""
        images = self.images[positions] if isinstance(self.images, Tensor) else self.images.take(positions)
        return Split(images, self.labels[positions], self.rows[positions])

    def batches(self, parts: Sequence[Tensor], *, crops: Crops | None = None) -> Iterator["Split"]:
        """The examples at each of `parts` (positions), with images in memory; files are decoded ahead of use.

        `crops` determines the random crops of images in files. Data sets in memory use `augmentation` instead.
        """
        if isinstance(self.images, Tensor):
            yield from map(self.take, parts)
        else:
            decoded = self.images.batches(parts, crops)
            for part, images in zip(parts, decoded, strict=True):
                yield Split(images, self.labels[part], self.rows[part])

    def in_memory(self) -> "Split":
        """The same examples with decoded images."""
        return replace(self, images=self.images[:])

    def to(self, device: torch.device) -> "Split":
        """The same examples with labels, and images that are in memory, on `device`."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return replace(self, images=images, labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True)
class Source:
    """The result of a data set's loader: the published splits and the properties of the images.

    `pixel` is the unit of budgets, in [0, 1]: 1/255 for images with 256 levels. `augmentation` is the usual
    augmentation for training on images in memory.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    pixel: float = 1 / 255
    augmentation: Augmentation = NO_AUGMENTATION


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set: train for fitting, val (taken from the published train split) for choices, test for reporting."""

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    pixel: float
    augmentation: Augmentation

    def part(self, name: str) -> Split:
        """ "train", "val" or "test"."""
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W)."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width


@dataclass(frozen=True, kw_only=True)
class Request:
    """The user's request to a loader: the folder `data_dir`, and whether to download into it.

    `image_size` (height and width) and `workers` (number of decoding processes) apply to images in files.
    """

    name: str
    data_dir: Path | None
    download: bool = False
    image_size: int | None = None
    workers: int | None = None

    def require_dir(self, *, downloadable: bool = True) -> Path:
        """The folder, after checking that it exists and is not empty, or may be downloaded into.

        Raises:
            InputError: no folder was given, it is missing or empty, or the data set cannot be downloaded.
        """
        if self.data_dir is None:
            raise InputError(f"data set {self.name!r} is read from a folder: give it with --data-dir DIR")
        if self.download and not downloadable:
            raise InputError(f"data set {self.name!r} does not support --download: give a folder that contains it")
        if self.download:
            return self.data_dir
        remedy = ", or add --download" if downloadable else ""
        if not self.data_dir.is_dir():
            raise InputError(f"data folder {str(self.data_dir)!r} does not exist: give an existing one{remedy}")
        if not any(self.data_dir.iterdir()):
            raise InputError(f"data folder {str(self.data_dir)!r} is empty: give one that contains {self.name}{remedy}")
        return self.data_dir


Loader: TypeAlias = Callable[[Request], Source]
DATASETS: Registry[Loader] = Registry("data set", "bat_core.data")


def load_dataset(
    name: str,
    data_dir: str | Path | None = None,
    *,
    download: bool = False,
    train_size: int | None = None,
    val_size: int | None = None,
    test_size: int | None = None,
    image_size: int | None = None,
    data_workers: int | None = None,
) -> Dataset:
    """Load a data set into memory; a data set of image files (imagenet) is only listed.

    Images in memory are sorted by a hash of their content, so that splits and subsets do not depend on the storage
    format or row order. Images in files are sorted by a hash of class and file name. Validation images are the
    first of train in this order; subsets are the first of the remaining images.

    Args:
        data_dir: folder with the images; not needed for embedded data sets (digits).
        train_size, val_size, test_size: number of images. Default: all for train and test, a tenth of train and at
            most 1,000 for val.
        image_size: height and width of images in files. Default: the data set's own (imagenet: 224).
        data_workers: processes that decode files; 0 decodes in this process. Default: one per torch thread, at most
            8. It affects speed only.
    Returns:
        `.train .val .test` with images uint8 (N, C, H, W) and labels int64 (N,). Images in files are decoded
        when they are indexed or iterated over by `batches`.
    Raises:
        ValueError: unknown name, folder missing or empty, damaged file, labels out of range, or a size that the
            data set does not have.
    """
    loader, _ = DATASETS.find(name)
    if data_workers is not None:
        check_finite("data_workers", data_workers)
    directory = Path(data_dir) if data_dir is not None else None
    source = loader(
        Request(name=name, data_dir=directory, download=download, image_size=image_size, workers=data_workers)
    )
    _check(name, "train", source.train, len(source.class_names))
    _check(name, "test", source.test, len(source.class_names))
    if source.train.images.shape[1:] != source.test.images.shape[1:]:
        raise InputError(f"data set {name!r}: train and test images differ in size")
    _, _, height, width = source.train.images.shape
    if image_size not in (None, height):
        raise InputError(f"image_size={image_size}: images of data set {name!r} are {height}x{width}: leave it out")
    train = _canonical(source.train)
    if val_size is None:
        val_size = min(len(train) // VAL_DIVISOR, VAL_MAX)
    val = _first("val_size", train, val_size, below=len(train))
    rest = train.take(slice(len(val), None))
    return Dataset(
        name=name,
        train=_first("train_size", rest, train_size),
        val=val,
        test=_first("test_size", _canonical(source.test), test_size),
        class_names=source.class_names,
        pixel=source.pixel,
        augmentation=source.augmentation,
    )


def dataset_names() -> tuple[str, ...]:
    """Every data set's name, sorted."""
    return DATASETS.names()


def _check(name: str, part: str, split: Split, num_classes: int) -> None:
    if len(split) == 0:
        raise InputError(f"data set {name!r}: the {part} split has no images")
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"data set {name!r}: {part} labels span {low}..{high}, but with {num_classes} classes they must be in"
            f" 0..{num_classes - 1}"
        )


def _canonical(split: Split) -> Split:
    if not isinstance(split.images, Tensor):
        return split.take(split.images.canonical_order())
    examples = zip(split.images.numpy(), split.labels.tolist(), strict=True)
    keys = [(hashlib.sha256(image.tobytes()).digest(), label) for image, label in examples]
    return split.take(torch.tensor(sorted(range(len(keys)), key=keys.__getitem__)))


def _first(where: str, split: Split, size: int | None, *, below: int | None = None) -> Split:
    if size is None:
        return split
    if not 1 <= size <= len(split) or size == below:
        most = len(split) if below is None else below - 1
        raise InputError(f"{where}={size} must be in 1..{most}: the split has no more images")
    return split.take(slice(size))
