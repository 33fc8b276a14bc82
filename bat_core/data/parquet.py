"""Reads images and labels from Parquet files: {split}-{shard}-of-{count}.parquet, as on the Hugging Face hub."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from bat_core.data.base import Split
from bat_core.data.columns import IMAGE_NAMES, Columns, Wanted, choose, is_text, is_whole
from bat_core.data.decoding import decode_image, to_array
from bat_core.data.request import Request
from bat_core.data.shards import Shards, find_shards
from bat_core.errors import InputError
from bat_core.paths import check_regular

HUB = Wanted(IMAGE_NAMES, ("label",))

Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"
Crop: TypeAlias = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True)
class Rows:
    """The rows of one split: images uint8 (C, H, W) with 1 or 3 channels each, labels as stored, and class names."""

    images: list[Array]
    labels: list[int] | list[str]
    columns: Columns

    @property
    def grey(self) -> bool:
        """Whether every image has one channel."""
        return all(len(image) == 1 for image in self.images)


def read_split(folder: Path, split: str) -> Split:
    """All shards of one split in row order, with decoded images.

    Args:
        split: "train" or "test".
    Returns:
        A split with images uint8 (N, 3, H, W).
    Raises:
        InputError: a shard is missing, truncated or damaged, lacks a column, or images differ in size.
    """
    shards = find_shards(folder) or Shards(folder, {})
    return integer_split(read_rows(shards.of(split), HUB), split, shards.folder, channels=3)


def read_published(
    shards: Shards, request: Request, *, wanted: Wanted = HUB, channels: int = 3
) -> tuple[Split | None, Split]:
    """Train, if there is one, and test of a data set whose classes are numbered as published.

    Args:
        wanted: the names of its columns; those that the user typed have precedence.
    Raises:
        InputError: as `read_split`.
    """
    wanted = wanted.typed(request.image_column, request.label_column)

    def read(split: str) -> Split:
        return integer_split(read_rows(shards.of(split), wanted), split, shards.folder, channels=channels)

    train = read("train") if "train" in shards.splits else None
    return train, read(shards.held_out())


def read_rows(paths: Sequence[Path], wanted: Wanted, *, crop: Crop | None = None) -> Rows:
    """The rows of all shards of one split.

    Args:
        crop: applied to each decoded image.
    Raises:
        InputError: a shard is truncated or damaged, lacks a column or has others than the first shard, or an image
            cannot be decoded.
    """
    images: list[Array] = []
    labels: list[Any] = []
    columns = None
    for path in paths:
        table, columns = _read(path, Wanted((columns.image,), (columns.label,)) if columns else wanted)
        images += [_decode(cell, path, crop) for cell in _cells(table.column(columns.image), path)]
        labels += _labels(table.column(columns.label), columns.label, path)
    assert columns is not None
    return Rows(images, labels, columns)


def integer_split(rows: Rows, split: str, folder: Path, *, channels: int) -> Split:
    """The rows as a split whose labels are the stored integers.

    Raises:
        InputError: labels are text, images differ in size, or one is in colour and `channels` is 1.
    """
    if any(isinstance(label, str) for label in rows.labels):
        raise InputError(
            f"{folder}: column {rows.columns.label} of split {split!r} is text: it must be integers without nulls"
        )
    return Split.of(stack(rows.images, split, folder, channels), torch.tensor(rows.labels, dtype=torch.int64))


def stack(images: Sequence[Array], split: str, folder: Path, channels: int) -> torch.Tensor:
    """Images of one size as uint8 (N, channels, H, W).

    Raises:
        InputError: they differ in size, or one is in colour and `channels` is 1.
    """
    if not images:
        return torch.empty(0, channels, 1, 1, dtype=torch.uint8)
    sizes = Counter(image.shape[1:] for image in images)
    if len(sizes) > 1:
        (one, _), (other, _) = sizes.most_common(2)
        raise InputError(
            f"{folder}: the images of split {split!r} differ in size, such as {one[0]}x{one[1]} and"
            f" {other[0]}x{other[1]}: bring them to one size"
        )
    if channels == 1 and any(len(image) > 1 for image in images):
        raise InputError(f"{folder}: split {split!r} has images in colour: they must be grey")
    stacked = np.empty((len(images), channels, *images[0].shape[1:]), dtype=np.uint8)
    for place, image in zip(stacked, images, strict=True):
        place[:] = image  # one channel is repeated
    return torch.from_numpy(stacked)


def _read(path: Path, wanted: Wanted) -> tuple[pa.Table, Columns]:
    try:
        schema = pq.read_schema(check_regular(path))
        schema.names  # noqa: B018 (raises here if a name is not valid text)
        columns = choose(schema, wanted, path)
        table = pq.read_table(path, partitioning=None, columns=[columns.image, columns.label])
        table.column(columns.image), table.column(columns.label)
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, MemoryError, KeyError) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"cannot read {path} as Parquet, it is truncated or damaged: {reason}") from error
    return table, columns


def _cells(column: pa.ChunkedArray, path: Path) -> list[Any]:
    try:
        return column.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise InputError(f"{path}: cannot decode an image: its column has type {column.type}") from error


def _labels(column: pa.ChunkedArray, name: str, path: Path) -> list[Any]:
    if not (is_whole(column.type) or is_text(column.type)) or column.null_count:
        raise InputError(
            f"{path}: column {name} has type {column.type} with {column.null_count} nulls: it must be integers (or, in"
            " data set 'parquet', text) without nulls"
        )
    try:
        values = column.to_pylist()
    except (pa.ArrowException, ValueError) as error:
        raise InputError(f"{path}: cannot read column {name}: {' '.join(str(error).split())[:200]}") from error
    return values if is_text(column.type) else [int(value) for value in values]


def _decode(cell: dict[str, bytes] | bytes | None, path: Path, crop: Crop | None) -> Array:
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    if content is None and isinstance(cell, dict) and cell.get("path"):
        raise InputError(
            f"{path}: cannot decode an image: a row has a path, {str(cell['path'])[:100]!r}, but no bytes; write the"
            " images themselves into the file"
        )
    if not isinstance(content, bytes):
        kind = "null" if content is None else type(content).__name__
        raise InputError(f"{path}: cannot decode an image: a row has {kind} in place of encoded bytes")
    try:
        image = decode_image(content)
        return to_array(crop(image) if crop else image)
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many different exceptions on damaged data
        raise InputError(f"{path}: cannot decode an image: {' '.join(str(error).split())[:200]}") from error
