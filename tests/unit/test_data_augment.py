import pytest
import torch
import torch.nn.functional as F

from bat_core.data import Augmentation
from bat_core.data.augment import CROP, CROP_AND_FLIP
from bat_core.rng import BatchRNG

from . import shards

IMAGES = shards.images(60, 3)


def rng(rank=0, size=1):
    return BatchRNG(torch.Generator().manual_seed(0), rank, size)


def every_outcome(image, pad, flip):
    """All crops of the padded image by (top, left, mirrored)."""
    height, width = image.shape[1:]
    padded = F.pad(image, (pad,) * 4, value=128)
    found = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            crop = padded[:, top : top + height, left : left + width]
            found[top, left, False] = crop
            if flip:
                found[top, left, True] = crop.flip(2)
    return found


@pytest.mark.parametrize(("pad", "flip"), [(4, True), (4, False), (1, True), (0, True)])
def test_each_output_is_a_crop_of_its_padded_image(pad, flip):
    moved = Augmentation(pad, flip)(IMAGES, rng())
    assert moved.dtype == torch.uint8
    assert moved.shape == IMAGES.shape
    ways = set()
    for image, output in zip(IMAGES, moved, strict=True):
        matches = [way for way, outcome in every_outcome(image, pad, flip).items() if torch.equal(outcome, output)]
        assert len(matches) == 1
        ways.add(matches[0])
    offsets = range(2 * pad + 1)
    assert {top for top, _, _ in ways} == set(offsets)
    assert {left for _, left, _ in ways} == set(offsets)
    assert {mirrored for _, _, mirrored in ways} == ({False, True} if flip else {False})
    assert any(top != left for top, left, _ in ways) or pad == 0


def test_no_augmentation_changes_nothing():
    assert torch.equal(Augmentation()(IMAGES, rng()), IMAGES)


@pytest.mark.parametrize("augmentation", [CROP, CROP_AND_FLIP])
def test_two_workers_see_what_one_sees(augmentation):
    whole = augmentation(IMAGES, rng())
    for rank in range(2):
        assert torch.equal(augmentation(IMAGES[rank::2], rng(rank, 2)), whole[rank::2])


def test_the_images_are_left_as_they_were():
    before = IMAGES.clone()
    CROP_AND_FLIP(IMAGES, rng())
    assert torch.equal(IMAGES, before)


def test_images_need_not_be_square():
    oblong = IMAGES[:5, :, :, :6]
    for image, output in zip(oblong, CROP(oblong, rng()), strict=True):
        assert any(torch.equal(outcome, output) for outcome in every_outcome(image, 4, False).values())
