"""The L-infinity and L2 balls around images within [0, 1]: random start, steps, projection and check."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from bat_core.device import CHECK_EVERY, is_read
from bat_core.norms import L2, LINF, Norm, check_budget
from bat_core.rng import BatchRNG
from bat_core.unit_box import holds, in_unit_box, waits

_HUGE = 1e30  # stands for infinity in a gradient; its square sums up to a finite number


@dataclass(frozen=True)
class LpBall(ABC):
    """All images within `eps` of x (B, C, H, W) in one norm, and in [0, 1]. `ball_around` makes one.

    The distance never exceeds eps, as computed in float64 from the images in their own precision.
    """

    norm: ClassVar[Norm]

    x: Tensor
    eps: float

    @classmethod
    @abstractmethod
    def around(cls, x: Tensor, eps: float) -> Self:
        """The ball around images x (B, C, H, W) in [0, 1]. Those outside by rounding are clamped, see `in_unit_box`.

        Raises:
            ValueError: eps out of the norm's range, x not floating point, or x outside [0, 1].
        """

    @staticmethod
    @abstractmethod
    def noise(rng: BatchRNG, like: Tensor, radius: float) -> Tensor:
        """Uniform in the ball of that radius around 0, like `like`."""

    @staticmethod
    @abstractmethod
    def direction(gradient: Tensor) -> Tensor:
        """The step of length 1 in the norm along which a linear function with this gradient (B, ...) grows most."""

    @staticmethod
    @abstractmethod
    def dual(gradient: Tensor) -> Tensor:
        """(B,): how much a linear function with this gradient (B, ...) grows along a step of length 1."""

    @abstractmethod
    def extreme(self, rng: BatchRNG) -> Tensor:
        """A random image at the edge of the ball: the largest noise within the budget."""

    @abstractmethod
    def project(self, z: Tensor) -> Tensor:
        """An image in the ball near z; z itself if it is one."""

    @abstractmethod
    def take(self, rows: Tensor) -> Self:
        """The balls around some of the images, selected by positions or by a mask (B,)."""

    @abstractmethod
    def inside(self, x_adv: Tensor) -> Tensor:
        """Whether values (B, C, H, W), or images (B,), are in the ball and in [0, 1]; false for NaN."""

    def random_start(self, rng: BatchRNG) -> Tensor:
        """Uniform in the ball of radius eps around x, then projected to [0, 1] (eq. 3)."""
        return self.project(self.x + self.noise(rng, self.x, self.eps))

    def step(self, x: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """The point after a step of length `size`, a number or (B, 1, 1, 1), along the gradient (eq. 4)."""
        direction = self.direction(gradient)
        moved = x + size * direction if isinstance(size, Tensor) else torch.add(x, direction, alpha=size)
        return self.project(moved)

    def check(self, x_adv: Tensor) -> Tensor:
        """Return x_adv after checking that it is in the ball and in [0, 1].

        Raises:
            RuntimeError: it is not, or contains NaN. This is a defect of the attack.
        """
        inside = self._inside(x_adv)
        if not holds(inside.all()):
            raise self._left(int((~inside).sum()))
        return x_adv

    def _inside(self, x_adv: Tensor) -> Tensor:
        if x_adv.shape != self.x.shape:
            raise RuntimeError(f"the attack left its ball: {tuple(x_adv.shape)} for images {tuple(self.x.shape)}")
        return self.inside(x_adv)

    def _left(self, count: int) -> RuntimeError:
        what = "values" if self.norm == LINF else "images"
        return RuntimeError(f"the attack left its ball: {count} {what} outside eps={self.eps:g} or [0, 1], or NaN")


@dataclass(frozen=True)
class LinfBall(LpBall):
    """The box [lower, upper] around x (eq. 2, where images are in [-1, 1]).

    The bounds are rounded inward, so `max|z - x| <= eps` holds exactly for every z between them, in the precision
    of the images and in float64.
    """

    norm: ClassVar[Norm] = LINF

    lower: Tensor
    upper: Tensor

    @classmethod
    def around(cls, x: Tensor, eps: float) -> Self:
        x = _checked(x, eps, LINF)
        radius = _round_down(eps, x.dtype)
        upper, lower, exact = x + radius, x - radius, x.double()
        upper = torch.where(upper.double() - exact > radius, torch.nextafter(upper, x), upper)
        lower = torch.where(exact - lower.double() > radius, torch.nextafter(lower, x), lower)
        return cls(x, eps, lower.clamp_(min=0), upper.clamp_(max=1))

    @staticmethod
    def noise(rng: BatchRNG, like: Tensor, radius: float) -> Tensor:
        return (2 * rng.uniform(like) - 1) * radius

    @staticmethod
    def direction(gradient: Tensor) -> Tensor:
        return gradient.sign()  # that of NaN is 0

    @staticmethod
    def dual(gradient: Tensor) -> Tensor:
        return gradient.flatten(1).abs().sum(1)

    def extreme(self, rng: BatchRNG) -> Tensor:
        return self.project(torch.where(rng.uniform(self.x) < 0.5, self.lower, self.upper))

    def project(self, z: Tensor) -> Tensor:
        return torch.clamp(z, self.lower, self.upper)

    def take(self, rows: Tensor) -> Self:
        return type(self)(self.x[rows], self.eps, self.lower[rows], self.upper[rows])

    def inside(self, x_adv: Tensor) -> Tensor:
        return (x_adv >= self.lower) & (x_adv <= self.upper)


@dataclass(frozen=True)
class L2Ball(LpBall):
    """All images whose difference from x has at most the length eps.

    A point outside is brought to a slightly shorter length, so that rounding its values cannot lengthen it beyond
    eps: shorter by 3e-6 for 3x32x32 values in float32, and by far more in half precision.
    """

    norm: ClassVar[Norm] = L2

    @classmethod
    def around(cls, x: Tensor, eps: float) -> Self:
        return cls(_checked(x, eps, L2), eps)

    @staticmethod
    def noise(rng: BatchRNG, like: Tensor, radius: float) -> Tensor:
        """By leaving out two of the coordinates of a point on a sphere in two dimensions more."""
        drawn = _normal(rng, like, like[0].numel() + 2)
        point = drawn[:, :-2] / torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
        return (radius * point).view(like.shape).to(like.dtype)

    @staticmethod
    def direction(gradient: Tensor) -> Tensor:
        huge = min(_HUGE, torch.finfo(gradient.dtype).max)
        gradient = gradient.nan_to_num(nan=0.0, posinf=huge, neginf=-huge)  # as in L-inf, NaN does not move
        return (gradient / _shaped(lengths(gradient), gradient)).to(gradient.dtype)

    @staticmethod
    def dual(gradient: Tensor) -> Tensor:
        return lengths(gradient).to(gradient.dtype)

    def extreme(self, rng: BatchRNG) -> Tensor:
        drawn = _normal(rng, self.x, self.x[0].numel()).view(self.x.shape).to(self.x.dtype)
        return self.step(self.x, drawn, self.eps)

    def project(self, z: Tensor) -> Tensor:
        delta = z - self.x
        length = lengths(delta)
        shorter = torch.addcmul(self.x, delta, self._inner / _shaped(length, delta)).to(z.dtype)
        within = (length <= self.eps * (1 - torch.finfo(delta.dtype).eps)).view(-1, *[1] * (z.ndim - 1))
        return torch.where(within, z, shorter).clamp(0, 1)

    @property
    def _inner(self) -> float:
        """The length to which points are shortened. Rounding moves each value in [0, 1] by at most half a unit."""
        unit = torch.finfo(self.x.dtype).eps
        return max(self.eps * (1 - 4 * unit) - unit / 2 * math.sqrt(self.x[0].numel()), 0.0)

    def take(self, rows: Tensor) -> Self:
        return type(self)(self.x[rows], self.eps)

    def inside(self, x_adv: Tensor) -> Tensor:
        in_box = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
        return in_box & (lengths(x_adv.double() - self.x.double()) <= self.eps)


BALLS: dict[str, type[LpBall]] = {LINF: LinfBall, L2: L2Ball}


def ball_around(x: Tensor, eps: float, norm: str) -> LpBall:
    """The ball around images x (B, C, H, W) in [0, 1]; see `LpBall.around`."""
    return BALLS[norm].around(x, eps)


def lengths(delta: Tensor) -> Tensor:
    """The L2 length (B,) of each difference (B, ...), summed in float64."""
    return torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64)


def _shaped(length: Tensor, like: Tensor) -> Tensor:
    """Lengths (B,) as divisors (B, 1, ...): above 0, in the precision of `like`, or in float32 where that is half."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return length.to(dtype).clamp(min=torch.finfo(dtype).tiny).view(-1, *[1] * (like.ndim - 1))


def _normal(rng: BatchRNG, like: Tensor, count: int) -> Tensor:
    dtype = torch.promote_types(like.dtype, torch.float32)
    return rng.normal(torch.empty(len(like), count, dtype=dtype, device=like.device))


def _checked(x: Tensor, eps: float, norm: Norm) -> Tensor:
    check_budget("eps", eps, norm)
    if not x.is_floating_point():
        raise ValueError(f"x has dtype {x.dtype}: attacks take floating-point images in [0, 1]")
    return in_unit_box(x)


class BallChecks:
    """Checks every point of a trajectory, and reads the result only at some of them on a GPU: reading it waits.

    On a CPU each point is checked before it is used. The last read covers all points, so no trajectory ends well
    that left its ball.
    """

    def __init__(self) -> None:
        self._points = 0
        self._unread: tuple[LpBall, Tensor] | None = None  # the newest ball, and the values outside so far

    def add(self, ball: LpBall, x_adv: Tensor) -> None:
        """Check a point. Raises RuntimeError if it, or a point before it that was not read yet, is outside its ball."""
        if not waits(x_adv):
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


def _round_down(value: float, dtype: torch.dtype) -> float:
    """The largest number of type `dtype` that does not exceed `value`."""
    rounded = torch.tensor(value, dtype=dtype)
    if rounded.double().item() > value:
        rounded = torch.nextafter(rounded, torch.zeros_like(rounded))
    return float(rounded)
