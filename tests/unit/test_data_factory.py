"""Data sets that a user's function returns."""

import sys
import types
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from bat_core.config import DataConfig, TrialConfig
from bat_core.data import Source, Split, dataset_names, load_dataset
from bat_core.errors import InputError

from . import shards

IMAGES = shards.images(20, 0)
LABELS = torch.arange(20) % 10
TRAIN, TEST = slice(0, 14), slice(10, 20)


def halves(images, labels=LABELS):
    return (images[TRAIN], labels[TRAIN]), (images[TEST], labels[TEST])


class Examples(Dataset):
    """As torchvision's data sets are: PIL images by position, and the names of the classes."""

    classes: ClassVar = [f"class {number}" for number in range(10)]

    def __init__(self, images, *, convert=lambda image: image, fault=None):
        self.images, self.convert, self.fault = images, convert, fault

    def __len__(self):
        return len(self.images)

    def __getitem__(self, position):
        if self.fault:
            raise KeyError(self.fault)
        image = Image.fromarray(self.images[position].permute(1, 2, 0).numpy())
        return self.convert(image), position % 10


def unit(images):
    return images.float() / 255


@pytest.fixture
def load(monkeypatch):
    """Loads what a function returns, as `--dataset users:images` does."""

    def load(made, **settings):
        users = types.ModuleType("users")
        users.images = made if callable(made) or isinstance(made, int) else lambda: made
        monkeypatch.setitem(sys.modules, "users", users)
        return load_dataset("users:images", **{"val_size": 2, **settings})

    return load


FORMS = {
    "tensors": halves(IMAGES),
    "a dict": dict(zip(("train", "test"), halves(IMAGES), strict=True)),
    "arrays with channels last": halves(IMAGES.permute(0, 2, 3, 1).numpy(), LABELS.numpy()),
    "floats": halves(unit(IMAGES)),
    "float64 beyond 1 by rounding": halves(IMAGES.double() / 255 * (1 + 1e-9), LABELS.to(torch.uint8)),
    "16 bits": halves(IMAGES.numpy().astype(np.uint16) * 257),
    "int64": halves(IMAGES.long(), LABELS.to(torch.int16)),
    "labels in a list": tuple((images, labels.tolist()) for images, labels in halves(IMAGES)),
    "torch data sets": tuple(TensorDataset(*part) for part in halves(unit(IMAGES))),
    "PIL images": (Examples(IMAGES[TRAIN]), Examples(IMAGES[TEST])),
    "mappings": tuple(
        [{"image": image.numpy(), "label": int(label)} for image, label in zip(*part, strict=True)]
        for part in halves(IMAGES)
    ),
    "a source": Source(
        train=Split.of(*halves(IMAGES)[0]), test=Split.of(*halves(IMAGES)[1]), class_names=tuple("0123456789")
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_that_hold_the_same_images_are_the_same_data_set(load, form):
    expected, data = load(FORMS["tensors"]), load(FORMS[form])
    for part in ("train", "val", "test"):
        one, other = expected.part(part), data.part(part)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels) or form == "PIL images"
        assert other.labels.dtype == torch.int64
    assert data.num_classes == 10


def test_grey_images_have_one_channel(load):
    assert load(halves(IMAGES[:, 0])).image_shape == (1, 8, 8)


def test_class_names_are_those_that_are_known(load):
    assert load(FORMS["PIL images"]).class_names[3] == "class 3"
    assert load({"test": (IMAGES, LABELS), "class_names": [*"abcdefghijkl"]}).num_classes == 12


def test_images_to_evaluate_on_are_enough(load):
    for made in ({"test": (IMAGES, LABELS)}, (None, (IMAGES, LABELS))):
        data = load(made)
        assert (len(data.train), len(data.test)) == (0, 20)


def test_it_is_called_with_what_it_takes(load, tmp_path):
    def made(data_dir, image_size=4):
        assert data_dir == tmp_path
        return halves(IMAGES[..., :image_size, :image_size])

    assert load(made, data_dir=tmp_path, image_size=6).image_shape == (3, 6, 6)
    with pytest.raises(InputError, match="needs a folder: give it with --data-dir"):
        load(made)
    with pytest.raises(InputError, match="takes no parameter data_dir: omit --data-dir"):
        load(FORMS["tensors"], data_dir=tmp_path)


def raises():
    raise KeyError("no images")


REFUSED = {
    "raises": (raises, "cannot be made: KeyError: 'no images' (test_data_factory.py, line "),
    "one pair": ((IMAGES, LABELS), "returns a tuple of 2 (Tensor, Tensor): it must return (train, test)"),
    "a number": (3, "is a int: it must be a function"),
    "an unknown key": ({"test": (IMAGES, LABELS), "valid": 1}, "a dict with 'valid'"),
    "standardised": (halves(unit(IMAGES) * 4 - 2), "float images span -2..2: they must be in [0, 1]"),
    "floats to 255": (halves(IMAGES.float()), "divide 0..255 by 255"),
    "bits": (halves((IMAGES > 127).to(torch.uint8)), "integer images are 0 or 1 only"),
    "one-hot labels": (halves(IMAGES, torch.eye(20)), "labels have dtype torch.float32"),
    "fewer labels": ((None, (IMAGES, LABELS[:5])), "labels have shape (5,) for 20 images"),
    "labels from 1": (halves(IMAGES, LABELS + 1), "labels span 1..10: they must start at 0"),
    "two channels": (halves(IMAGES[:, :2]), "images have shape (10, 2, 8, 8)"),
    "an example that raises": ((None, Examples(IMAGES, fault="gone")), "example 0 cannot be read: KeyError: 'gone'"),
    "random examples": (
        (None, Examples(IMAGES, convert=lambda image: np.random.default_rng().random((3, 8, 8)))),
        "example 0 is another image each time it is read",
    ),
    "several sizes": (
        (None, [(IMAGES[0], 0), (IMAGES[1][:, :4], 1)]),
        "example 1 has shape (3, 4, 8) and the first (3, 8, 8)",
    ),
    "no images": ((None, []), "has no images"),
    "text labels": ((None, [(IMAGES[0], "cat")]), "the label of example 0 is not an integer"),
    "a loader": ((None, iter([])), "it must be (images, labels), or a torch Dataset"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_data_set_is_refused_in_a_sentence(load, kind):
    made, said = REFUSED[kind]
    with pytest.raises(InputError) as caught:
        load(made)
    assert said in str(caught.value)
    assert str(caught.value).startswith("data set 'users:images'")
    assert "\n" not in str(caught.value)


def test_its_name_is_the_trials(load):
    assert "package.module:factory" in dataset_names()
    one, other = (TrialConfig(data=DataConfig(name=name)).hash for name in ("mine:images", "mine:others"))
    assert one != other
    with pytest.raises(InputError, match="module 'no_such_module' cannot be imported"):
        load_dataset("no_such_module:images")
