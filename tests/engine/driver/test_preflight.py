"""What a trial needs, also at its end, is checked before it starts."""

import sys
from dataclasses import replace

import pytest
import torch

from bat_core.config import AttackConfig, check_storable
from bat_core.data import Split
from bat_core.errors import InputError
from bat_core.workers import Workers
from sweeps.engine.driver.preflight import check_trial


def images_of(dataset, num_classes):
    """The data set, with its labels brought down to fewer classes."""

    def fewer(part):
        return Split(part.images, part.labels % num_classes, part.rows)

    names = dataset.class_names[:num_classes]
    return replace(
        dataset, train=fewer(dataset.train), val=fewer(dataset.val), test=fewer(dataset.test), class_names=names
    )


def refused(config, dataset, message, workers=Workers(0, 1)):
    with pytest.raises(InputError, match=message) as caught:
        check_trial(config, dataset, workers)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("recipe", ["R-MC-LA", "LL", "R-RAND-LA", "R-MOSA-LA", "TRADES"])
def test_two_classes_and_more_are_fine(make_trial, digits, recipe, num_classes):
    check_trial(make_trial(recipe, params={}), images_of(digits, num_classes), Workers(0, 1))


def test_one_class_is_refused(make_trial, digits):
    refused(make_trial(), images_of(digits, 1), "has 1 class: a classifier needs at least 2")


def test_a_loss_that_does_not_exist_for_the_classes_is_refused(make_trial, digits):
    config = make_trial()
    config = replace(config, attack=replace(config.attack, losses=("ce", "dlr")))
    check_trial(config, images_of(digits, 3), Workers(0, 1))
    refused(config, images_of(digits, 2), "loss dlr needs 3 classes, and there are 2: use loss cw")


def test_an_attack_that_is_not_installed_is_refused(make_trial, digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    config = make_trial()
    check_trial(config, digits, Workers(0, 1))
    refused(replace(config, attack=AttackConfig(also="standard")), digits, "pip install 'bat-sweeps\\[autoattack\\]'")


@pytest.mark.parametrize(("part", "message"), [("val", "too few to hold out"), ("test", "0 test images")])
def test_a_part_without_images_is_refused(make_trial, digits, part, message):
    nothing = getattr(digits, part).take(slice(0))
    refused(make_trial(), replace(digits, **{part: nothing}), message)


def test_a_recipe_that_reads_the_last_layer_needs_one_row_per_class(make_trial, digits, monkeypatch):
    class Odd(torch.nn.Sequential):
        def __init__(self):
            super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 7))

    monkeypatch.setattr("sweeps.engine.driver.preflight.build_model", lambda *_, **__: Odd())
    refused(make_trial("R-MOSA-LA", params={}), digits, "one row per class: it has 7 rows for 10 classes")


@pytest.mark.parametrize(("size", "batch_size"), [(1, 1), (2, 2)])
def test_batch_norm_that_would_see_one_value_per_channel_is_refused(make_trial, digits, size, batch_size):
    """An 8x8 image is one pixel where preact_resnet18's last batch norm sees it."""
    config = replace(make_trial(), model="preact_resnet18")
    config = replace(config, train=replace(config.train, batch_size=batch_size))
    message = f"--batch-size {batch_size} is too small.*preact_resnet18.*use at least {2 * size}$"
    refused(config, digits, message, Workers(0, size))
    for enough in (
        replace(config, train=replace(config.train, batch_size=2 * size)),
        replace(config, model="small_cnn"),
    ):
        check_trial(enough, digits, Workers(0, size))


def test_what_could_not_be_read_back_is_not_written(make_trial):
    check_storable(make_trial(seed=2**63 - 1))
    with pytest.raises(InputError, match=r"seed=.* is too large: integers must fit into 64 bits"):
        make_trial(seed=2**63)
    with pytest.raises(InputError, match=r"epochs=.* is too large"):
        make_trial(epochs=10**400)
