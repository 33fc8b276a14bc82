"""Lists folders of images, one folder a class."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bat_core.data.base import Split
from bat_core.data.decoding import is_grey, open_image
from bat_core.data.files import ImageFiles
from bat_core.data.request import Request, is_hidden
from bat_core.errors import InputError

DEFAULT_SIZE = 224
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's


def list_split(
    folder: Path, part: str, layout: str, *, size: int | tuple[int, int] = DEFAULT_SIZE, workers: int | None = None
) -> tuple[Split, tuple[str, ...]]:
    """The images in `folder`/`part`/<class>/, not decoded, and the classes, sorted.

    Args:
        layout: the layout that an error asks for.
    Raises:
        InputError: the folder is missing, has no classes, a class without images, or images at another depth.
    """
    root = folder / part
    if not root.is_dir():
        raise InputError(f"data folder {str(folder)!r} has no {part}/: give one with the layout {layout}")
    try:
        classes = _classes(root)
        listed = [_class_files(root, name) for name in classes]
    except OSError as error:
        raise InputError(f"data folder {str(folder)!r} must have the layout {layout}: {error}") from error
    empty = [name for name, one in zip(classes, listed, strict=True) if not len(one.names) and one.nested is None]
    if empty:
        raise InputError(
            f"data folder {str(folder)!r} must have the layout {layout}: Found no valid file for the classes"
            f" {', '.join(empty)} in {part}/. Supported extensions are: {', '.join(IMAGE_SUFFIXES)}"
        )
    if nested := next((one.nested for one in listed if one.nested is not None), None):
        raise InputError(
            f"data folder {str(folder)!r} must have the layout {layout}: {part}/{nested} is nested too deeply"
        )
    labels = np.repeat(np.arange(len(classes)), [len(one.names) for one in listed])
    files = ImageFiles(root.absolute(), np.concatenate([one.names for one in listed]), size, workers)
    return Split.of(files, torch.from_numpy(labels)), tuple(classes)


@dataclass(frozen=True)
class _ClassFiles:
    """The images of a class, `class/file`, sorted; and one that lies deeper, if there is one."""

    names: npt.NDArray[np.bytes_]
    nested: str | None


def _class_files(root: Path, name: str) -> _ClassFiles:
    """List a class. A data set may have a million files, so there is no Python object of each that stays.

    Raises:
        InputError: a companion file of macOS is among them.
        OSError: the folder cannot be read.
    """
    found: list[str] = []
    folders: list[str] = []
    with os.scandir(root / name) as entries:
        for entry in entries:
            if entry.is_dir():
                folders.append(entry.name)
            elif _is_image(entry.name):
                found.append(entry.name)
    found.sort()
    _refuse_companions(root, (f"{name}/{file}" for file in found))
    deeper = (_first_image(root, f"{name}/{folder}") for folder in sorted(folders) if not is_hidden(folder))
    nested = next(filter(None, deeper), None)
    return _ClassFiles(np.array([os.fsencode(f"{name}/{file}") for file in found], dtype=np.bytes_), nested)


def _first_image(root: Path, folder: str) -> str | None:
    """The first image in a folder or below; None if there is none."""
    for path, folders, files in os.walk(root / folder, followlinks=True):
        folders[:] = sorted(one for one in folders if not is_hidden(one))
        if image := min(filter(_is_image, files), default=None):
            return (Path(path) / image).relative_to(root).as_posix()
    return None


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _refuse_companions(root: Path, names: Iterable[str]) -> None:
    if odd := next((name for name in names if name.rpartition("/")[2].startswith("._")), None):
        raise InputError(f"{root / odd} is metadata of macOS and not an image: remove the files whose names start ._")


def _classes(root: Path) -> list[str]:
    """The folders in `root`, sorted, without hidden ones such as Jupyter's .ipynb_checkpoints."""
    with os.scandir(root) as entries:
        classes = sorted(entry.name for entry in entries if entry.is_dir() and not is_hidden(entry.name))
    if not classes:
        raise FileNotFoundError(f"Couldn't find any class folder in {root}.")
    return classes


def split_of(
    root: Path, names: Sequence[str], labels: Sequence[int], size: int | tuple[int, int], workers: int | None
) -> Split:
    """A split of the files `names` below `root`.

    Raises:
        InputError: one of them is a companion file of macOS.
    """
    _refuse_companions(root, names)
    files = ImageFiles(root.absolute(), np.array([os.fsencode(name) for name in names]), size, workers)
    return Split.of(files, torch.tensor(labels, dtype=torch.int64))


def same_classes(folder: Path, train: tuple[Sequence[str], str], test: tuple[Sequence[str], str]) -> None:
    """Check that two splits, given as classes and name, have the same classes.

    Raises:
        InputError: only one of them has some class.
    """
    if odd := set(train[0]) ^ set(test[0]):
        raise InputError(
            f"{folder}: {train[1]}/ and {test[1]}/ must have the same classes, but only one has {min(odd)!r}"
        )


def native_form(files: Iterable[ImageFiles], request: Request) -> tuple[int | tuple[int, int], int]:
    """The size and channels to read files with, from their headers.

    Files that all have one size are kept as they are, unless another --image-size was given; otherwise they are
    cropped to it, by default to 224. One channel is kept if every file is grey. Headers are read only until both are
    known.

    Returns:
        (H, W) of images that are kept as they are, or the size to crop to; and 1 or 3 channels.
    Raises:
        InputError: a file cannot be read.
    """
    wanted = request.image_size and (request.image_size, request.image_size)
    first: tuple[int, int] | None = None
    uniform = grey = True
    for part in files:
        for raw in part.names.tolist():
            path = part.root / os.fsdecode(raw)
            try:
                with open_image(path) as image:
                    size, grey = (image.height, image.width), grey and is_grey(image)
            except Exception as error:  # decoders raise many different exceptions on damaged files
                reason = getattr(error, "strerror", None) or "it is empty, damaged, too large or not an image"
                raise InputError(f"cannot read {path}: {reason}; replace or remove it") from error
            first = first or size
            uniform = uniform and size == (wanted or first)
            if not uniform and not grey:
                return request.image_size or DEFAULT_SIZE, 3
    assert first is not None
    return first if uniform else request.image_size or DEFAULT_SIZE, 1 if grey else 3
