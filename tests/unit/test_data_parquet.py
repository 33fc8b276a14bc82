import errno
import hashlib
import os
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import bat_core.data.cifar10 as cifar10
from bat_core.data import load_dataset
from bat_core.data.cifar10 import BINARY
from bat_core.data.columns import Wanted, choose
from bat_core.data.parquet import read_split
from bat_core.errors import InputError

from . import shards

TRAIN, TEST = "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"


@pytest.fixture
def folder(tmp_path):
    return shards.write_dataset(tmp_path / "data")


@pytest.mark.parametrize("count", [1, 3])
def test_images_and_labels_come_back_in_order(tmp_path, count):
    folder = shards.write_dataset(tmp_path / "data", shards=count)
    split = read_split(folder, "train")
    assert torch.equal(split.images, shards.images(20, 0))
    assert split.labels.tolist() == [position % 10 for position in range(20)]
    assert split.rows.tolist() == list(range(20))


def write_train(folder, part):
    pq.write_table(part, folder / TRAIN)


def with_cells(cells, labels=None):
    return pa.table({"img": cells, "label": [0] * len(cells) if labels is None else labels})


def cell(content):
    return {"bytes": content, "path": None}


SOUND = shards.png(shards.images(1, 0)[0])

DAMAGE = {
    "cut short": (lambda f: (f / TRAIN).write_bytes((f / TRAIN).read_bytes()[:-100]), "is truncated or damaged"),
    "cut to nothing": (lambda f: (f / TRAIN).write_bytes(b""), "is truncated or damaged"),
    "no test": (lambda f: (f / TEST).unlink(), "no file test-00000-of-NNNNN.parquet"),
    "missing shard": (
        lambda f: (f / TRAIN).rename(f / "train-00001-of-00002.parquet"),
        "shard 0 of the 2 of split 'train' is missing",
    ),
    "no label": (
        lambda f: write_train(f, pa.table({"img": [cell(SOUND)]})),
        "has columns img: it needs img or image, and label",
    ),
    "no image": (
        lambda f: write_train(f, pa.table({"picture": [1], "label": [1]})),
        "has columns picture, label: it needs img or image, and label",
    ),
    "no picture in the bytes": (lambda f: write_train(f, with_cells([cell(b"no picture")])), "cannot decode an image"),
    "empty bytes": (lambda f: write_train(f, with_cells([cell(SOUND), cell(b"")])), "cannot decode an image"),
    "null bytes": (lambda f: write_train(f, with_cells([cell(SOUND), cell(None)])), "cannot decode an image"),
    "null image": (lambda f: write_train(f, with_cells([cell(SOUND), None])), "cannot decode an image"),
    "a picture of a format that may start programs": (
        lambda f: write_train(f, with_cells([cell(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n")])),
        "cannot decode an image: cannot identify image file",
    ),
    "cut picture": (lambda f: write_train(f, with_cells([cell(SOUND[:60])])), "cannot decode an image"),
    "a path in place of bytes": (
        lambda f: write_train(f, with_cells([{"bytes": None, "path": "a.png"}])),
        "a row has a path, 'a.png', but no bytes",
    ),
    "numbers in place of bytes": (
        lambda f: write_train(f, with_cells([[1, 2]])),
        "cannot decode an image: a row has list",
    ),
    "high label": (lambda f: write_train(f, with_cells([cell(SOUND)] * 2, [0, 10])), "train labels span 0..10"),
    "low label": (lambda f: write_train(f, with_cells([cell(SOUND)] * 2, [-1, 3])), "train labels span -1..3"),
    "null label": (lambda f: write_train(f, with_cells([cell(SOUND)] * 2, [None, 3])), "label"),
    "word label": (lambda f: write_train(f, with_cells([cell(SOUND)] * 2, ["a", "b"])), "label"),
    "no rows": (lambda f: write_train(f, shards.table([], [])), "the train split has no images"),
    "two sizes": (
        lambda f: write_train(f, with_cells([cell(SOUND), cell(shards.png(torch.zeros(3, 4, 4, dtype=torch.uint8)))])),
        "the images of split 'train' differ in size",
    ),
    "another size than test": (
        lambda f: write_train(f, with_cells([cell(shards.png(torch.zeros(3, 4, 4, dtype=torch.uint8)))] * 20)),
        "train and test images differ in size",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_data_are_told_in_one_line(folder, damage):
    spoil, message = DAMAGE[damage]
    load_dataset("cifar10", folder)
    spoil(folder)
    with pytest.raises(InputError) as caught:
        load_dataset("cifar10", folder)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_may_be_the_column_itself(folder):
    """Without the hub's struct of bytes and path."""
    pictures = shards.images(20, 0)
    before = load_dataset("cifar10", folder)
    write_train(folder, with_cells([shards.png(picture) for picture in pictures], [place % 10 for place in range(20)]))
    assert torch.equal(load_dataset("cifar10", folder).train.images, before.train.images)


def records(pictures, labels):
    """CIFAR-10's binary version, written out."""
    return b"".join(bytes([label]) + picture.numpy().tobytes() for picture, label in zip(pictures, labels, strict=True))


@pytest.fixture
def binary_cifar(tmp_path):
    """The binary version's folder, two images a batch, and the images."""
    drawn = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8))
    folder = tmp_path / BINARY
    folder.mkdir()
    for number in range(5):
        part = slice(2 * number, 2 * number + 2)
        (folder / f"data_batch_{number + 1}.bin").write_bytes(records(drawn[part], range(10)[part]))
    (folder / "test_batch.bin").write_bytes(records(drawn[10:], [0, 1]))
    return tmp_path, drawn


def test_the_binary_version_gives_the_images(binary_cifar):
    root, drawn = binary_cifar
    data = load_dataset("cifar10", root, val_size=1)
    for part in (data.train, data.val):
        assert torch.equal(part.images, drawn[part.rows])
        assert torch.equal(part.labels, part.rows)
    assert torch.equal(data.test.images, drawn[10 + data.test.rows])
    assert torch.equal(data.test.labels, data.test.rows)


def test_both_formats_give_the_same_splits(binary_cifar, tmp_path):
    root, drawn = binary_cifar
    shards.write_split(tmp_path / "parquet", "train", drawn[:10].flip(0), list(range(9, -1, -1)))
    shards.write_split(tmp_path / "parquet", "test", drawn[10:], [0, 1])
    one, other = load_dataset("cifar10", root, val_size=3), load_dataset("cifar10", tmp_path / "parquet", val_size=3)
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(one, part).images, getattr(other, part).images)
        assert torch.equal(getattr(one, part).labels, getattr(other, part).labels)


def test_a_pixel_stands_where_the_format_says(tmp_path):
    """Byte 1 + 1024 c + 32 y + x of a record is the pixel of channel c, row y, column x."""
    picture = bytearray(3072)
    picture[1024 * 2 + 32 * 5 + 7] = 200
    folder = tmp_path / BINARY
    folder.mkdir()
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        (folder / name).write_bytes(b"\x03" + bytes(picture))
    image = load_dataset("cifar10", tmp_path, val_size=1).test.images[0]
    assert image.nonzero().tolist() == [[2, 5, 7]]
    assert image[2, 5, 7] == 200


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda f: f.write_bytes(f.read_bytes()[:-10]),
            r"data_batch_2.bin is truncated: its size of 6136 bytes is not a multiple",
        ),
        (lambda f: f.write_bytes(b""), r"data_batch_2.bin is truncated: its size of 0 bytes"),
        (lambda f: f.unlink(), rf"cannot read .*data_batch_2.bin: {os.strerror(errno.ENOENT)}$"),
        (lambda f: f.write_bytes(b"\x0a" + f.read_bytes()[1:]), r"train labels span 0..10"),
    ],
)
def test_a_damaged_batch_is_told(binary_cifar, spoil, message):
    root, _ = binary_cifar
    spoil(root / BINARY / "data_batch_2.bin")
    with pytest.raises(InputError, match=message):
        load_dataset("cifar10", root)


def test_the_archive_is_unpacked_if_its_digest_is_the_published_one(binary_cifar, tmp_path, monkeypatch):
    """It lies where it would have been fetched to; one of another digest is fetched anew."""
    root, _ = binary_cifar
    place, asked = tmp_path / "fetched", []
    place.mkdir()
    with tarfile.open(place / "cifar-10-binary.tar.gz", "w:gz") as packed:
        packed.add(root / BINARY, BINARY)

    def refuse(request, *_, **__):
        asked.append(request.full_url)
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(InputError, match=r"cannot download CIFAR-10 into .*fetched"):
        load_dataset("cifar10", place, download=True)
    assert cifar10.URL in asked
    digest = hashlib.md5((place / cifar10.ARCHIVE).read_bytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(cifar10, "MD5", digest)
    fetched, made = (load_dataset("cifar10", folder, download=True, val_size=1) for folder in (place, root))
    assert torch.equal(fetched.train.images, made.train.images)


def test_svhn_is_read_from_the_same_layout(tmp_path):
    folder = shards.write_dataset(tmp_path / "svhn", column="image")
    data = load_dataset("svhn", folder, val_size=2)
    assert data.class_names == tuple("0123456789")
    assert torch.equal(data.train.images, shards.images(20, 0)[data.train.rows])


def test_a_damaged_mat_file_is_told(tmp_path):
    (tmp_path / "train_32x32.mat").write_bytes(b"no matrix")
    with pytest.raises(InputError, match=r"has neither train-\*\.parquet nor a valid train_32x32\.mat"):
        load_dataset("svhn", tmp_path)


def test_two_columns_of_one_name_are_refused():
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64()), ("label", pa.int64())])
    with pytest.raises(InputError, match=r"has two columns named 'label': rename one"):
        choose(schema, Wanted(), Path("train.parquet"))
