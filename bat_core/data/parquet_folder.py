"""Any folder of Parquet files with a column of encoded images and one of labels."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import torch
from PIL import Image

from bat_core.data.augment import shifts
from bat_core.data.base import DATASETS, Source, Split
from bat_core.data.columns import Wanted, class_indices
from bat_core.data.parquet import Rows, read_rows, stack
from bat_core.data.request import Request
from bat_core.data.shards import find_shards
from bat_core.errors import InputError

FEW = 20  # images; with more, a class for each is taken for a mistake


@DATASETS.register("parquet")
def parquet(request: Request) -> Source:
    """Images of one size, in colour or grey, with any number of classes, in memory.

    Columns are found by their type, or named by --image-column and --label-column. Classes and their names are those
    of the Hugging Face metadata, if the files have any; else text labels in sorted order, or integers from 0 (or from
    1, without a gap). Images that are all grey have one channel. With --image-size, images are resized and their
    centre is cropped. The test split is "test", or "validation" if there is none.
    """
    folder = request.require_dir(downloadable=False)
    shards = find_shards(folder, request.name)
    if shards is None:
        raise InputError(
            f"data folder {str(folder)!r} has no Parquet files: give one with train-00000-of-00001.parquet and"
            " test-00000-of-00001.parquet"
        )
    held_out = shards.held_out()
    wanted = Wanted().typed(request.image_column, request.label_column)
    crop = partial(_crop, size=request.image_size) if request.image_size else None
    rows = {}
    for split in ("train", held_out):
        if split == held_out or split in shards.splits:
            rows[split] = read_rows(shards.of(split), wanted, crop=crop)
            wanted = Wanted((rows[split].columns.image,), (rows[split].columns.label,))
    labels, class_names = _classes(rows, shards.folder, typed=request.label_column is not None)
    channels = 1 if all(part.grey for part in rows.values()) else 3
    splits = {
        split: Split.of(
            stack(part.images, split, shards.folder, channels), torch.tensor(labels[split], dtype=torch.int64)
        )
        for split, part in rows.items()
    }
    test = splits[held_out]
    return Source(
        train=splits.get("train"), test=test, class_names=class_names, augmentation=shifts(*test.images.shape[2:])
    )


def _classes(rows: Mapping[str, Rows], folder: Path, *, typed: bool) -> tuple[dict[str, list[int]], tuple[str, ...]]:
    columns = [part.columns for part in rows.values()]
    where = f"{folder}: column {columns[0].label}"
    if len({column.class_names for column in columns}) > 1:
        raise InputError(f"{where}: the splits' metadata name other classes: write them all in one way")
    indices, names = class_indices([part.labels for part in rows.values()], columns[0].class_names, where)
    labels = dict(zip(rows, indices, strict=True))
    first = next(iter(labels.values()))
    if not typed and columns[0].class_names is None and len(set(first)) == len(first) > FEW:
        raise InputError(f"{where}: each of {len(first)} images has its own class: choose the labels by --label-column")
    texts = [{label for label in part.labels if isinstance(label, str)} for part in rows.values()]
    if "train" in rows and (new := sorted(texts[-1] - texts[0])):
        raise InputError(f"{where}: the class {new[0]!r} is in test and not in train: add images of it to train")
    return labels, names


def _crop(image: Image.Image, *, size: int) -> Image.Image:
    """The central 7/8 of an image, resized to size x size; an image of that size is returned as it is."""
    from torchvision.transforms.v2 import functional

    if image.size == (size, size):
        return image
    resized = functional.resize(image, [round(size * 8 / 7)])
    return cast(Image.Image, functional.center_crop(resized, [size, size]))
