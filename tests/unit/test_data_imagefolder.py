"""Any folder of images: which folders are splits and classes, and which form the images get."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from bat_core.data import Crops, load_dataset
from bat_core.data.folders import IMAGE_SUFFIXES
from bat_core.errors import InputError

from . import photographs


def draw(path, seed, size=(12, 12), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3)
    image = Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).convert(mode)
    image.save(path)
    return image


def write(folder, parts=("train", "test"), classes=("cat", "dog"), count=6, size=(12, 12), mode="RGB"):
    for number, part in enumerate(parts):
        for place, name in enumerate(classes):
            for image in range(count):
                draw(folder / part / name / f"{image}.png", 100 * number + 10 * place + image, size, mode)
    return folder


def load(folder, **settings):
    return load_dataset("imagefolder", folder, data_workers=0, **{"val_size": 2, **settings})


def test_images_of_one_size_are_kept_as_they_are(tmp_path):
    data = load(write(tmp_path, size=(12, 9)))
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (3, 9, 12)
    name = data.train.images.names[0].decode()
    expected = np.asarray(Image.open(tmp_path / "train" / name)).transpose(2, 0, 1)
    assert np.array_equal(data.train.images[:1][0].numpy(), expected)
    (cropped,) = data.train.images.batches([torch.tensor([0])], Crops(0, 1))
    assert np.array_equal(cropped[0].numpy(), expected)
    assert data.augmentation.pad == 1
    assert torch.equal(load(tmp_path, val_size=2).test.images[:], data.test.images[:])


def test_another_size_is_cropped_to(tmp_path):
    data = load(write(tmp_path), image_size=8)
    assert data.image_shape == (3, 8, 8)
    assert load(tmp_path, image_size=12).test.images[:].shape[1:] == (3, 12, 12)
    draw(tmp_path / "test" / "cat" / "large.png", 0, (40, 30))
    assert load(tmp_path).image_shape == (3, 224, 224)


def test_an_image_that_changes_its_size_later_is_named(tmp_path):
    data = load(write(tmp_path))
    draw(tmp_path / "test" / "cat" / "3.png", 0, (40, 30))
    with pytest.raises(InputError, match=r"test/cat/3.png is 30x40 and the others are 12x12: give --image-size"):
        data.test.images[:]


def test_grey_images_have_one_channel_if_all_are_grey(tmp_path):
    assert load(write(tmp_path, mode="L")).test.images[:].shape[1:] == (1, 12, 12)
    assert load(tmp_path, image_size=8).test.images[:].shape[1:] == (1, 8, 8)
    draw(tmp_path / "test" / "cat" / "colour.png", 0)
    data = load(tmp_path)
    assert data.train.images[:].shape[1:] == data.test.images[:].shape[1:] == (3, 12, 12)


def test_test_is_taken_before_val(tmp_path):
    write(tmp_path, parts=("train", "valid", "test"))
    assert load(tmp_path).test.images.root.name == "test"
    shutil.rmtree(tmp_path / "test")
    assert load(tmp_path).test.images.root.name == "valid"
    draw(tmp_path / "test" / "unlabelled.png", 0)
    assert load(tmp_path).test.images.root.name == "valid"


@pytest.mark.parametrize("place", [".", "..", "test"])
def test_the_folder_may_be_its_parent_or_a_split(tmp_path, place):
    write(tmp_path / "inner")
    shutil.copytree(tmp_path / "inner", tmp_path / "__MACOSX")
    data = load(tmp_path / "inner" / place)
    assert (len(data.train) + len(data.val), len(data.test)) == (12, 12)


def test_a_test_split_is_enough_to_evaluate_on(tmp_path):
    data = load(write(tmp_path, parts=("test",)))
    assert (len(data.train), len(data.test)) == (0, 12)
    with pytest.raises(InputError, match="no train split"):
        data.part("val")


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"])
def test_every_extension_of_torchvision_is_read(tmp_path, suffix):
    for name in ("cat", "dog"):
        draw(tmp_path / "test" / name / f"a{suffix}", 0, mode="L" if suffix == ".pgm" else "RGB")
    assert load(tmp_path).test.images[:].shape[2:] == (12, 12)


def two_vals(folder):
    shutil.copytree(folder / "test", folder / "val")
    shutil.copytree(folder / "test", folder / "valid")


FAULTS = {
    "no splits": (lambda f: [shutil.rmtree(f / part) for part in ("train", "test")], "has no train/, val/ or test/"),
    "nothing to test on": (lambda f: shutil.rmtree(f / "test"), "has neither test/ nor val/"),
    "other classes": (lambda f: shutil.rmtree(f / "test" / "cat"), "must have the same classes"),
    "an empty class": (lambda f: [p.unlink() for p in (f / "test" / "cat").iterdir()], "the classes cat"),
    "two folders of one split": (two_vals, "has val/ and valid/ for the same split"),
    "a damaged header": (lambda f: (f / "test" / "cat" / "2.png").write_bytes(b"no"), "test/cat/2.png"),
    "a companion file": (lambda f: (f / "test" / "cat" / "._2.png").write_bytes(b"no"), "._2.png is metadata of macOS"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(tmp_path, fault):
    spoil, said = FAULTS[fault]
    write(tmp_path)
    (tmp_path / "notes.txt").touch()
    spoil(tmp_path)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_photographs_are_cropped_as_for_imagenet(tmp_path):
    photographs.write_dataset(tmp_path)
    one, other = (load_dataset(name, tmp_path, image_size=16, data_workers=0) for name in ("imagefolder", "imagenet"))
    for part in ("train", "val", "test"):
        assert torch.equal(one.part(part).images[:], other.part(part).images[:])


def test_the_files_that_are_images_are_torchvisions():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert IMAGE_SUFFIXES == IMG_EXTENSIONS
