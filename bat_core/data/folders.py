"""Lists folders of images, one folder a class."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from bat_core.data.base import Split
from bat_core.data.decoding import is_grey, open_image
from bat_core.data.files import ImageFiles
from bat_core.data.request import Request, is_hidden
from bat_core.errors import InputError

DEFAULT_SIZE = 224


def list_split(
    folder: Path, part: str, layout: str, *, size: int = DEFAULT_SIZE, workers: int | None = None
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
        found = make_dataset(str(root), {name: number for number, name in enumerate(classes)}, IMG_EXTENSIONS)
    except OSError as error:
        raise InputError(f"data folder {str(folder)!r} must have the layout {layout}: {error}") from error
    relative = [(Path(path).relative_to(root), label) for path, label in found]
    samples = [(str(path), label) for path, label in relative if not any(map(is_hidden, path.parts[:-1]))]
    if nested := next((name for name, _ in samples if name.count(os.sep) != 1), None):
        raise InputError(
            f"data folder {str(folder)!r} must have the layout {layout}: {part}/{nested} is nested too deeply"
        )
    if empty := sorted(set(classes) - {classes[label] for _, label in samples}):
        raise InputError(f"data folder {str(folder)!r} must have the layout {layout}: {part}/{empty[0]}/ has no images")
    names, labels = [name for name, _ in samples], [label for _, label in samples]
    return split_of(root, names, labels, size, workers), tuple(classes)


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
    if odd := next((name for name in names if Path(name).name.startswith("._")), None):
        raise InputError(f"{root / odd} is metadata of macOS and not an image: remove the files whose names start ._")
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
