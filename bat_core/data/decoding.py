"""The one decoder of image files, for folders and Parquet cells: every mode of Pillow by its own range, or refused."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from bat_core.paths import check_regular

# By name, because some of Pillow's other decoders start external programs.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF", "GIF")
MAX_PIXELS = 89_478_485  # above this, Pillow warns of a decompression bomb
GREY_MODES = {"1", "L", "LA", "La", "I", "F"}  # and I;16, in either byte order
DIRECT_MODES = {"RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "P", "PA"}  # Pillow converts these right
ROUNDING = 1e-6  # by which floats may leave [0, 1]


class UnsupportedImage(ValueError):  # noqa: N818 (not our error: a property of the image)
    """The image is sound but cannot be converted to 8 bits without a guess. The message says why, without a subject."""


def open_image(content: Path | bytes) -> Image.Image:
    """Read an image's header. Nothing is decoded, so `size` and `mode` are cheap.

    Raises:
        UnsupportedImage: it is too large to be decoded.
        Exception: whatever Pillow raises for a file that is damaged, missing or not an image.
    """
    source = io.BytesIO(content) if isinstance(content, bytes) else check_regular(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = Image.open(source, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UnsupportedImage(f"it has more than {MAX_PIXELS:,} pixels") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise UnsupportedImage(f"its header says {width}x{height}, more than {MAX_PIXELS:,} pixels")
    return image


def decode_image(content: Path | bytes) -> Image.Image:
    """Decode an image into 8 bits: mode L (one channel) or RGB.

    16-bit values v become v / 257 and floats v in [0, 1] become 255 v, both rounded. An alpha channel is dropped, the
    EXIF orientation is ignored, as torchvision's loader does.

    Raises:
        UnsupportedImage: too large, of several frames, or of a mode or range that has no conversion.
        Exception: whatever Pillow raises for a file that is damaged, missing or not an image.
    """
    with open_image(content) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # the other pictures of an MPO are views of the first
            raise UnsupportedImage(f"it has {frames} frames, and an example is one image: save the frames as files")
        if image.mode in ("L", "RGB"):
            image.load()
            return image.copy()
        return _eight_bits(image)


def is_grey(image: Image.Image) -> bool:
    """Whether an image has one channel, besides alpha. Palettes count as colour."""
    return image.mode in GREY_MODES or image.mode.startswith("I;16")


def to_array(image: Image.Image) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """uint8 (C, H, W) of an image of mode L or RGB."""
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


def eight_bits(image: Image.Image) -> Image.Image:
    """Convert an image in memory to mode L or RGB.

    Raises:
        UnsupportedImage: of a mode or range that has no conversion.
    """
    return image if image.mode in ("L", "RGB") else _eight_bits(image)


def _eight_bits(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode in ("1", "LA"):
        return image.convert("L")
    if mode in ("La", "RGBa"):  # premultiplied by alpha
        return image.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert({"La": "L", "RGBa": "RGB"}[mode])
    if mode in {"F", "I"} or mode.startswith("I;16"):
        return Image.fromarray(_levels(image))
    if mode in DIRECT_MODES:
        image.load()
        image.info.pop("transparency", None)  # Pillow would warn that it is dropped
        return image.convert("RGB")
    raise UnsupportedImage(f"its mode is {mode}, which has no conversion to 8 bits: save it as RGB")


def _levels(image: Image.Image) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """Grey values of more than 8 bits as levels from 0 to 255, uint8 (H, W)."""
    mode, tags = image.mode, getattr(image, "tag_v2", {})
    if tags.get(262) == 0:
        raise UnsupportedImage(f"its mode is {mode} with white as zero: save it with black as zero")
    bits, signed = _first(tags.get(258)), _first(tags.get(339)) == 2
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if mode == "F":
        if not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise UnsupportedImage(f"its mode is F with values from {low:g} to {high:g}: floats must be in [0, 1]")
        top = 1.0
    else:
        top = 4095.0 if bits == 12 else 65535.0
        if low < 0 or high > top or (signed and bits == 16):
            kind = "signed 16-bit" if signed and bits == 16 else f"mode {mode}"
            raise UnsupportedImage(
                f"its values are {kind} from {low:.0f} to {high:.0f}: integers must be in 0..{top:.0f}; save it with 8"
                " or 16 bits"
            )
    return np.round(np.clip(values * (255 / top), 0, 255)).astype(np.uint8)


def _first(tag: object) -> object:
    return tag[0] if isinstance(tag, tuple) and tag else tag
