import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.datasets import CIFAR10

from bat_core.data import load_dataset
from bat_core.data.cifar10 import PlainUnpickler
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
    "cut short": (lambda f: (f / TRAIN).write_bytes((f / TRAIN).read_bytes()[:-100]), "is cut short or damaged"),
    "cut to nothing": (lambda f: (f / TRAIN).write_bytes(b""), "is cut short or damaged"),
    "no test": (lambda f: (f / TEST).unlink(), "no file test-00000-of-NNNNN.parquet in it"),
    "no train": (lambda f: (f / TRAIN).unlink(), "no file train-00000-of-NNNNN.parquet in it"),
    "missing shard": (
        lambda f: (f / TRAIN).rename(f / "train-00001-of-00002.parquet"),
        "shard 0 of the 2 of split 'train' is missing",
    ),
    "no label": (
        lambda f: write_train(f, pa.table({"img": [cell(SOUND)]})),
        "columns are img; needed: img or image, and label",
    ),
    "no image": (
        lambda f: write_train(f, pa.table({"picture": [1], "label": [1]})),
        "columns are picture, label; needed: img or image, and label",
    ),
    "no picture in the bytes": (lambda f: write_train(f, with_cells([cell(b"no picture")])), "cannot be decoded"),
    "empty bytes": (lambda f: write_train(f, with_cells([cell(SOUND), cell(b"")])), "cannot be decoded"),
    "null bytes": (lambda f: write_train(f, with_cells([cell(SOUND), cell(None)])), "cannot be decoded"),
    "null image": (lambda f: write_train(f, with_cells([cell(SOUND), None])), "cannot be decoded"),
    "cut picture": (lambda f: write_train(f, with_cells([cell(SOUND[:60])])), "cannot be decoded"),
    "plain bytes": (lambda f: write_train(f, with_cells([SOUND])), "cannot be decoded"),
    "high label": (lambda f: write_train(f, with_cells([cell(SOUND)] * 2, [0, 10])), "train labels span 0..10"),
    "low label": (lambda f: write_train(f, with_cells([cell(SOUND)] * 2, [-1, 3])), "train labels span -1..3"),
    "null label": (lambda f: write_train(f, with_cells([cell(SOUND)] * 2, [None, 3])), "label"),
    "word label": (lambda f: write_train(f, with_cells([cell(SOUND)] * 2, ["a", "b"])), "label"),
    "no rows": (lambda f: write_train(f, shards.table([], [])), "its train split holds no images"),
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


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


def batch(pictures, labels):
    return pickle.dumps({"data": pictures.numpy().reshape(-1, 3072), "labels": labels, "batch_label": "b"}, protocol=2)


@pytest.fixture
def small_cifar(tmp_path, monkeypatch):
    """torchvision's folder with two batches of a few images; gives a function that (re)writes one batch."""
    import hashlib

    drawn = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8))
    parts = {"data_batch_1": slice(0, 5), "data_batch_2": slice(5, 10), "test_batch": slice(10, 12)}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", ""], ["data_batch_2", ""]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", ""]])
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(content)
        for entry in (*CIFAR10.train_list, *CIFAR10.test_list):
            if entry[0] == name:
                entry[1] = hashlib.md5(content, usedforsecurity=False).hexdigest()

    for name, part in parts.items():
        write(name, batch(drawn[part], list(range(10))[part] or [0, 1]))
    return tmp_path, drawn, write


def test_torchvisions_folder_gives_the_images(small_cifar):
    root, drawn, _ = small_cifar
    data = load_dataset("cifar10", root, val_size=1)
    for part in (data.train, data.val):
        assert torch.equal(part.images, drawn[part.rows])
        assert torch.equal(part.labels, part.rows)
    assert torch.equal(data.test.images, drawn[10 + data.test.rows])


def test_both_formats_give_the_same_splits(small_cifar, tmp_path):
    root, drawn, _ = small_cifar
    shards.write_split(tmp_path / "parquet", "train", drawn[:10].flip(0), list(range(9, -1, -1)))
    shards.write_split(tmp_path / "parquet", "test", drawn[10:], [0, 1])
    one, other = load_dataset("cifar10", root, val_size=3), load_dataset("cifar10", tmp_path / "parquet", val_size=3)
    for part in ("train", "val", "test"):
        assert torch.equal(getattr(one, part).images, getattr(other, part).images)
        assert torch.equal(getattr(one, part).labels, getattr(other, part).labels)


def test_a_batch_that_is_not_the_published_one(small_cifar):
    root, _, _ = small_cifar
    path = root / CIFAR10.base_folder / "data_batch_2"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"data_batch_2 is cut short or is not the published file: its MD5 differs$"):
        load_dataset("cifar10", root)
    path.unlink()
    with pytest.raises(InputError, match=r"data_batch_2 cannot be read: No such file or directory$"):
        load_dataset("cifar10", root)


def test_a_pickle_that_would_run_something_is_refused_and_not_run(small_cifar, tmp_path):
    root, _, write = small_cifar
    proof = tmp_path / "ran"
    evil = pickle.dumps({"data": Evil(proof), "labels": []})
    with pytest.raises(pickle.UnpicklingError, match=r"system has no place in a batch of images"):
        PlainUnpickler(evil).load_batch()
    write("data_batch_1", evil)
    with pytest.raises((InputError, pickle.UnpicklingError)):
        load_dataset("cifar10", root)
    assert not proof.exists()


def test_svhn_is_read_from_the_same_layout(tmp_path):
    folder = shards.write_dataset(tmp_path / "svhn", column="image")
    data = load_dataset("svhn", folder, val_size=2)
    assert data.class_names == tuple("0123456789")
    assert torch.equal(data.train.images, shards.images(20, 0)[data.train.rows])


def test_a_damaged_mat_file_is_told(tmp_path):
    (tmp_path / "train_32x32.mat").write_bytes(b"no matrix")
    with pytest.raises(InputError, match=r"holds neither train-\*\.parquet nor a sound train_32x32\.mat"):
        load_dataset("svhn", tmp_path)
