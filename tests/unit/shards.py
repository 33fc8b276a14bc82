"""Small Parquet folders as the hub lays them out, sound and damaged."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

SIDE = 8


def images(count: int, seed: int) -> torch.Tensor:
    drawn = np.random.default_rng(seed).integers(0, 256, (count, 3, SIDE, SIDE), dtype=np.uint8)
    return torch.from_numpy(drawn)


def png(image: torch.Tensor) -> bytes:
    return encoded(Image.fromarray(image.permute(1, 2, 0).numpy()))


def encoded(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.save(content, "png")
    return content.getvalue()


def table(pictures, labels, *, column="img") -> pa.Table:
    cells = [{"bytes": png(picture), "path": None} for picture in pictures]
    return pa.table({column: cells, "label": pa.array(list(labels), pa.int64())})


def write_split(folder, split, pictures, labels, *, shards=1, column="img"):
    folder.mkdir(exist_ok=True)
    for shard, positions in enumerate(np.array_split(np.arange(len(pictures)), shards)):
        part = table(pictures[positions], [labels[position] for position in positions], column=column)
        pq.write_table(part, folder / f"{split}-{shard:05d}-of-{shards:05d}.parquet")


def write_dataset(folder, *, train=20, test=6, order=None, shards=1, column="img"):
    """A sound data set; `order` permutes the rows of train."""
    order = list(range(train)) if order is None else order
    labels = [position % 10 for position in range(train)]
    write_split(folder, "train", images(train, 0)[order], [labels[i] for i in order], shards=shards, column=column)
    write_split(folder, "test", images(test, 1), [position % 10 for position in range(test)], column=column)
    return folder


def parquet_bytes(part: pa.Table) -> bytes:
    written = io.BytesIO()
    pq.write_table(part, written)
    return written.getvalue()
