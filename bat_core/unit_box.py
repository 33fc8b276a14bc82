"""Images in [0, 1]: their check, which may be asynchronous on a GPU."""

import contextlib
import contextvars
from collections.abc import Iterator

import torch
from torch import Tensor

ROUNDING = 1e-6  # by which images may leave [0, 1]; in half precision, one unit of the last place of 1

_blocking = contextvars.ContextVar("blocking", default=True)


@contextlib.contextmanager
def async_checks() -> Iterator[None]:
    """Make checks in the body asynchronous on a GPU: a failure raises a device assert instead of an exception.

    Training uses this so that the CPU can prepare the next step without waiting for the GPU.
    """
    token = _blocking.set(False)
    try:
        yield
    finally:
        _blocking.reset(token)


def waits(x: Tensor) -> bool:
    """Whether a check of x waits for its result, instead of raising later on the GPU."""
    return _blocking.get() or not x.is_cuda


def in_unit_box(x: Tensor) -> Tensor:
    """Floating-point images, those outside [0, 1] by rounding (1e-6 in float32) clamped; x itself if none is.

    Images that were un-standardised (x * std + mean) exceed 1 by 1e-7. Other types are returned unchanged. Under
    `async_checks` nothing is clamped.

    Raises:
        ValueError: values outside [0, 1] by more, or NaN.
    """
    if not x.is_floating_point() or holds(((x >= 0) & (x <= 1)).all()):
        return x
    slack = max(ROUNDING, torch.finfo(x.dtype).eps)
    low, high = float(x.min()), float(x.max())
    if not (low >= -slack and high <= 1 + slack):  # false for NaN
        excess = max(-low, high - 1)
        raise ValueError(
            f"x spans [{low:.9g}, {high:.9g}], {excess:.3g} outside [0, 1]: images must be in [0, 1] (without"
            f" standardisation, and divided by 255), up to a rounding error of {slack:.2g}"
        )
    return x.clamp(0, 1)


def holds(condition: Tensor) -> bool:
    """Whether a condition () bool holds. On a GPU under `async_checks` it is asserted there, and this is True."""
    if not waits(condition):
        torch._assert_async(condition, "an attack received images outside [0, 1] or left its ball")
        return True
    return bool(condition)
