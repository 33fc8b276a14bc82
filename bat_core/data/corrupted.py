"""Corrupted images: in the published folders of CIFAR-10-C, CIFAR-100-C and ImageNet-C, or made on the fly."""

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bat_core.corruption_names import CORRUPTIONS, EXTRA, SEVERITIES
from bat_core.data.base import Split
from bat_core.data.folders import list_split
from bat_core.errors import InputError
from bat_core.paths import check_regular
from bat_core.rng import named_seed

LABELS = "labels.npy"
LAYOUT = "<corruption>.npy and labels.npy (CIFAR-10-C), or <corruption>/<severity>/<class>/*.JPEG (ImageNet-C)"
PACKAGE, SMALLEST = "imagecorruptions-imaug", 32


class CorruptedImages(ABC):
    """Images under each of `names`, at severities 1 to 5, in the same order everywhere."""

    names: tuple[str, ...]
    source: str  # in words

    @abstractmethod
    def cell(self, name: str, severity: int, n: int | None) -> Split:
        """The images under one corruption: n of them, or all.

        Raises:
            InputError: they cannot be read, or are fewer.
        """


@dataclass(frozen=True)
class Arrays(CorruptedImages):
    """CIFAR's layout: one array of uint8 images (5 N, H, W, 3) for each corruption, by rising severity."""

    folder: Path
    names: tuple[str, ...]
    num_classes: int
    image_shape: tuple[int, int, int]
    source: str = "published arrays"

    def cell(self, name: str, severity: int, n: int | None) -> Split:
        images, labels = _array(self.folder / f"{name}.npy"), _array(self.folder / LABELS)
        channels, height, width = self.image_shape
        if images.dtype != np.uint8 or images.shape[1:] != (height, width, channels) or len(images) % len(SEVERITIES):
            raise InputError(
                f"{self.folder / name}.npy has images {images.shape} {images.dtype}: they must be uint8"
                f" (5 N, {height}, {width}, {channels})"
            )
        count = len(images) // len(SEVERITIES)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) not in (count, len(images)):
            raise InputError(f"{self.folder / LABELS} has shape {labels.shape}: it must be one class per image")
        first = (severity - 1) * count
        mine = labels[first : first + count] if len(labels) == len(images) else labels
        if len(mine) and not 0 <= int(mine.min()) <= int(mine.max()) < self.num_classes:
            raise InputError(f"{self.folder / LABELS} has classes outside 0..{self.num_classes - 1}: name its data set")
        taken = _count(n, count)
        planes = np.array(np.moveaxis(images[first : first + taken], -1, 1), order="C")  # a copy: the file is mapped
        return Split.of(torch.from_numpy(planes), torch.from_numpy(mine[:taken].astype(np.int64)))


@dataclass(frozen=True)
class Folders(CorruptedImages):
    """ImageNet's layout: <corruption>/<severity>/<class>/*.JPEG, perhaps below noise/, blur/ and so on."""

    places: dict[str, Path]
    names: tuple[str, ...]
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    workers: int | None
    source: str = "published files"

    def cell(self, name: str, severity: int, n: int | None) -> Split:
        place = self.places[name]
        split, classes = list_split(
            place.parent, f"{name}/{severity}", LAYOUT, size=self.image_shape[1:], workers=self.workers
        )
        if len(classes) != len(self.class_names):
            raise InputError(
                f"{place / str(severity)} has {len(classes)} classes and the data set {len(self.class_names)}: they"
                " must be the same"
            )
        if set(classes) == set(self.class_names):
            order = torch.tensor([self.class_names.index(one) for one in classes])
            split = Split(split.images, order[split.labels], split.rows)
        taken = _count(n, len(split))
        return split.take(torch.arange(taken) * len(split) // taken)  # spread over the classes


@dataclass(frozen=True)
class Made(CorruptedImages):
    """Corruptions that a library makes of clean images, with the strengths of ImageNet-C whatever their size."""

    clean: Split
    seed: int
    source: str
    names: tuple[str, ...] = CORRUPTIONS

    def cell(self, name: str, severity: int, n: int | None) -> Split:
        part = self.clean.take(slice(_count(n, len(self.clean))))
        images = part.images[:]
        made = [
            _corrupted(image.permute(1, 2, 0).numpy(), name, severity, named_seed(self.seed, name, severity, row))
            for image, row in zip(images, part.rows.tolist(), strict=True)
        ]
        return Split(torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous(), part.labels, part.rows)


def open_corrupted(
    folder: Path,
    *,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
    workers: int | None = None,
) -> Arrays | Folders:
    """The corrupted images in a folder of a published layout.

    Raises:
        InputError: the folder has none.
    """
    known = (*CORRUPTIONS, *EXTRA)
    if (folder / LABELS).exists():
        names = tuple(name for name in known if (folder / f"{name}.npy").exists())
        if names:
            return Arrays(folder, names, len(class_names), image_shape)
    else:
        below = [folder, *sorted(one for one in folder.glob("*/") if one.name not in known)]
        places = {name: place / name for name in known for place in below if (place / name).is_dir()}
        if places:
            return Folders(places, tuple(places), tuple(class_names), image_shape, workers)
    raise InputError(f"folder {str(folder)!r} has no corrupted images: it must have the layout {LAYOUT}")


def make_corrupted(clean: Split, *, seed: int) -> Made:
    """The fifteen corruptions of clean images uint8 (N, 3, H, W), made when they are asked for.

    Numbers are drawn from (seed, corruption, severity, row), except by impulse noise and glass blur, for which the
    library uses generators of its own.

    Raises:
        InputError: the library is missing, or the images are not of a kind that it takes.
    """
    _library()
    _, channels, height, width = clean.images.shape
    if channels != 3 or min(height, width) < SMALLEST:
        raise InputError(
            f"corruptions are made of colour images of at least {SMALLEST}x{SMALLEST}, and these are"
            f" {channels}x{height}x{width}: name a folder of corrupted images with --corrupted"
        )
    return Made(clean, seed, f"made on the fly by {PACKAGE} {importlib.metadata.version(PACKAGE)}")


def _library() -> Any:
    try:
        import imagecorruptions  # noqa: PLC0415 (optional dependency)
    except ImportError as error:
        raise InputError(
            f"making corruptions needs the package {PACKAGE}: pip install 'bat-sweeps[corruptions]', or name a folder"
            " of published ones with --corrupted"
        ) from error
    return imagecorruptions


def _corrupted(image: npt.NDArray[np.uint8], name: str, severity: int, seed: int) -> npt.NDArray[np.uint8]:
    """The library draws from numpy's global generator, which is left as it was."""
    before = np.random.get_state()
    np.random.seed(seed % 2**32)
    try:
        made = _library().corrupt(np.ascontiguousarray(image), corruption_name=name, severity=severity)
    finally:
        np.random.set_state(before)
    return np.asarray(made, dtype=np.uint8)


def _count(n: int | None, there: int) -> int:
    if n is not None and n > there:
        raise InputError(f"--n={n} is more than the {there} images under each corruption: give a smaller --n")
    return there if n is None else n


def _array(path: Path) -> npt.NDArray[Any]:
    """An array in a file, mapped and not read.

    Raises:
        InputError: it is missing, damaged, or holds Python objects, which would have to be unpickled.
    """
    try:
        return np.asanyarray(np.load(check_regular(path), mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{str(path)!r} is not a complete array of numbers: {error}") from error
