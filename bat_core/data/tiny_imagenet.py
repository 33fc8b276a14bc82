"""Tiny ImageNet, from its own folders of JPEGs, {train,val}/, or from Parquet files as on the Hugging Face hub."""

import os
from collections.abc import Sequence
from pathlib import Path

from bat_core.data.augment import Augmentation
from bat_core.data.base import DATASETS, Source, Split
from bat_core.data.folders import list_split, same_classes, split_of
from bat_core.data.parquet import read_published
from bat_core.data.request import Request, is_hidden, locate
from bat_core.data.shards import find_shards
from bat_core.errors import InputError

LAYOUT = "train/<wnid>/images/*.JPEG, val/images/*.JPEG and val/val_annotations.txt"
ANNOTATIONS = "val_annotations.txt"  # lines of: file, wnid, and a box, separated by tabs
SIZE = (64, 64)
CLASSES = 200
AUGMENTATION = Augmentation(pad=8, flip=True)


@DATASETS.register("tiny_imagenet")
def tiny_imagenet(request: Request) -> Source:
    """100,000 train and 10,000 test images, 3x64x64, in 200 classes; the test split is the published val.

    Classes are the WordNet ids, sorted, as torchvision's ImageFolder numbers them. The published test images have no
    labels. Images are streamed from their files; those in Parquet files are in memory.

    Source: Y. Le and X. Yang, Tiny ImageNet visual recognition challenge, CS 231N, Stanford, 2015.
    """
    given = request.require_dir(downloadable=False)
    if shards := find_shards(given, request.name):
        train, test = read_published(shards, request)
        numbers = tuple(str(number) for number in range(CLASSES))
        return Source(train=train, test=test, class_names=numbers, augmentation=AUGMENTATION)
    request.refuse_columns()
    folder = locate(given, _has_splits, name=request.name)
    if folder is None:
        raise InputError(f"data folder {str(given)!r} has no train/ or val/: give one with the layout {LAYOUT}")
    train, classes = _train(folder, request.workers) if (folder / "train").is_dir() else (None, None)
    test, classes = _val(folder, classes, request.workers)
    return Source(train=train, test=test, class_names=tuple(classes), augmentation=AUGMENTATION)


def _has_splits(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in ("train", "val"))


def _train(folder: Path, workers: int | None) -> tuple[Split, Sequence[str]]:
    root = folder / "train"
    classes = sorted(child.name for child in root.iterdir() if child.is_dir() and not is_hidden(child.name))
    listed = [(_files(root, name), number) for number, name in enumerate(classes)]
    names = [name for files, _ in listed for name in files]
    labels = [number for files, number in listed for _ in files]
    if empty := next((classes[number] for files, number in listed if not files), None):
        raise InputError(f"data folder {str(folder)!r} must have the layout {LAYOUT}: train/{empty}/ has no images")
    if not names:
        raise InputError(f"data folder {str(folder)!r} must have the layout {LAYOUT}: train/ has no class folders")
    return split_of(root, names, labels, SIZE, workers), classes


def _files(root: Path, name: str) -> list[str]:
    """The images of one class, sorted: in images/, or directly in its folder."""
    place = root / name / "images"
    place = place if place.is_dir() else root / name
    return sorted(str(path.relative_to(root)) for path in place.iterdir() if path.suffix.lower() in (".jpeg", ".jpg"))


def _val(folder: Path, classes: Sequence[str] | None, workers: int | None) -> tuple[Split, Sequence[str]]:
    """The published val with its annotations, or sorted into class folders, as some tools do."""
    root, annotations = folder / "val", folder / "val" / ANNOTATIONS
    if not root.is_dir():
        raise InputError(f"data folder {str(folder)!r} has no val/: give one with the layout {LAYOUT}")
    if not annotations.is_file():
        if (root / "images").is_dir():
            raise InputError(f"{root} has no {ANNOTATIONS}, which holds the labels: give a folder with it")
        test, found = list_split(folder, "val", LAYOUT, workers=workers)
        if classes is not None:
            same_classes(folder, (classes, "train"), (found, "val"))
        names = [os.fsdecode(name) for name in test.images.names]  # type: ignore[union-attr]
        return split_of(root, names, test.labels.tolist(), SIZE, workers), found
    try:
        lines = annotations.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {annotations}: it is damaged; replace it") from error
    rows = [line.split("\t") for line in lines if line.strip()]
    if odd := next((row for row in rows if len(row) < 2 or "/" in row[0]), None):
        raise InputError(f"{annotations}: the line {' '.join(odd)[:100]!r} is not a file and a class: replace the file")
    classes = classes or _known_classes(folder) or sorted({row[1] for row in rows})
    places = {name: number for number, name in enumerate(classes)}
    if unknown := next((row[1] for row in rows if row[1] not in places), None):
        raise InputError(f"{annotations} names the class {unknown!r}, which train/ does not have: replace one of them")
    rows.sort()
    names = [os.path.join("images", row[0]) for row in rows]  # noqa: PTH118 (a string)
    return split_of(root, names, [places[row[1]] for row in rows], SIZE, workers), classes


def _known_classes(folder: Path) -> list[str]:
    """The classes in wnids.txt, sorted; none if there is no such file."""
    try:
        return sorted((folder / "wnids.txt").read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        return []
