"""Images in files: what is decoded, when, by whom, and what does not depend on it."""

import errno
import os
import pickle

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from bat_core.data import Crops, ImageFiles, load_dataset
from bat_core.data.files import CHUNK, PREFETCH
from bat_core.errors import InputError
from bat_core.rng import named_seed

from . import photographs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return photographs.write_dataset(tmp_path_factory.mktemp("photographs"), train=30)


@pytest.fixture(scope="module")
def files(folder):
    """90 images of 16x16, decoded in this process."""
    names = sorted(str(path.relative_to(folder / "train")) for path in (folder / "train").rglob("*.JPEG"))
    return ImageFiles(folder / "train", np.array([os.fsencode(name) for name in names]), 16, 0)


@pytest.fixture
def decoded(monkeypatch):
    """The positions that this process decodes, as they come."""
    seen, real = [], ImageFiles.decode

    def watched(self, position, crops):
        seen.append(position)
        return real(self, position, crops)

    monkeypatch.setattr(ImageFiles, "decode", watched)
    return seen


def with_workers(files, workers):
    return ImageFiles(files.root, files.names, files.size, workers)


def test_an_image_is_the_middle_of_the_file(folder, files):
    for position in (0, 31, 89):
        path = folder / "train" / os.fsdecode(files.names[position])
        whole = Image.open(path).convert("RGB")
        scale = 18 / min(whole.size)  # 16 of 18 pixels
        size = [int(scale * side) for side in whole.size]
        small = whole.resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - 16) / 2), round((size[1] - 16) / 2)
        expected = torch.from_numpy(np.array(small.crop((left, top, left + 16, top + 16)))).permute(2, 0, 1)
        assert torch.equal(files[position : position + 1][0], expected)


def test_it_is_indexed_as_a_tensor_is(files):
    whole = files[:]
    assert whole.shape == files.shape == (90, 3, 16, 16)
    assert whole.dtype == files.dtype == torch.uint8
    positions = torch.tensor([5, 3, 80, 3])
    assert torch.equal(files[positions], whole[positions])
    assert torch.equal(files[20:70:7], whole[20:70:7])
    assert torch.equal(files[whole.flatten(1).sum(1) > 0], whole)
    assert files[:0].shape == (0, 3, 16, 16)


def test_only_what_is_asked_for_is_decoded(files, decoded):
    some = files.take(torch.tensor([7, 5, 9])).take(slice(1, 3))
    assert decoded == []
    assert torch.equal(some[:], files[torch.tensor([5, 9])])
    assert decoded == [0, 1, 5, 9]


def test_batches_are_decoded_as_they_are_wanted(files, decoded):
    parts = torch.arange(90).split(20)
    batches = files.batches(parts)
    assert torch.equal(next(batches), files[:20])
    assert set(decoded) == set(range(20))
    rest = list(batches)
    assert [len(batch) for batch in rest] == [20, 20, 20, 10]
    assert torch.equal(torch.cat(rest), files[20:])


@pytest.mark.parametrize("crops", [None, Crops(3, 5)])
def test_other_processes_decode_the_same_images(files, crops):
    parts = [torch.tensor([8, 1, 70]), torch.arange(40, 90), torch.tensor([], dtype=torch.int64)]
    own, others = list(files.batches(parts, crops)), list(with_workers(files, 2).batches(parts, crops))
    assert [len(batch) for batch in others] == [3, 50, 0]
    assert all(torch.equal(*pair) for pair in zip(own, others, strict=True))


def test_as_many_processes_decode_as_are_asked_for_and_end(files, decoded):
    me = psutil.Process()
    before = {child.pid for child in me.children()}
    batches = with_workers(files, 2).batches(torch.arange(90).split(30))
    next(batches)
    assert len({child.pid for child in me.children()} - before) == 2
    batches.close()
    assert {child.pid for child in me.children()} == before
    assert decoded == []


class Watched(list):
    """Parts that remember how many of them each loop over them has seen."""

    def __init__(self, parts):
        super().__init__(parts)
        self.seen = []

    def __iter__(self):
        loop = len(self.seen)
        self.seen.append(0)
        for part in super().__iter__():
            self.seen[loop] += 1
            yield part


@pytest.mark.parametrize(("workers", "ahead"), [(0, 1), (1, PREFETCH // CHUNK), (2, PREFETCH // CHUNK)])
def test_what_is_decoded_ahead_is_bounded(files, workers, ahead):
    many = with_workers(files, workers).take(torch.arange(90).repeat(20))
    parts = Watched(torch.arange(len(many)).split(CHUNK))
    assert len(parts) > 3 * PREFETCH / CHUNK
    batches = many.batches(parts)
    next(batches)
    counted, *others = parts.seen  # for the loader, and for who asks
    assert counted == len(parts)
    assert min(others) == 1
    assert ahead <= max(others) <= ahead + 1
    batches.close()


def crop(files, position, crops):
    return next(files.batches([torch.tensor([position])], crops))[0]


def test_a_crop_is_named_by_seed_epoch_and_file(files):
    one = crop(files, 4, Crops(0, 1))
    assert torch.equal(one, crop(files, 4, Crops(0, 1)))
    assert torch.equal(one, crop(files.take(torch.tensor([60, 4])), 1, Crops(0, 1)))
    assert torch.equal(one, next(files.batches([torch.arange(90)], Crops(0, 1)))[4])
    others = [crop(files, 4, Crops(1, 1)), crop(files, 4, Crops(0, 2)), files[4:5][0]]
    assert not any(torch.equal(one, other) for other in others)


def test_two_files_of_one_picture_are_cropped_apart(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / "n01").mkdir(exist_ok=True)
        photographs.photograph(0).save(tmp_path / "n01" / name)
    files = ImageFiles(tmp_path, np.array([b"n01/a.png", b"n01/b.png"]), 16, 0)
    assert torch.equal(files[:1], files[1:])
    assert not torch.equal(crop(files, 0, Crops(0, 1)), crop(files, 1, Crops(0, 1)))


def test_crops_are_those_of_torchvision(folder, files):
    image = Image.open(folder / "train" / os.fsdecode(files.names[2])).convert("RGB")
    library = v2.Compose([v2.RandomResizedCrop(16), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    with torch.random.fork_rng():
        torch.manual_seed(named_seed(3, "crop", 5, os.fsdecode(files.names[2])))
        expected = library(image)
    assert torch.equal(crop(files, 2, Crops(3, 5)), expected)


def test_half_of_the_crops_are_mirrored_and_all_are_of_parts(tmp_path):
    """Red grows to the right: where a crop begins and ends, and which way round it is, can be read off."""
    (tmp_path / "n01").mkdir()
    ramp = np.zeros((200, 200, 3), dtype=np.uint8)
    ramp[..., 0] = np.arange(200)
    Image.fromarray(ramp).save(tmp_path / "n01" / "ramp.png")
    files = ImageFiles(tmp_path, np.array([b"n01/ramp.png"]), 16, 0)
    ends = [crop(files, 0, Crops(0, epoch))[0, 0, [0, -1]].tolist() for epoch in range(100)]
    assert 35 <= sum(left > right for left, right in ends) <= 65
    widths = [abs(left - right) * 16 / 15 / 200 for left, right in ends]  # of the image; pixels lie half a pixel inside
    assert 0.2 < min(widths) < 0.4 < 0.8 < max(widths) <= 1.01


def test_torchs_own_randomness_is_left_alone(files):
    before = torch.random.get_rng_state()
    list(files.batches([torch.arange(40)], Crops(0, 1)))
    list(with_workers(files, 2).batches([torch.arange(40)], Crops(0, 1)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_grey_and_transparent_files_have_three_channels(tmp_path):
    (tmp_path / "n01").mkdir()
    photographs.photograph(0).convert("L").save(tmp_path / "n01" / "grey.JPEG")
    photographs.photograph(0).convert("CMYK").save(tmp_path / "n01" / "print.JPEG")
    photographs.photograph(0).convert("RGBA").save(tmp_path / "n01" / "clear.png")
    names = np.array([b"n01/grey.JPEG", b"n01/print.JPEG", b"n01/clear.png"])
    grey, _, clear = ImageFiles(tmp_path, names, 16, 0)[:]
    assert torch.equal(grey[0], grey[1])
    assert not torch.equal(clear[0], clear[1])


def read_through(dataset):
    for part in (dataset.train, dataset.val):
        list(part.batches(torch.arange(len(part)).split(32)))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["empty", "cut", "other", "gone"])
def test_a_damaged_file_is_named(tmp_path, damage, workers):
    dataset = load_dataset(
        "imagenet", photographs.write_dataset(tmp_path, train=20), image_size=16, data_workers=workers
    )
    path = tmp_path / "train" / "n02" / "n02_3.JPEG"
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "other": b"<html></html>"}[damage])
    reason = (
        os.strerror(errno.ENOENT)
        if damage == "gone"
        else "it is empty, truncated or not an image; replace or remove it"
    )
    with pytest.raises(InputError) as caught:
        read_through(dataset)
    assert str(caught.value).startswith(f"cannot decode {path}: {reason}")
    assert "\n" not in str(caught.value)


def test_a_pickle_holds_names_and_no_pixels(folder, files):
    content = pickle.dumps(files)
    assert len(content) < 90 * 40
    assert torch.equal(pickle.loads(content)[:5], files[:5])
