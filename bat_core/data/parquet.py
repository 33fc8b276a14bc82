"""Folders of Parquet files in the layout of the Hugging Face hub: {split}-{shard}-of-{count}.parquet."""

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from bat_core.data.base import Split
from bat_core.errors import InputError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMN = "label"
FORMATS = ("PNG", "JPEG", "WEBP")  # some of Pillow's other decoders start external programs
SHARD = re.compile(r"(?P<split>\w+)-(?P<shard>\d+)-of-(?P<count>\d+)\.parquet")


def has_parquet(folder: Path) -> bool:
    """Whether the folder contains any Parquet files."""
    return any(folder.glob("*.parquet"))


def read_split(folder: Path, split: str) -> Split:
    """All shards of one split in row order, with decoded images.

    Args:
        split: "train" or "test".
    Returns:
        A split with images uint8 (N, 3, H, W).
    Raises:
        InputError: a shard is missing, truncated or damaged, lacks a column, or images differ in size.
    """
    images: list[Tensor] = []
    labels: list[int] = []
    for path in _shards(folder, split):
        table = _read(path)
        image_column = next((name for name in IMAGE_COLUMNS if name in table.column_names), None)
        if image_column is None or LABEL_COLUMN not in table.column_names:
            raise InputError(f"{path} has columns {', '.join(table.column_names)}: it needs img or image, and label")
        images += [_decode(cell, path) for cell in _cells(table.column(image_column), path)]
        labels += _labels(table.column(LABEL_COLUMN), path)
    if len({image.shape for image in images}) > 1:
        raise InputError(f"{folder}: the images of split {split!r} differ in size")
    stacked = torch.stack(images) if images else torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    return Split.of(stacked, torch.tensor(labels, dtype=torch.int64))


def _shards(folder: Path, split: str) -> list[Path]:
    found = {}
    count = 0
    for path in sorted(folder.glob("*.parquet")):
        match = SHARD.fullmatch(path.name)
        if match and match["split"] == split:
            found[int(match["shard"])] = path
            count = max(count, int(match["count"]))
    if not found:
        raise InputError(f"{folder} has no file {split}-00000-of-NNNNN.parquet: give a folder that contains it")
    missing = [shard for shard in range(count) if shard not in found]
    if missing:
        raise InputError(f"{folder}: shard {missing[0]} of the {count} of split {split!r} is missing")
    return [found[shard] for shard in range(count)]


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, partitioning=None)
        table.column_names  # noqa: B018 (raises here if a name is not valid text)
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"cannot read {path} as Parquet, it is truncated or damaged: {reason}") from error
    return table


def _cells(column: pa.ChunkedArray, path: Path) -> list[Any]:
    try:
        return column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise InputError(f"{path}: cannot decode an image: its column has type {column.type}") from error


def _labels(column: pa.ChunkedArray, path: Path) -> list[int]:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise InputError(
            f"{path}: column label has type {column.type} with {column.null_count} nulls: it must be integers without"
            " nulls"
        )
    return column.to_pylist()


def _decode(cell: dict[str, bytes], path: Path) -> Tensor:
    try:
        image = Image.open(io.BytesIO(cell["bytes"]), formats=FORMATS).convert("RGB")
    except Exception as error:  # decoders raise many different exceptions on damaged data
        raise InputError(f"{path}: cannot decode an image: {' '.join(str(error).split())[:200]}") from error
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
