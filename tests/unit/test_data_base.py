import pytest
import torch

from bat_core.attacks import pgd
from bat_core.data import dataset_names, load_dataset, to_unit
from bat_core.errors import InputError

from . import shards
from .toys import Linear, normal


def contents(split):
    return [(image.numpy().tobytes(), int(label)) for image, label in zip(split.images, split.labels, strict=True)]


def pictures(split):
    return {image.numpy().tobytes() for image in split.images}


@pytest.mark.parametrize("rearranged", [{"order": range(19, -1, -1)}, {"shards": 3}, {"column": "image"}])
def test_splits_do_not_depend_on_how_the_rows_were_stored(tmp_path, rearranged):
    one = load_dataset("cifar10", shards.write_dataset(tmp_path / "one"), val_size=4, train_size=9)
    other = load_dataset("cifar10", shards.write_dataset(tmp_path / "other", **rearranged), val_size=4, train_size=9)
    for part in ("train", "val", "test"):
        assert contents(getattr(one, part)) == contents(getattr(other, part))


def test_the_same_picture_under_two_labels_has_one_order_too(tmp_path):
    twice = shards.images(1, 0).repeat(4, 1, 1, 1)
    loaded = []
    for name, labels in (("one", [0, 1, 2, 3]), ("other", [3, 1, 0, 2])):
        shards.write_split(tmp_path / name, "train", twice, labels)
        shards.write_split(tmp_path / name, "test", twice, labels)
        loaded.append(load_dataset("cifar10", tmp_path / name, val_size=1))
    assert contents(loaded[0].train) == contents(loaded[1].train)
    assert contents(loaded[0].val) == contents(loaded[1].val)


def test_rows_name_the_examples_in_their_source(tmp_path):
    loaded = load_dataset("cifar10", shards.write_dataset(tmp_path / "d"), val_size=4)
    source = shards.images(20, 0)
    for part in (loaded.train, loaded.val):
        assert torch.equal(part.images, source[part.rows])
        assert torch.equal(part.labels, part.rows % 10)
    assert sorted([*loaded.train.rows.tolist(), *loaded.val.rows.tolist()]) == list(range(20))


def test_digits_are_split_for_good():
    digits = load_dataset("digits")
    assert (len(digits.train), len(digits.val), len(digits.test)) == (1260, 140, 397)
    parts = [pictures(part) for part in (digits.train, digits.val, digits.test)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    assert digits.image_shape == (1, 8, 8)
    assert digits.num_classes == 10
    assert digits.pixel == 5 / 255


def test_digits_are_the_published_ones():
    from sklearn.datasets import load_digits

    digits, published = load_dataset("digits"), load_digits()
    expected = [
        (bytes(round(ink * 255 / 16) for ink in image.flatten()), int(label))
        for image, label in zip(published.images, published.target, strict=True)
    ]
    ours = [*contents(digits.train), *contents(digits.val), *contents(digits.test)]
    assert sorted(ours) == sorted(expected)


def test_a_subset_begins_the_whole():
    whole, some = load_dataset("digits"), load_dataset("digits", train_size=50, test_size=20)
    assert contents(some.train) == contents(whole.train)[:50]
    assert contents(some.val) == contents(whole.val)
    assert contents(some.test) == contents(whole.test)[:20]


@pytest.mark.parametrize(
    ("size", "most"),
    [("train_size", 1260), ("val_size", 1399), ("test_size", 397)],
)
def test_a_size_that_is_not_there(size, most):
    load_dataset("digits", **{size: 1})
    for value in (most + 1, 0, -5):
        with pytest.raises(InputError, match=rf"^{size}={value} must be in 1\.\.{most}"):
            load_dataset("digits", **{size: value})


def test_images_are_uint8_and_labels_int64(digits):
    for part in (digits.train, digits.val, digits.test):
        assert part.images.dtype == torch.uint8
        assert part.images.ndim == 4
        assert part.labels.dtype == part.rows.dtype == torch.int64
        assert len(part.images) == len(part.labels) == len(part.rows) == len(part)


def test_to_unit_spans_zero_to_one():
    levels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(levels)
    assert torch.equal((unit.double() * 255).round(), torch.arange(256).double())
    assert (unit[0], unit[255]) == (0, 1)
    assert to_unit(unit) is unit


def test_a_data_set_can_be_attacked_as_it_comes(digits):
    x = to_unit(digits.test.images[:4])
    x_adv = pgd(Linear(normal(10, 64)), x, digits.test.labels[:4], eps=0.1, step_size=0.05, num_steps=2)
    assert x_adv.shape == x.shape


def test_an_unknown_data_set_is_named_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"unknown data set 'cifar'; did you mean 'cifar10'\? Known: cifar10, cifar100, digits"
    ):
        load_dataset("cifar")


DOWNLOADED = {"cifar10", "cifar100", "svhn", "mnist", "fashion_mnist"}


@pytest.mark.parametrize("name", [name for name in dataset_names() if name != "digits" and ":" not in name])
def test_a_folder_must_be_named_exist_and_hold_something(name, tmp_path):
    with pytest.raises(InputError, match=f"data set '{name}' is read from a folder: give it with --data-dir DIR"):
        load_dataset(name)
    remedy = ", or add --download" if name in DOWNLOADED else ""
    with pytest.raises(InputError, match=f"does not exist: give an existing one{remedy}$"):
        load_dataset(name, tmp_path / "nowhere")
    with pytest.raises(InputError, match=f"is empty: give one that contains {name}{remedy}$"):
        load_dataset(name, tmp_path)
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(InputError) as caught:
        load_dataset(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


MEANS = {"cifar10": (0.4914, 0.48216, 0.44653)}
COUNTS = {"cifar10": (50_000, 10_000), "svhn": (36_000, 10_000)}


@pytest.mark.images
@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_the_real_images(name, real_data):
    data = real_data(name)
    train, test = COUNTS[name]
    assert (len(data.train) + len(data.val), len(data.test)) == (train, test)
    assert len(data.val) == 1000
    assert data.image_shape == (3, 32, 32)
    assert torch.bincount(data.train.labels).shape == (10,)
    assert not pictures(data.val) & pictures(data.train)
    if name in MEANS:
        everything = torch.cat([data.train.images, data.val.images])
        mean = [everything[:, channel].double().mean().item() / 255 for channel in range(3)]
        assert mean == pytest.approx(MEANS[name], abs=1e-5)
