"""What every data set that discovery finds must keep to; those in files need the folder BAT_SWEEPS_DATA names."""

import pytest
import torch

from bat_core.data import dataset_names, load_dataset
from bat_core.rng import BatchRNG

EMBEDDED = {"digits"}
MADE_FROM = {"parquet", "imagefolder", "package.module:factory"}  # what users have: unit tests make small ones
NAMES = [name for name in dataset_names() if name not in MADE_FROM]


@pytest.fixture(params=[name if name in EMBEDDED else pytest.param(name, marks=pytest.mark.images) for name in NAMES])
def dataset(request, real_data):
    return load_dataset(request.param) if request.param in EMBEDDED else real_data(request.param)


def test_each_split_is_images_labels_and_rows(dataset):
    for part in (dataset.train, dataset.val, dataset.test):
        assert part.images.dtype == torch.uint8
        assert tuple(part.images.shape) == (len(part), *dataset.image_shape)
        assert part.labels.dtype == part.rows.dtype == torch.int64
        assert part.labels.shape == part.rows.shape == (len(part),)
        assert len(set(part.rows.tolist())) == len(part)


def test_every_class_is_there_and_named(dataset):
    assert len(set(dataset.class_names)) == dataset.num_classes
    for part in (dataset.train, dataset.val, dataset.test):
        assert sorted(part.labels.unique().tolist()) == list(range(dataset.num_classes))


def test_no_image_is_both_fitted_and_held_out(dataset):
    fitted, held_out = set(dataset.train.rows.tolist()), set(dataset.val.rows.tolist())
    assert not fitted & held_out
    assert held_out


def test_images_span_the_levels(dataset):
    images = dataset.train.images[:500]
    assert images.min() == 0
    assert images.max() == 255
    assert 0 < dataset.pixel <= 8 / 255


def test_its_augmentation_keeps_the_form(dataset):
    images = dataset.train.images[:16]
    moved = dataset.augmentation(images, BatchRNG(torch.Generator().manual_seed(0)))
    assert moved.shape == images.shape
    assert moved.dtype == torch.uint8
