"""Images and labels as users have them, arrays or torch Datasets, as a split of uint8 images."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from bat_core.adapter.importing import user_code
from bat_core.data.base import Split, as_labels
from bat_core.data.columns import IMAGE_NAMES, LABEL_NAMES
from bat_core.data.decoding import ROUNDING, eight_bits, to_array
from bat_core.errors import InputError

PROBED = 3  # examples that are read twice, to see whether they are the same
CHANNELS = (1, 3)

Array: TypeAlias = "np.ndarray[Any, Any]"


def as_split(part: Any, what: str) -> Split:
    """One split of a user's data set.

    Args:
        part: a `Split`; a pair (images, labels) of arrays or tensors; or anything with a length whose items are pairs
            (image, label) or mappings with such entries, as torchvision's and the hub's data sets are. Images are
            uint8 (256 levels), float in [0, 1] (rounded to 256 levels), uint16 (v / 257) or PIL images; (C, H, W),
            (H, W, C) or (H, W), with 1 or 3 channels, all of one size. Labels are integers of any type.
        what: the subject of errors.
    Raises:
        InputError: another form, values outside the range, images that differ in size or from one reading to the
            next, or more of them than fit into memory.
    """
    if isinstance(part, Split):
        return part
    if isinstance(part, tuple | list) and len(part) == 2 and _is_array(part[0]):
        images, labels = part
        return _from_arrays(images, labels, what)
    if hasattr(part, "__len__") and hasattr(part, "__getitem__") and not isinstance(part, str | bytes | dict):
        return _from_examples(part, what)
    raise InputError(
        f"{what} is a {type(part).__name__}: it must be (images, labels), or a torch Dataset with a length whose items"
        " are (image, label)"
    )


def class_names_of(part: Any) -> tuple[str, ...] | None:
    """The class names that a data set of torchvision or of the hub knows, else None."""
    names: Any = getattr(part, "classes", None)
    with contextlib.suppress(Exception):
        names = names or part.features["label"].names
    fits = isinstance(names, list | tuple) and len(names) > 0 and all(isinstance(name, str) for name in names)
    return tuple(names) if fits else None


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _from_arrays(images: Any, labels: Any, what: str) -> Split:
    values = _array(images)
    if values.ndim == 3:
        values = values[:, None]
    elif values.ndim == 4:
        values = np.moveaxis(values, -1, 1) if _channels_last(images, values.shape[1:]) else values
    if values.ndim != 4 or values.shape[1] not in CHANNELS:
        raise InputError(f"{what}: images have shape {values.shape}: they must be (N, C, H, W) with 1 or 3 channels")
    if len(values) == 0:
        raise InputError(f"{what} has no images")
    levels = _levels(values, what)
    _check_contrast(levels, values.dtype.kind in "iu", what)
    with user_code(f"{what}: labels cannot be read"):
        labels = labels if isinstance(labels, Tensor) else torch.from_numpy(np.asarray(labels).astype(_whole(labels)))
    try:
        return Split.of(torch.from_numpy(levels), as_labels(labels.cpu(), len(levels)))
    except InputError as error:
        raise InputError(f"{what}: {error}") from None


def _whole(labels: Any) -> Any:
    """The type to convert labels to: int64 if they are integers, else their own, which is then refused."""
    kind = np.asarray(labels).dtype
    return np.int64 if kind.kind in "iub" else np.float64


def _from_examples(part: Any, what: str) -> Split:
    with user_code(f"{what}: its length cannot be read"):
        count = len(part)
    if count == 0:
        raise InputError(f"{what} has no images")
    first, _ = _example(part, 0, what)
    _check_memory(count, first, what)
    for position in range(min(PROBED, count)):
        if not np.array_equal(_example(part, position, what)[0], _example(part, position, what)[0]):
            raise InputError(
                f"{what}: example {position} is another image each time it is read: leave random augmentation out, so"
                " that results can be repeated"
            )
    images = np.empty((count, *_levels(first, what).shape), dtype=np.uint8)
    labels = torch.empty(count, dtype=torch.int64)
    whole = True
    for position in range(count):
        image, labels[position] = _example(part, position, what)
        if image.shape != images.shape[1:]:
            raise InputError(
                f"{what}: example {position} has shape {image.shape} and the first {images.shape[1:]}: bring all images"
                " to one size and number of channels"
            )
        images[position] = _levels(image, f"{what}: example {position}")
        whole = whole and image.dtype.kind in "iu"
    _check_contrast(images, whole, what)
    return Split.of(torch.from_numpy(images), labels)


def _example(part: Any, position: int, what: str) -> tuple[Array, int]:
    """One example: an image (C, H, W) of its own type, and its label."""
    with user_code(f"{what}: example {position} cannot be read"):
        item = part[position]
        if isinstance(item, Mapping):
            item = [next((item[name] for name in names if name in item), None) for names in (IMAGE_NAMES, LABEL_NAMES)]
        if not isinstance(item, Sequence) or len(item) != 2 or item[0] is None or item[1] is None:
            raise InputError(f"{what}: example {position} is a {type(item).__name__}: it must be (image, label)")
        image, label = item
        if hasattr(image, "getbands"):  # a PIL image
            array: Array = to_array(eight_bits(image))
        else:
            array = _array(image)
            if array.ndim == 2:
                array = array[None]
            elif array.ndim == 3 and _channels_last(image, array.shape):
                array = np.moveaxis(array, -1, 0)
        index = np.asarray(label)
    if array.ndim != 3 or array.shape[0] not in CHANNELS:
        raise InputError(
            f"{what}: example {position} is a {type(image).__name__} of shape {array.shape}: images must be PIL images,"
            " or arrays (C, H, W) with 1 or 3 channels"
        )
    if index.size != 1 or index.dtype.kind not in "iub":
        raise InputError(f"{what}: the label of example {position} is not an integer, the index of its class")
    return array, int(index.reshape(()))


def _array(values: Any) -> Array:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def _channels_last(given: Any, shape: Sequence[int]) -> bool:
    """Whether an image of `shape` is (H, W, C). Where both ends fit, tensors have channels first and arrays last."""
    first, last = shape[0] in CHANNELS, shape[-1] in CHANNELS
    return last and not (first and isinstance(given, Tensor))


def _levels(values: Array, what: str) -> Array:
    """Values by the range of their type, as uint8.

    Raises:
        InputError: the values are outside the range.
    """
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.uint8) * 255
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype == np.uint16:
        return np.round(values / 257).astype(np.uint8)
    if kind not in "iuf":
        raise InputError(f"{what}: images have type {values.dtype}: they must be uint8, or float in [0, 1]")
    low, high = float(values.min()), float(values.max())
    if kind in "iu":
        if low < 0 or high > 255:
            raise InputError(f"{what}: integer images span {low:.0f}..{high:.0f}: they must be in 0..255")
        return values.astype(np.uint8)
    slack = max(ROUNDING, float(np.finfo(values.dtype).eps))
    if not (low >= -slack and high <= 1 + slack):
        raise InputError(
            f"{what}: float images span {low:.8g}..{high:.8g}: they must be in [0, 1]; leave standardisation out, and"
            " divide 0..255 by 255"
        )
    return np.round(np.clip(values.astype(np.float64), 0, 1) * 255).astype(np.uint8)


def _check_contrast(levels: Array, whole: bool, what: str) -> None:
    """Refuse integers (`whole`) that are 0 and 1 only: as levels of 255 they would all be black."""
    if whole and levels.max() == 1:
        raise InputError(f"{what}: integer images are 0 or 1 only, which is black: multiply them by 255")


def _check_memory(count: int, image: Array, what: str) -> None:
    needed, there = count * image.size, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > 0.8 * there:
        raise InputError(
            f"{what}: {count} images of {image.size} bytes do not fit into memory: use --dataset imagefolder, which"
            " streams them"
        )
