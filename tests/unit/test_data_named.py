"""MNIST, Fashion-MNIST, CIFAR-100 and Tiny ImageNet in the formats of their authors, in small."""

import gzip
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bat_core.data import load_dataset
from bat_core.data.cifar100 import COARSE, FINE
from bat_core.errors import InputError

from . import shards

RNG = np.random.default_rng(0)
DIGITS = {split: RNG.integers(0, 256, (count, 28, 28), dtype=np.uint8) for split, count in (("train", 20), ("t10k", 5))}


def write_idx(folder, *, splits=("train", "t10k"), dot=False, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for split in splits:
        images = DIGITS[split]
        contents = {
            "images-idx3-ubyte": struct.pack(">4I", 2051, *images.shape) + images.tobytes(),
            "labels-idx1-ubyte": struct.pack(">2I", 2049, len(images)) + bytes(range(10)) * (len(images) // 5),
        }
        contents["labels-idx1-ubyte"] = contents["labels-idx1-ubyte"][: 8 + len(images)]
        for kind, content in contents.items():
            name = f"{split}-{kind.replace('-idx', '.idx') if dot else kind}"
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content) if packed else content)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize(("place", "form"), [(".", {}), ("raw", {"packed": True}), ("{}/raw", {"dot": True})])
def test_idx_files_are_read_where_they_lie(tmp_path, name, place, form):
    torchvisions = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name]
    write_idx(tmp_path / place.format(torchvisions), **form)
    data = load_dataset(name, tmp_path, val_size=3)
    assert data.image_shape == (1, 28, 28)
    assert data.num_classes == 10
    for part in (data.train, data.val):
        assert np.array_equal(part.images[:, 0].numpy(), DIGITS["train"][part.rows])
        assert torch.equal(part.labels, part.rows % 10)
    assert np.array_equal(data.test.images[:, 0].numpy(), DIGITS["t10k"][data.test.rows])


def test_mnist_from_parquet_is_the_same(tmp_path):
    write_idx(tmp_path / "idx")
    for split, stem in (("train", "train"), ("test", "t10k")):
        cells = [{"bytes": shards.encoded(Image.fromarray(digit)), "path": None} for digit in DIGITS[stem]]
        (tmp_path / "hub" / "mnist").mkdir(parents=True, exist_ok=True)
        part = pa.table({"image": cells, "label": [number % 10 for number in range(len(cells))]})
        pq.write_table(part, tmp_path / "hub" / "mnist" / f"{split}-00000-of-00001.parquet")
    one, other = (load_dataset("mnist", tmp_path / place, val_size=3) for place in ("idx", "hub"))
    for part in ("train", "val", "test"):
        assert torch.equal(one.part(part).images, other.part(part).images)
        assert torch.equal(one.part(part).labels, other.part(part).labels)


def test_mnist_in_colour_is_refused(tmp_path):
    shards.write_dataset(tmp_path, column="image")
    with pytest.raises(InputError, match="split 'train' has images in colour: they must be grey"):
        load_dataset("mnist", tmp_path)


def test_the_test_files_alone_are_enough_to_evaluate_on(tmp_path):
    write_idx(tmp_path, splits=("t10k",))
    data = load_dataset("mnist", tmp_path)
    assert (len(data.train), len(data.test)) == (0, 5)


@pytest.mark.parametrize("harm", [lambda c: c[:40], lambda c: b"", lambda c: c[:3] + b"\x09" + c[4:], lambda c: c + c])
def test_a_damaged_idx_file_is_named(tmp_path, harm):
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(InputError, match=r"cannot read .*train-images-idx3-ubyte, it is truncated or damaged"):
        load_dataset("mnist", tmp_path)


def test_a_missing_or_shorter_file_is_named(tmp_path):
    write_idx(tmp_path)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    labels.write_bytes(struct.pack(">2I", 2049, 3) + bytes(3))
    with pytest.raises(InputError, match="hold 3 labels and images of shape"):
        load_dataset("mnist", tmp_path)
    labels.unlink()
    with pytest.raises(InputError, match="has no t10k-labels-idx1-ubyte"):
        load_dataset("mnist", tmp_path)


IMAGES = RNG.integers(0, 256, (14, 3, 32, 32), dtype=np.uint8)


def write_cifar100(folder):
    folder.mkdir(parents=True)
    for name, rows in (("train.bin", range(12)), ("test.bin", range(12, 14))):
        content = b"".join(bytes([row % 20, 99 - row]) + IMAGES[row].tobytes() for row in rows)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("place", [".", "cifar-100-binary", "cifar100"])
def test_the_binary_version_of_cifar_100(tmp_path, place):
    write_cifar100(tmp_path / "d" / place)
    data = load_dataset("cifar100", tmp_path / "d", val_size=2)
    assert data.class_names == FINE
    assert torch.equal(data.train.labels, 99 - data.train.rows)
    assert np.array_equal(data.train.images.numpy(), IMAGES[data.train.rows])
    coarse = load_dataset("cifar100", tmp_path / "d", val_size=2, label_column="coarse_label")
    assert coarse.class_names == COARSE
    assert torch.equal(coarse.train.labels, coarse.train.rows)


def test_cifar_100_has_its_classes():
    assert (len(set(FINE)), len(set(COARSE))) == (100, 20)
    assert list(FINE) == sorted(FINE)
    assert list(COARSE) == sorted(COARSE)


def test_cifar_100_from_parquet_and_never_from_pickles(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    with pytest.raises(InputError, match="only cifar-100-python/, whose pickles can run code"):
        load_dataset("cifar100", tmp_path)
    for split in ("train", "test"):
        cells = [{"bytes": shards.png(image), "path": None} for image in torch.from_numpy(IMAGES)]
        part = pa.table({"img": cells, "fine_label": [99] * 14, "coarse_label": [19] * 14})
        pq.write_table(part, tmp_path / f"{split}-00000-of-00001.parquet")
    assert load_dataset("cifar100", tmp_path, val_size=2).test.labels[0] == 99
    assert load_dataset("cifar100", tmp_path, val_size=2, label_column="coarse_label").num_classes == 20


WNIDS = ["n03", "n01", "n02"]


def write_tiny(folder, *, train=True):
    lines = []
    for number, wnid in enumerate(WNIDS):
        for image in range(5):
            drawn = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            place = folder / "train" / wnid / "images" / f"{wnid}_{image}.JPEG"
            if train:
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(drawn[..., 0] if image == 0 else drawn).save(place)
            val = folder / "val" / "images" / f"val_{5 * number + image}.JPEG"
            val.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn).save(val)
            lines.append(f"{val.name}\t{wnid}\t0\t0\t63\t63\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(WNIDS))


@pytest.mark.parametrize("place", [".", "tiny-imagenet-200"])
def test_tiny_imagenet_in_its_own_layout(tmp_path, place):
    write_tiny(tmp_path / place)
    data = load_dataset("tiny_imagenet", tmp_path, val_size=3, data_workers=0)
    assert data.class_names == ("n01", "n02", "n03")
    assert data.image_shape == (3, 64, 64)
    assert data.train.images[:].shape == (12, 3, 64, 64)
    for name, label in zip(data.test.images.names, data.test.labels, strict=True):
        number = int(name.decode().removeprefix("images/val_").removesuffix(".JPEG"))
        assert data.class_names[label] == WNIDS[number // 5]
    for name, label in zip(data.train.images.names, data.train.labels, strict=True):
        assert name.decode().startswith(data.class_names[label])


def test_tiny_imagenets_val_alone(tmp_path):
    write_tiny(tmp_path, train=False)
    data = load_dataset("tiny_imagenet", tmp_path, data_workers=0)
    assert (len(data.train), len(data.test), data.class_names) == (0, 15, ("n01", "n02", "n03"))


@pytest.mark.parametrize(
    ("line", "said"),
    [("val_0.JPEG\tn99\t0\n", "names the class 'n99'"), ("nothing\n", "is not a file and a class")],
)
def test_annotations_that_do_not_fit_are_named(tmp_path, line, said):
    write_tiny(tmp_path)
    (tmp_path / "val" / "val_annotations.txt").write_text(line)
    with pytest.raises(InputError, match=said):
        load_dataset("tiny_imagenet", tmp_path)
