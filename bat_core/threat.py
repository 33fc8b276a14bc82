"""The L-infinity ball around an image within [0, 1]: bounds, random start, projection and check."""

import contextlib
import contextvars
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bat_core.device import CHECK_EVERY, is_read
from bat_core.errors import check_amount
from bat_core.rng import BatchRNG

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


@dataclass(frozen=True)
class LinfBall:
    """All images within `eps` of x and in [0, 1]: the box [lower, upper] (eq. 2, where images are in [-1, 1]).

    The bounds are rounded inward, so `max|z - x| <= eps` holds exactly for every z between them, in the precision
    of the images and in float64.
    """

    x: Tensor
    eps: float
    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, x: Tensor, eps: float) -> "LinfBall":
        """The ball around images x (B, C, H, W) in [0, 1]. Those outside by rounding are clamped, see `in_unit_box`.

        Raises:
            ValueError: eps outside (0, 1], x not floating point, or x outside [0, 1].
        """
        check_amount("eps", eps)
        if not x.is_floating_point():
            raise ValueError(f"x has dtype {x.dtype}: attacks take floating-point images in [0, 1]")
        x = in_unit_box(x)
        radius = _round_down(eps, x.dtype)
        upper, lower, exact = x + radius, x - radius, x.double()
        upper = torch.where(upper.double() - exact > radius, torch.nextafter(upper, x), upper)
        lower = torch.where(exact - lower.double() > radius, torch.nextafter(lower, x), lower)
        return cls(x, eps, lower.clamp_(min=0), upper.clamp_(max=1))

    def random_start(self, rng: BatchRNG) -> Tensor:
        """Uniform in the ball of radius eps around x, then projected to [0, 1] (eq. 3)."""
        return self.project(self.x + (2 * rng.uniform(self.x) - 1) * self.eps)

    def project(self, z: Tensor) -> Tensor:
        """The nearest image in the ball."""
        return torch.clamp(z, self.lower, self.upper)

    def take(self, rows: Tensor) -> "LinfBall":
        """The balls around some of the images, selected by positions or by a mask (B,)."""
        return LinfBall(self.x[rows], self.eps, self.lower[rows], self.upper[rows])

    def check(self, x_adv: Tensor) -> Tensor:
        """Return x_adv after checking that it is in the ball and in [0, 1].

        Raises:
            RuntimeError: it is not, or contains NaN. This is a defect of the attack.
        """
        inside = self._inside(x_adv)
        if not _holds(inside.all()):
            raise self._left(int((~inside).sum()))
        return x_adv

    def _inside(self, x_adv: Tensor) -> Tensor:
        if x_adv.shape != self.x.shape:
            raise RuntimeError(f"the attack left its ball: {tuple(x_adv.shape)} for images {tuple(self.x.shape)}")
        return (x_adv >= self.lower) & (x_adv <= self.upper)

    def _left(self, count: int) -> RuntimeError:
        return RuntimeError(f"the attack left its ball: {count} values outside eps={self.eps:g} or [0, 1], or NaN")


class BallChecks:
    """Checks every point of a trajectory, and reads the result only at some of them on a GPU: reading it waits.

    On a CPU each point is checked before it is used. The last read covers all points, so no trajectory ends well
    that left its ball.
    """

    def __init__(self) -> None:
        self._points = 0
        self._unread: tuple[LinfBall, Tensor] | None = None  # the newest ball, and the values outside so far

    def add(self, ball: LinfBall, x_adv: Tensor) -> None:
        """Check a point. Raises RuntimeError if it, or a point before it that was not read yet, is outside its ball."""
        if not _waits(x_adv):
            ball.check(x_adv)
            return
        count = (~ball._inside(x_adv)).sum()
        self._unread = (ball, count if self._unread is None else self._unread[1] + count)
        self._points += 1
        if is_read(self._points - 1, x_adv.device, every=CHECK_EVERY):
            self.read()

    def read(self) -> None:
        """Read the result for all points so far.

        Raises:
            RuntimeError: one of them was outside its ball, or had NaN. This is a defect of the attack.
        """
        if self._unread is None:
            return
        (ball, count), self._unread = self._unread, None
        if outside := int(count):
            raise ball._left(outside)


def _waits(x: Tensor) -> bool:
    return _blocking.get() or not x.is_cuda


def in_unit_box(x: Tensor) -> Tensor:
    """Floating-point images, those outside [0, 1] by rounding (1e-6 in float32) clamped; x itself if none is.

    Images that were un-standardised (x * std + mean) exceed 1 by 1e-7. Other types are returned unchanged. Under
    `async_checks` nothing is clamped.

    Raises:
        ValueError: values outside [0, 1] by more, or NaN.
    """
    if not x.is_floating_point() or _holds(((x >= 0) & (x <= 1)).all()):
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


def _holds(condition: Tensor) -> bool:
    if not _waits(condition):
        torch._assert_async(condition, "an attack received images outside [0, 1] or left its ball")
        return True
    return bool(condition)


def _round_down(value: float, dtype: torch.dtype) -> float:
    """The largest number of type `dtype` that does not exceed `value`."""
    rounded = torch.tensor(value, dtype=dtype)
    if rounded.double().item() > value:
        rounded = torch.nextafter(rounded, torch.zeros_like(rounded))
    return float(rounded)
