"""Data sets in one canonical order, split so that test is never chosen on."""

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

VAL_DIVISOR = 10  # one train image in ten ...
VAL_MAX = 1000  # ... and at most so many are held out to choose by

Images: TypeAlias = Tensor | ImageFiles


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), labels int64 (N,), and each image's row in its source, int64 (N,).

    Images are a tensor, or files of which those that are indexed are decoded: `images[:200]` is a tensor.
    """

    images: Images
    labels: Tensor
    rows: Tensor

    @classmethod
    def of(cls, images: Images, labels: Tensor) -> "Split":
        """A split whose rows are simply numbered."""
        return cls(images, labels, torch.arange(len(images)))

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, positions: Tensor | slice) -> "Split":
        """The examples at `positions`, in that order; files stay files."""
        images = self.images[positions] if isinstance(self.images, Tensor) else self.images.take(positions)
        return Split(images, self.labels[positions], self.rows[positions])

    def batches(self, parts: Sequence[Tensor], *, crops: Crops | None = None) -> Iterator["Split"]:
        """The examples at each of `parts` (positions), with their images in memory; files are decoded ahead.

        `crops` names the random crops of images in files. A data set in memory has its `augmentation`.
        """
        if isinstance(self.images, Tensor):
            yield from map(self.take, parts)
        else:
            decoded = self.images.batches(parts, crops)
            for part, images in zip(parts, decoded, strict=True):
                yield Split(images, self.labels[part], self.rows[part])

    def in_memory(self) -> "Split":
        """The same examples, their images decoded."""
        return replace(self, images=self.images[:])

    def to(self, device: torch.device) -> "Split":
        """The same examples, their labels and what images are in memory on `device`."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return replace(self, images=images, labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a data set's loader returns: the published splits and what is known of the images.

    `pixel` is the unit in which budgets are counted, in [0, 1]: 1/255 where images have the usual
    256 levels. `augmentation` is what training on images in memory usually does.
    """

    train: Split
    test: Split
    class_names: tuple[str, ...]
    pixel: float = 1 / 255
    augmentation: Augmentation = NO_AUGMENTATION


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set ready to use: train to fit, val (a part of the published train) to choose, test to report."""

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
    """Where a loader looks: `data_dir` as the user named it, and whether it may download there.

    `image_size` and `workers` are for images in files: height and width, and the processes that decode.
    """

    name: str
    data_dir: Path | None
    download: bool = False
    image_size: int | None = None
    workers: int | None = None

    def require_dir(self, *, downloadable: bool = True) -> Path:
        """The folder, when it is one and holds something (or may be filled).

        Raises:
            InputError: no folder was named, or it is missing or empty, or there is nothing to download.
        """
        if self.data_dir is None:
            raise InputError(f"data set {self.name!r} is read from a folder: name it with --data-dir DIR")
        if self.download and not downloadable:
            raise InputError(f"data set {self.name!r} cannot be fetched by --download: name a folder that has it")
        if self.download:
            return self.data_dir
        remedy = ", or add --download" if downloadable else ""
        if not self.data_dir.is_dir():
            raise InputError(f"data folder {str(self.data_dir)!r} does not exist: name an existing one{remedy}")
        if not any(self.data_dir.iterdir()):
            raise InputError(f"data folder {str(self.data_dir)!r} is empty: name one with {self.name} in it{remedy}")
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
    """Load a data set into memory, or list its files where it is one of files (imagenet).

    Images are put in the order of a hash of their content, so that a split or a subset is the same
    whichever format and row order they were stored in; those in files in the order of a hash of class and
    file name. Validation images are the first of train in that order; subsets are the first of what remains.

    Args:
        data_dir: folder with the images; not needed where they are embedded (digits).
        train_size, val_size, test_size: at most so many images. Default: all for train and test,
            a tenth of train and at most 1,000 for val.
        image_size: height and width of images in files. Default: the data set's own (imagenet: 224).
        data_workers: processes that decode files; 0: none but this one. Default: one for each thread that
            torch has, at most 8. Nothing but the time it takes depends on it.
    Returns:
        `.train .val .test` with images uint8 (N, C, H, W) and labels int64 (N,). Images in files are decoded
        when they are indexed or iterated over by `batches`.
    Raises:
        ValueError: unknown name, folder missing or empty, damaged file, labels out of range, a size
            that the data set does not have.
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
        raise InputError(f"image_size={image_size}: the images of data set {name!r} are {height}x{width}, leave it out")
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
        raise InputError(f"data set {name!r}: its {part} split holds no images")
    low, high = int(split.labels.min()), int(split.labels.max())
    if low < 0 or high >= num_classes:
        raise InputError(
            f"data set {name!r}: {part} labels span {low}..{high}, but with {num_classes} classes they must lie in"
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
        raise InputError(f"{where}={size} must lie in 1..{most}: so many images are there")
    return split.take(slice(size))
