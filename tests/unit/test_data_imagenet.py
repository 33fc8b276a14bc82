"""A folder of ImageNet's layout as a data set, and folders that are none."""

import dataclasses
import os
import shutil

import pytest
import torch

from bat_core.checkpoint import load_model
from bat_core.config import DataConfig
from bat_core.data import load_dataset
from bat_core.data.base import Request
from bat_core.errors import InputError
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial

from . import photographs


def names(split):
    return [os.fsdecode(name) for name in split.images.names]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs.write_dataset(tmp_path_factory.mktemp("photographs"))


def load(folder, **settings):
    return load_dataset("imagenet", folder, **{"image_size": 16, "data_workers": 0, **settings})


def test_classes_are_the_folders_and_labels_their_places(folder):
    data = load(folder)
    assert data.class_names == photographs.CLASSES
    for part in (data.train, data.val, data.test):
        assert [photographs.CLASSES[label] for label in part.labels] == [name[:3] for name in names(part)]


def test_a_folder_named_from_where_one_stands_is_found_from_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    data = load(folder.name)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(data.test.images[:3], load(folder).test.images[:3])


def test_test_is_the_published_val_and_val_is_taken_from_train(folder):
    data = load(folder, val_size=5)
    assert (len(data.train), len(data.val), len(data.test)) == (19, 5, 12)
    assert {data.train.images.root, data.val.images.root} == {folder / "train"}
    assert data.test.images.root == folder / "val"
    assert not set(names(data.train)) & set(names(data.val))


def test_rows_are_places_in_the_sorted_folder(folder):
    data = load(folder)
    for part, root in ((data.train, "train"), (data.val, "train"), (data.test, "val")):
        paths = sorted(str(path.relative_to(folder / root)) for path in (folder / root).rglob("*.JPEG"))
        assert [paths[row] for row in part.rows] == names(part)


def test_the_order_is_of_names_alone(folder, tmp_path):
    """Other contents, other times, a file more elsewhere in the order: the same subset of what both have."""
    other = shutil.copytree(folder, tmp_path / "other")
    for path in sorted((other / "train").rglob("*.JPEG"), reverse=True):
        photographs.photograph(7).save(path)
    one, two = load(folder, val_size=4, train_size=9), load(other, val_size=4, train_size=9)
    assert (names(one.train), names(one.val)) == (names(two.train), names(two.val))
    assert names(one.train) != sorted(names(one.train))
    photographs.photograph(8).save(other / "train" / "n02" / "another.JPEG")
    whole = [names(load(where, val_size=1).train) for where in (folder, other)]
    assert [name for name in whole[1] if "another" not in name][-20:] == whole[0][-20:]


def test_images_have_the_size_that_is_asked_for(folder):
    assert load(folder).image_shape == (3, 16, 16)
    assert load(folder, image_size=None).image_shape == (3, 224, 224)
    assert load(folder, image_size=24).test.images[:2].shape == (2, 3, 24, 24)


def test_a_data_set_in_memory_has_one_size():
    assert load_dataset("digits", image_size=8).image_shape == (1, 8, 8)
    with pytest.raises(InputError, match="image_size=64: images of data set 'digits' are 8x8: leave it out"):
        load_dataset("digits", image_size=64)


def test_fewer_processes_than_none_are_refused(folder):
    with pytest.raises(InputError, match="data_workers=-1 must be at least 0"):
        load(folder, data_workers=-1)


def test_batches_hold_images_labels_and_rows(folder):
    train = load(folder).train
    parts = torch.randperm(len(train)).split(7)
    for part, batch in zip(parts, train.batches(parts), strict=True):
        assert torch.equal(batch.images, train.images[part])
        assert torch.equal(batch.labels, train.labels[part])
        assert torch.equal(batch.rows, train.rows[part])
    whole = train.in_memory()
    assert torch.equal(whole.images, train.images[:])
    for part, batch in zip(parts, whole.batches(parts), strict=True):
        assert torch.equal(batch.images, train.images[part])


def missing(part):
    return lambda folder: shutil.rmtree(folder / part)


def emptied(folder):
    for path in (folder / "train").rglob("*.JPEG"):
        path.unlink()


def one_class_empty(folder):
    for path in (folder / "train" / "n02").iterdir():
        path.unlink()


def flat(folder):
    for path in (folder / "val").rglob("*.JPEG"):
        path.rename(folder / "val" / path.name)
    for path in (folder / "val").iterdir():
        if path.is_dir():
            path.rmdir()


def nested(folder):
    (folder / "train").rename(folder / "inner")
    (folder / "train").mkdir()
    (folder / "inner").rename(folder / "train" / "train")


def other_classes(folder):
    (folder / "val" / "n03").rename(folder / "val" / "n04")


@pytest.mark.parametrize(
    ("spoil", "description"),
    [
        (missing("val"), "has no val/: give one with the layout {train,val}/<class>/*.JPEG"),
        (emptied, "must have the layout {train,val}/<class>/*.JPEG: Found no valid file for the classes n01, n02, n03"),
        (one_class_empty, "must have the layout {train,val}/<class>/*.JPEG: Found no valid file for the classes n02"),
        (flat, "must have the layout {train,val}/<class>/*.JPEG: Couldn't find any class folder"),
        (nested, "must have the layout {train,val}/<class>/*.JPEG: train/train/n01/n01_0.JPEG is nested too deeply"),
        (other_classes, "train/ and val/ must have the same classes, but only one has 'n03'"),
    ],
)
def test_another_layout_is_refused_in_a_sentence(folder, tmp_path, spoil, description):
    spoilt = shutil.copytree(folder, tmp_path / "spoilt")
    spoil(spoilt)
    with pytest.raises(InputError) as caught:
        load(spoilt)
    assert description in str(caught.value)
    assert str(spoilt) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_val_alone_is_enough_to_evaluate_on(folder, tmp_path):
    shutil.copytree(folder / "val", tmp_path / "imagenet" / "val")
    for where in (tmp_path / "imagenet", tmp_path):
        data = load(where)
        assert torch.equal(data.test.images[:], load(folder).test.images[:])
        assert (len(data.train), len(data.val)) == (0, 0)
        with pytest.raises(InputError, match="no train split"):
            data.check_trainable()


def test_hidden_folders_are_no_classes(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "d")
    for place in ("train", "val", "train/n01"):
        shutil.copytree(folder / "val" / "n01", tmp_path / "d" / place / ".ipynb_checkpoints")
    data, clean = load(tmp_path / "d"), load(folder)
    assert data.class_names == clean.class_names
    assert names(data.train) == names(clean.train)


def test_a_companion_file_of_macos_is_named(folder, tmp_path):
    spoilt = shutil.copytree(folder, tmp_path / "d")
    (spoilt / "val" / "n02" / "._n02_1.JPEG").write_bytes(b"\0\5\26\7Mac OS X")
    with pytest.raises(InputError, match=r"val/n02/\._n02_1.JPEG is metadata of macOS"):
        load(spoilt)


def test_nothing_is_downloaded(tmp_path):
    with pytest.raises(InputError, match="data set 'imagenet' does not support --download: give a folder"):
        load(tmp_path, download=True)
    with pytest.raises(InputError, match=r"is empty: give one that contains imagenet$"):
        Request(name="imagenet", data_dir=tmp_path).require_dir(downloadable=False)


@pytest.mark.images
@pytest.mark.slow
def test_real_photographs_are_learnt_from_and_judged(real_data, make_trial, tmp_path):
    """A trial of the whole path on ImageNet's photographs: train, validate, evaluate, record."""
    real = real_data("imagenet")
    assert real.image_shape == (3, 224, 224)
    assert all(name.startswith("n") for name in real.class_names)
    data = load_dataset("imagenet", real.test.images.root.parent, image_size=32, train_size=64, val_size=20)
    data = dataclasses.replace(data, test=data.test.take(slice(30)))
    config = make_trial("Undefended", params={}, epochs=1, batch_size=16)
    images = DataConfig(name="imagenet", train_size=64, val_size=20, image_size=32)
    config = dataclasses.replace(config, data=images, attack=dataclasses.replace(config.attack, verify=0))
    run_trial(Trial(id="t", config=config), data, tmp_path, TrialRuntime(device=torch.device("cpu")))
    status = read_status(tmp_path)
    assert status.phase == "finished"
    assert status.result["n"] == 30
    assert load_model(tmp_path)[1] == config
