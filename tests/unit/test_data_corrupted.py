"""Corrupted images are read as they are published, and made where a library can."""

import numpy as np
import pytest
import torch

from bat_core.corruption_names import ALEXNET_ERRORS, CORRUPTIONS, SEVERITIES
from bat_core.corruptions import Corrupted
from bat_core.data import Split
from bat_core.data.corrupted import make_corrupted, open_corrupted
from bat_core.errors import InputError

from .corrupted_folders import cifar_c, imagenet_c

CLASSES = ("n01", "n02", "n03")


def darker(images, severity):
    return images // severity


@pytest.fixture
def arrays(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(6, 3, 8, 8), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, 1, 2])
    return cifar_c(tmp_path / "C", images, labels, ("fog", "glass_blur"), darker), images, labels


def opened(folder, size=8):
    return open_corrupted(folder, class_names=CLASSES, image_shape=(3, size, size), workers=0)


def test_arrays_are_read_by_severity(arrays):
    folder, images, labels = arrays
    found = opened(folder)
    assert found.names == ("glass_blur", "fog")
    for severity in SEVERITIES:
        cell = found.cell("fog", severity, 4)
        assert cell.images.dtype == torch.uint8
        np.testing.assert_array_equal(cell.images.numpy(), darker(images, severity)[:4])
        assert cell.labels.tolist() == labels[:4].tolist()
    assert len(found.cell("fog", 1, None)) == 6
    with pytest.raises(InputError, match="--n=7 is more than the 6 images"):
        found.cell("fog", 1, 7)


def test_an_array_of_objects_is_not_unpickled(arrays):
    folder, _, _ = arrays
    np.save(folder / "fog.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="not a complete array of numbers"):
        opened(folder).cell("fog", 1, None)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("fog", np.zeros((10, 8, 8, 3)), r"must be uint8 \(5 N, 8, 8, 3\)"),
        ("fog", np.zeros((10, 9, 9, 3), np.uint8), "must be uint8"),
        ("fog", np.zeros((9, 8, 8, 3), np.uint8), "must be uint8"),
        ("labels", np.zeros(7, int), "one class per image"),
        ("labels", np.full(30, 3), r"has classes outside 0\.\.2"),
    ],
)
def test_arrays_of_another_form_are_refused(arrays, name, array, message):
    folder, _, _ = arrays
    np.save(folder / f"{name}.npy", array)
    with pytest.raises(InputError, match=message):
        opened(folder).cell("fog", 2, None)


def test_a_truncated_array_is_refused(arrays):
    folder, _, _ = arrays
    whole = (folder / "fog.npy").read_bytes()
    (folder / "fog.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a complete array"):
        opened(folder).cell("fog", 1, None)


@pytest.mark.parametrize("group", [None, "weather"])
def test_files_are_read_by_class(tmp_path, group):
    imagenet_c(tmp_path, "snow", CLASSES, size=16, group=group)
    found = opened(tmp_path, size=16)
    assert found.names == ("snow",)
    cell = found.cell("snow", 3, None)
    assert cell.labels.tolist() == [0, 0, 1, 1, 2, 2]
    levels = cell.images[:].float().mean((1, 2, 3))
    assert (levels - torch.tensor([12.0, 12, 52, 52, 92, 92])).abs().max() <= 2
    assert found.cell("snow", 3, 3).labels.tolist() == [0, 1, 2], "a few images are spread over the classes"


def test_classes_are_those_of_the_data_set(tmp_path):
    imagenet_c(tmp_path, "snow", CLASSES, size=16)
    swapped = open_corrupted(tmp_path, class_names=("n03", "n01", "n02"), image_shape=(3, 16, 16), workers=0)
    assert swapped.cell("snow", 1, None).labels.tolist() == [1, 1, 2, 2, 0, 0]
    with pytest.raises(InputError, match="has 3 classes and the data set 2"):
        open_corrupted(tmp_path, class_names=("a", "b"), image_shape=(3, 16, 16), workers=0).cell("snow", 1, None)


def test_a_folder_without_corruptions_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no corrupted images: it must have the layout"):
        opened(tmp_path)


def test_corruptions_are_made_where_the_library_can():
    pytest.importorskip("imagecorruptions")
    images = torch.from_numpy(np.random.default_rng(0).integers(256, size=(2, 3, 32, 32), dtype=np.uint8))
    clean = Split.of(images, torch.tensor([0, 1]))
    before = np.random.get_state()[1].tolist()
    made = make_corrupted(clean, seed=0)
    assert made.names == CORRUPTIONS
    assert "imagecorruptions" in made.source
    cell = made.cell("gaussian_noise", 3, None)
    assert cell.images.shape == images.shape
    assert not torch.equal(cell.images, images)
    assert torch.equal(cell.images, made.cell("gaussian_noise", 3, None).images)
    assert torch.equal(cell.images[:1], made.cell("gaussian_noise", 3, 1).images)
    assert not torch.equal(cell.images, make_corrupted(clean, seed=1).cell("gaussian_noise", 3, None).images)
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 8, 8)])
def test_images_that_the_library_does_not_take_are_refused(shape):
    pytest.importorskip("imagecorruptions")
    clean = Split.of(torch.zeros(2, *shape, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="colour images of at least 32x32"):
        make_corrupted(clean, seed=0)


def test_means_and_their_interval():
    rng = np.random.default_rng(0)
    found = Corrupted({name: rng.random((5, 400)) < 0.7 for name in CORRUPTIONS})
    assert found.mean == pytest.approx(np.mean([found.correct[name].mean() for name in CORRUPTIONS]))
    low, high = found.interval
    assert low < found.mean < high
    same = Corrupted({name: np.tile(np.arange(400) < 280, (5, 1)) for name in CORRUPTIONS})
    assert same.interval.high - same.interval.low == pytest.approx(2 * 1.96 * (0.7 * 0.3 / 400) ** 0.5, rel=0.01)


def test_mce_is_one_for_a_model_with_alexnets_errors():
    def as_alexnet(error):
        return np.tile(np.arange(1000) >= round(10 * error), (5, 1))

    found = Corrupted({name: as_alexnet(error) for name, error in ALEXNET_ERRORS.items()})
    assert found.mce() == pytest.approx(1.0)
    assert found.complete
    assert not Corrupted({"fog": as_alexnet(10)}).complete
