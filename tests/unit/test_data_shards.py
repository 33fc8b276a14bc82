"""Any folder of Parquet files: which files, columns and classes are read."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from bat_core.data import load_dataset
from bat_core.data.shards import find_shards
from bat_core.errors import InputError

from . import shards

PNG = [shards.png(picture) for picture in shards.images(20, 0)]
CELLS = [{"bytes": content, "path": None} for content in PNG]


def write(path, columns, *, features=None):
    part = pa.table(columns)
    if features:
        info = json.dumps({"info": {"features": features}})
        part = part.replace_schema_metadata({b"huggingface": info.encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(part, path)


def write_both(folder, labels, *, label="label", image="image", features=None, **more):
    for split, rows in (("train", slice(0, 14)), ("test", slice(14, 20))):
        columns = {image: CELLS[rows], label: labels[rows], **{name: column[rows] for name, column in more.items()}}
        write(folder / f"{split}-00000-of-00001.parquet", columns, features=features)
    return folder


LABELS = [0, 1, 2] * 6 + [0, 1]


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001-b42a775f407cee45.parquet", "test-00000-of-00001-9efe9e3c2a1b8a53.parquet"),
        ("data/train-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"),
        ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/test/0000.parquet"),
        ("snapshots/ab12/data/train-00000-of-00001.parquet", "snapshots/ab12/data/valid-00000-of-00001.parquet"),
        ("train.parquet", "test.parquet"),
        ("train/part.parquet", "val/part.parquet"),
    ],
)
@pytest.mark.parametrize("name", ["parquet", "svhn"])
def test_layouts_of_the_hub(tmp_path, names, name):
    for path, rows in zip(names, (slice(0, 14), slice(14, 20)), strict=True):
        write(tmp_path / path, {"image": CELLS[rows], "label": LABELS[rows]})
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden" / "train-00000-of-00001.parquet", {"image": CELLS, "label": LABELS})
    data = load_dataset(name, tmp_path, val_size=2)
    assert (len(data.train) + len(data.val), len(data.test)) == (14, 6)


def test_files_without_a_count_are_in_the_order_of_their_numbers(tmp_path):
    for number in (0, 2, 10):
        write(tmp_path / "train" / f"{number}.parquet", {"image": CELLS[:1], "label": [0]})
    found = find_shards(tmp_path)
    assert [path.name for path in found.of("train")] == ["0.parquet", "2.parquet", "10.parquet"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"), ("-of-00001", "-of-00002")),
        (("train-00000-of-00001-aa", "train-00000-of-00001-bb"), ("-of-00001-aa", "-of-00001-bb")),
        (("train-00000-of-00001", "train"), ("train-00000-of-00001.parquet", "train.parquet")),
        (("a/train-00000-of-00001", "b/train-00000-of-00001"), ("a/", "b/")),
        (("val-00000-of-00001", "validation-00000-of-00001"), ("val-00000", "validation-00000")),
        (("train-00000-of-00001", "train-00001-of-00001"), ("train-00001-of-00001",)),
        (("0000",), ("say no split",)),
    ],
)
def test_two_sets_of_files_are_refused_and_both_named(tmp_path, names, said):
    for name in names:
        write(tmp_path / f"{name}.parquet", {"image": CELLS[:1], "label": [0]})
    with pytest.raises(InputError) as caught:
        load_dataset("parquet", tmp_path)
    assert all(part in str(caught.value) for part in said)


def test_the_folder_of_the_data_set_is_taken_among_others(tmp_path):
    for name in ("cifar10", "svhn"):
        shards.write_dataset(tmp_path / name, column="image")
    assert len(load_dataset("svhn", tmp_path).test) == 6


@pytest.mark.parametrize("name", ["cifar10", "parquet"])
def test_a_test_split_is_enough_to_evaluate_on(tmp_path, name):
    shards.write_split(tmp_path, "test", shards.images(10, 1), list(range(10)))
    data = load_dataset(name, tmp_path, val_size=5)
    assert torch.equal(data.test.images, shards.images(10, 1)[data.test.rows])
    assert data.image_shape == (3, 8, 8)
    for use in (data.check_trainable, lambda: data.part("val")):
        with pytest.raises(InputError, match=f"data set '{name}' has images to evaluate on, but no train split"):
            use()


def test_few_images_are_said_to_be_few(tmp_path):
    data = load_dataset("parquet", write_both(tmp_path, LABELS), train_size=9)
    assert len(data.val) == 1
    shards.write_dataset(tmp_path / "few", train=9)
    few = load_dataset("parquet", tmp_path / "few")
    assert (len(few.train), len(few.val), len(few.test)) == (9, 0, 6)
    with pytest.raises(InputError, match=r"has 9 training images, too few to hold out a tenth.*--val-size") as caught:
        few.check_trainable()
    assert "val_size=0" not in str(caught.value)


def test_columns_are_found_by_type(tmp_path):
    ids = [f"file{number}" for number in range(20)]
    data = load_dataset("parquet", write_both(tmp_path / "a", LABELS, image="picture", label="kind", name=ids))
    assert data.class_names == ("0", "1", "2")
    binary = {"picture": PNG, "kind": LABELS}
    write(tmp_path / "b" / "test.parquet", binary)
    assert torch.equal(load_dataset("parquet", tmp_path / "b").test.images.sum(), shards.images(20, 0).sum())


AMBIGUOUS = {
    "two labels": ({"fine": LABELS, "coarse": LABELS}, "fine, coarse: choose one with --label-column"),
    "two images": ({"label": LABELS, "a": CELLS, "b": CELLS}, "a, b: choose one with --image-column"),
    "no labels": ({"x": [0.5] * 20}, "x (double): it needs one"),
    "an own class for each": ({"id": list(range(30))}, "has its own class: choose the labels by --label-column"),
}


@pytest.mark.parametrize("kind", AMBIGUOUS)
def test_columns_that_cannot_be_told_are_refused(tmp_path, kind):
    columns, said = AMBIGUOUS[kind]
    rows = len(next(iter(columns.values())))
    images = {} if "a" in columns else {"i": (CELLS * 2)[:rows]}
    write(tmp_path / "test.parquet", {**images, **columns})
    with pytest.raises(InputError) as caught:
        load_dataset("parquet", tmp_path)
    assert said in str(caught.value)


def test_columns_are_those_that_are_named(tmp_path):
    write_both(tmp_path, LABELS, label="fine", coarse=[label % 2 for label in LABELS])
    data = load_dataset("parquet", tmp_path, image_column="image", label_column="coarse")
    assert data.num_classes == 2
    with pytest.raises(InputError, match=r"has columns image, fine, coarse: it needs .* missing"):
        load_dataset("parquet", tmp_path, label_column="missing")
    with pytest.raises(InputError, match="--label-column='x': data set 'digits' is not read from Parquet files"):
        load_dataset("digits", label_column="x")


def test_class_names_are_those_of_the_metadata(tmp_path):
    features = {"species": {"names": ["cat", "dog", "eel", "fox"], "_type": "ClassLabel"}}
    write_both(tmp_path, LABELS, label="species", features=features, number=list(range(20)))
    data = load_dataset("parquet", tmp_path)
    assert data.class_names == ("cat", "dog", "eel", "fox")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "c"], ("a", "b", "c")),
        ([2, 1, 3], ("1", "2", "3")),
        ([2, 0, 5], ("0", "1", "2", "3", "4", "5")),
        ([True, False, True], ("0", "1")),
        (pa.array(["b", "a", "c"]).dictionary_encode(), ("a", "b", "c")),
        (pa.array([2, 0, 1], pa.uint8()), ("0", "1", "2")),
    ],
)
def test_labels_of_several_kinds(tmp_path, labels, names):
    write(tmp_path / "test.parquet", {"image": CELLS[:3], "label": labels})
    data = load_dataset("parquet", tmp_path)
    assert data.class_names == names
    stored = [str(int(label) if isinstance(label, bool) else label) for label in pa.array(labels).to_pylist()]
    by_row = dict(zip(data.test.rows.tolist(), data.test.labels.tolist(), strict=True))
    assert [names[by_row[row]] for row in range(3)] == stored


@pytest.mark.parametrize("labels", [[2, 3, 4], [1, 3, 4], [-1, 0, 1], [0, 1, 10**9]])
def test_numbers_that_are_no_classes_are_refused(tmp_path, labels):
    write(tmp_path / "test.parquet", {"image": CELLS[:3], "label": labels})
    with pytest.raises(InputError, match=rf"column label: labels span {min(labels)}\.\.{max(labels)}"):
        load_dataset("parquet", tmp_path)


def grey(seed):
    drawn = np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)
    return {"bytes": shards.encoded(Image.fromarray(drawn)), "path": None}


def test_grey_images_have_one_channel_if_all_are_grey(tmp_path):
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", {"image": [grey(seed) for seed in range(12)], "label": [0, 1] * 6})
    assert load_dataset("parquet", tmp_path).image_shape == (1, 8, 8)
    write(tmp_path / "test.parquet", {"image": [grey(0), CELLS[0]], "label": [0, 1]})
    data = load_dataset("parquet", tmp_path)
    assert data.train.images.shape[1:] == data.test.images.shape[1:] == (3, 8, 8)
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])


def test_images_of_several_sizes_need_a_size(tmp_path):
    large = {"bytes": shards.encoded(Image.new("RGB", (12, 10))), "path": None}
    write(tmp_path / "test.parquet", {"image": [*CELLS[:2], large], "label": [0, 1, 0]})
    with pytest.raises(InputError, match="differ in size, such as 8x8 and 10x12"):
        load_dataset("parquet", tmp_path)
    assert load_dataset("parquet", tmp_path, image_size=8).image_shape == (3, 8, 8)
