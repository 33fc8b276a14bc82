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
from bat_core.data.request import Request
from bat_core.errors import InputError, check_finite
from bat_core.models.base import ImageShape
from bat_core.norms import Norm, budget_unit
from bat_core.registry import Registry
from bat_core.unit_box import in_unit_box

VAL_DIVISOR = 10  # the validation split is a tenth of the train images ...
VAL_MAX = 1000  # ... and at most this many

Images: TypeAlias = Tensor | ImageFiles


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), labels int64 (N,), and each image's row in its source, int64 (N,).

    Images are a tensor, or files that are decoded when indexed: `images[:200]` is a tensor in both cases. Labels of
    another integer type are converted.
    """

    images: Images
    labels: Tensor
    rows: Tensor

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", as_labels(self.labels, len(self.images)))

    @classmethod
    def empty(cls, like: "Split") -> "Split":
        """No images, of the size of those in `like`."""
        return like.take(slice(0))

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

    def in_unit_box(self) -> "Split":
        """The same examples; floating-point images outside [0, 1] by rounding are clamped (`unit_box.in_unit_box`)."""
        return replace(self, images=in_unit_box(self.images)) if isinstance(self.images, Tensor) else self

    def to(self, device: torch.device) -> "Split":
        """The same examples with labels, and images that are in memory, on `device`."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return replace(self, images=images, labels=self.labels.to(device))


@dataclass(frozen=True, kw_only=True)
class Source:
    """The result of a data set's loader: the published splits and the properties of the images.

    `train` is None where only images to evaluate on are there. `pixel` is the unit of budgets, in [0, 1]: 1/255 for
    images with 256 levels. `augmentation` is the usual augmentation for training on images in memory.
    """

    train: Split | None
    test: Split
    class_names: tuple[str, ...]
    pixel: float = 1 / 255
    augmentation: Augmentation = NO_AUGMENTATION


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set: train for fitting, val (taken from the published train split) for choices, test for reporting.

    Train and val have no images where the source has none to train on, and val where train has fewer than ten and
    no size was given. `check_trainable` says so.
    """

    name: str
    train: Split
    val: Split
    test: Split
    class_names: tuple[str, ...]
    pixel: float
    augmentation: Augmentation

    def unit(self, norm: Norm) -> float:
        """The unit of budgets in a norm, in [0, 1] units: `pixel` in L-inf."""
        return budget_unit(self.name, norm, pixel=self.pixel, image_shape=self.image_shape)

    def part(self, name: str) -> Split:
        """ "train", "val" or "test".

        Raises:
            InputError: the split has no images.
        """
        part = {"train": self.train, "val": self.val, "test": self.test}[name]
        if len(part) == 0:
            self.check_trainable()
        return part

    def check_trainable(self) -> None:
        """Check that there are images to train on and to choose by.

        Raises:
            InputError: the source has no train split, or too few images in it to hold some out.
        """
        if len(self.train) == 0:
            raise InputError(
                f"data set {self.name!r} has images to evaluate on, but no train split: training, and the split val,"
                " which is taken from train, need one"
            )
        if len(self.val) == 0:
            raise InputError(
                f"data set {self.name!r} has {len(self.train)} training images, too few to hold out a tenth of them for"
                f" validation: use at least {VAL_DIVISOR}, or say how many to hold out with --val-size"
            )

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> ImageShape:
        """(C, H, W)."""
        _, channels, height, width = self.test.images.shape
        return channels, height, width


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
    image_column: str | None = None,
    label_column: str | None = None,
    data_workers: int | None = None,
) -> Dataset:
    """Load a data set into memory; a data set of image files (imagenet, imagefolder) is only listed.

    Images in memory are sorted by a hash of their content, so that splits and subsets do not depend on the storage
    format or row order. Images in files are sorted by a hash of class and file name. Validation images are the
    first of train in this order; subsets are the first of the remaining images.

    Args:
        data_dir: folder with the images, or its parent; not needed for embedded data sets (digits).
        train_size, val_size, test_size: number of images. Default: all for train and test, a tenth of train and at
            most 1,000 for val. Sizes of train and val are not used where the source has no train split.
        image_size: height and width of images in files. Default: the data set's own (imagenet: 224).
        image_column, label_column: columns of Parquet files. Default: found by name and type.
        data_workers: processes that decode files; 0 decodes in this process. Default: one per torch thread, at most
            8. It affects speed only.
    Returns:
        `.train .val .test` with images uint8 (N, C, H, W) and labels int64 (N,). Images in files are decoded
        when they are indexed or iterated over by `batches`. Train and val may be empty: `Dataset.check_trainable`.
    Raises:
        ValueError: unknown name, folder missing or empty, damaged file, labels out of range, or a size that the
            data set does not have.
    """
    loader, _ = DATASETS.find(name)
    if data_workers is not None:
        check_finite("data_workers", data_workers)
    source = loader(
        Request(
            name=name,
            data_dir=Path(data_dir) if data_dir is not None else None,
            download=download,
            image_size=image_size,
            image_column=image_column,
            label_column=label_column,
            workers=data_workers,
        )
    )
    _check_source(name, source, image_size)
    train, val = _train_and_val(source, train_size, val_size)
    return Dataset(
        name=name,
        train=train,
        val=val,
        test=_first("test_size", _canonical(source.test), test_size),
        class_names=source.class_names,
        pixel=source.pixel,
        augmentation=source.augmentation,
    )


def _check_source(name: str, source: Source, image_size: int | None) -> None:
    for part, split in (("train", source.train), ("test", source.test)):
        if split is not None:
            _check(name, part, split, len(source.class_names))
    _, _, height, width = source.test.images.shape
    if source.train is not None and source.train.images.shape[1:] != source.test.images.shape[1:]:
        raise InputError(f"data set {name!r}: train and test images differ in size")
    if image_size not in (None, height) or (image_size is not None and height != width):
        raise InputError(f"image_size={image_size}: images of data set {name!r} are {height}x{width}: leave it out")


def _train_and_val(source: Source, train_size: int | None, val_size: int | None) -> tuple[Split, Split]:
    if source.train is None:
        return Split.empty(source.test), Split.empty(source.test)
    train = _canonical(source.train)
    if val_size is not None:
        val = _first("val_size", train, val_size, below=len(train))
    else:
        val = train.take(slice(min(len(train) // VAL_DIVISOR, VAL_MAX)))
    return _first("train_size", train.take(slice(len(val), None)), train_size), val


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


def as_labels(labels: Tensor, count: int) -> Tensor:
    """Class indices of any integer type as int64 (N,).

    Raises:
        ValueError: they are not integers, not of shape (N,), or not as many as images.
    """
    if labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise InputError(f"labels have dtype {labels.dtype}: they must be integers, the index of each image's class")
    if tuple(labels.shape) != (count,):
        raise InputError(
            f"labels have shape {tuple(labels.shape)} for {count} images: they must be ({count},), the index of each"
            " image's class"
        )
    return labels.long()


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
