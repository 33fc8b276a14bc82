"""Every mode of Pillow becomes 8 bits by its own range, or is refused by its name."""

import io
import struct
import warnings
import zlib

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from bat_core.data import ImageFiles
from bat_core.data.decoding import UnsupportedImage, decode_image, eight_bits, open_image, to_array
from bat_core.data.parquet import read_split
from bat_core.errors import InputError

from . import shards

RAMP = (np.arange(64, dtype=np.uint32) * 1000).astype(np.uint16).reshape(8, 8)
COLOUR = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
GREY = COLOUR.convert("L")


def stored(image, kind, **options):
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def levels(content):
    return np.asarray(decode_image(content)).astype(int)


DEEP = {
    "16-bit PNG": stored(Image.fromarray(RAMP), "PNG"),
    "16-bit TIFF": stored(Image.fromarray(RAMP), "TIFF"),
    "16-bit TIFF, big-endian": stored(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
    "16-bit PGM": stored(Image.fromarray(RAMP), "PPM"),
    "32-bit TIFF": stored(Image.fromarray(RAMP.astype(np.int32)), "TIFF"),
    "float TIFF": stored(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_grey_values_are_scaled_by_their_range(kind):
    assert np.array_equal(levels(DEEP[kind]), np.round(RAMP / 257))


def test_folders_and_parquet_cells_share_the_decoder(tmp_path):
    """The channels of a grey image in a data set in colour are equal."""
    (tmp_path / "n01").mkdir()
    for number, content in enumerate(DEEP.values()):
        (tmp_path / "n01" / f"{number}.png").write_bytes(content)
    names = np.array([f"n01/{number}.png".encode() for number in range(len(DEEP))])
    from_folder = ImageFiles(tmp_path, names, (8, 8), 0)[:]
    cells = [{"bytes": content, "path": None} for content in DEEP.values()]
    table = pa.table({"img": cells, "label": [0] * len(cells)})
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(shards.parquet_bytes(table))
    assert torch.equal(from_folder, read_split(tmp_path, "train").images)
    assert np.array_equal(from_folder[0, 2].numpy(), np.round(RAMP / 257))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("L", GREY), ("LA", GREY), ("La", GREY), ("RGB", COLOUR), ("RGBA", COLOUR), ("RGBa", COLOUR), ("RGBX", COLOUR)],
)
def test_alpha_is_dropped(mode, expected):
    premultiplied = {"La": "LA", "RGBa": "RGBA"}
    image = COLOUR.convert(premultiplied.get(mode, mode)).convert(mode)
    assert np.array_equal(np.asarray(eight_bits(image)), np.asarray(expected))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "HSV", "LAB", "P", "PA"])
def test_colour_of_other_kinds_keeps_its_look(mode):
    image = Image.new("RGB", (8, 8), (204, 102, 51))
    converted = image.convert("P").convert("PA") if mode == "PA" else image.convert(mode)
    back = np.asarray(eight_bits(converted)).astype(int)
    assert back.shape == (8, 8, 3)
    assert np.abs(back - (204, 102, 51)).max() <= 5


def test_black_and_white_spans_the_levels():
    assert sorted(np.unique(levels(stored(GREY.convert("1"), "PNG")))) == [0, 255]


def test_transparent_palettes_say_nothing():
    image = COLOUR.convert("P")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decode_image(stored(image, "PNG", transparency=bytes([0, 128])))


def bomb(width, height):
    """A PNG whose header claims a size."""
    content = bytearray(stored(GREY, "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


def frames(kind):
    return stored(COLOUR, kind, save_all=True, append_images=[COLOUR.rotate(90)])


REFUSED = {
    "floats beyond 1": (stored(Image.fromarray(np.full((8, 8), 200, np.float32)), "TIFF"), "its mode is F"),
    "NaN": (stored(Image.fromarray(np.full((8, 8), np.nan, np.float32)), "TIFF"), "its mode is F"),
    "32 bits": (stored(Image.fromarray(np.full((8, 8), 70000, np.int32)), "TIFF"), "mode I from 70000"),
    "negative": (stored(Image.fromarray(np.full((8, 8), -1, np.int32)), "TIFF"), "mode I from -1"),
    "white as zero": (stored(Image.fromarray(RAMP), "TIFF", tiffinfo={262: 0}), "white as zero"),
    "large": (bomb(20_000, 5_000), "its header says 20000x5000"),
    "absurd": (bomb(2**20, 2**20), "more than"),
    "animated GIF": (frames("GIF"), "it has 2 frames"),
    "animated PNG": (frames("PNG"), "it has 2 frames"),
    "pages": (frames("TIFF"), "it has 2 frames"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_conversion_is_refused_by_name(kind, tmp_path):
    content, description = REFUSED[kind]
    with pytest.raises(UnsupportedImage) as caught:
        decode_image(content)
    assert description in str(caught.value)
    (tmp_path / "n01").mkdir()
    (tmp_path / "n01" / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot decode .*n01/a\.png: ") as caught:
        ImageFiles(tmp_path, np.array([b"n01/a.png"]), 8, 0)[:]
    assert description in str(caught.value)


def test_formats_that_may_start_programs_are_not_opened(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n")
    with pytest.raises(OSError, match="cannot identify"):
        open_image(tmp_path / "a.png")


def test_an_array_has_channels_first():
    assert to_array(GREY).shape == (1, 8, 8)
    assert np.array_equal(to_array(COLOUR)[1], np.asarray(COLOUR)[..., 1])
