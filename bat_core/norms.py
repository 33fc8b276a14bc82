"""The norms that budgets are measured in, by name: rules for amounts, usual budgets, and how amounts are written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from bat_core.errors import InputError, check_amount, check_choice

Norm: TypeAlias = Literal["linf", "l2"]

LINF: Norm = "linf"
L2: Norm = "l2"
NORMS: tuple[Norm, ...] = (LINF, L2)
TITLES: dict[str, str] = {LINF: "L-inf", L2: "L2"}
UNION = "union"  # of several threats: correct when clean and under every attack of each, example by example
THREAT_TITLES: dict[str, str] = {**TITLES, UNION: "both norms at once"}
LARGEST_L2 = 100.0  # no image set in use has a budget near it; a value in grey levels of 255 often exceeds it
UNITS = 8  # a data set's usual budget is this many units in every norm, as in the paper's 8 pixels
L2_BUDGETS = {  # usual L2 budgets; docs/threats.md says where each is from
    "digits": 0.4,
    "cifar10": 0.5,
    "cifar100": 0.5,
    "svhn": 0.5,
    "mnist": 2.0,
    "fashion_mnist": 1.5,
    "tiny_imagenet": 1.0,
    "imagenet": 3.0,
}
REFERENCE_SIZE = 3 * 32 * 32  # values of an image for which 0.5 is usual


def check_norm(where: str, norm: str) -> None:
    """Raises InputError for an unknown norm."""
    check_choice(where, norm, NORMS)


def check_budget(where: str, amount: float, norm: str) -> None:
    """Check an amount of change: in (0, 1] in L-inf; positive and at most 100 in L2.

    Raises:
        InputError: an amount outside the norm's range, or not a number.
    """
    if norm == LINF:
        check_amount(where, amount)
    elif not 0 < amount <= LARGEST_L2:
        remedy = f", so write {amount:g}/255, not {amount:g}" if LARGEST_L2 < amount < math.inf else ""
        raise InputError(
            f"{where}={amount:g} is outside (0, {LARGEST_L2:g}]: it is an L2 distance of images in [0, 1], such as"
            f" 0.5{remedy}"
        )


def budget_unit(dataset: str, norm: str, *, pixel: float, image_shape: Sequence[int]) -> float:
    """The unit in which a data set's budgets are counted: 8 of them are its usual budget.

    In L-inf it is the data set's pixel. In L2 it is an eighth of the usual budget, which for other data sets grows
    with the square root of the number of values in an image, as the length of noise does: 0.5 for 3x32x32.

    Args:
        pixel: of the data set, in [0, 1].  image_shape: (C, H, W).
    """
    if norm == LINF:
        return pixel
    usual = 0.5 * pixel * 255 * math.sqrt(math.prod(image_shape) / REFERENCE_SIZE)
    return L2_BUDGETS.get(dataset, float(f"{usual:.2g}")) / UNITS


@dataclass(frozen=True)
class Unit:
    """What amounts are counted in, and how they are written: pixels in L-inf, plain distances in L2."""

    size: float
    norm: Norm

    def amount(self, amount: float, digits: int = 6) -> str:
        """An amount as tables and figures write it: "8 px" in L-inf, "0.5" in L2."""
        if self.norm == LINF:
            return f"{amount / self.size:.{digits}g} px"
        return f"{amount:.{min(digits, 4)}g}"

    def budget(self, amount: float) -> str:
        """A budget with its norm: "L-inf 8/255 (8 px)" or "L2 0.5"."""
        if self.norm == LINF:
            return f"{TITLES[LINF]} {255 * amount:.4g}/255 ({round(amount / self.size, 6):g} px)"
        return f"{TITLES[self.norm]} {amount:.4g}"

    @property
    def note(self) -> str:
        """What the amounts are."""
        return f"1 px = {self.size * 255:g}/255" if self.norm == LINF else "amounts are L2 distances"
