"""Errors for invalid user input. Each message states where, what was given, the rule and the remedy."""

import difflib
import math
import re
import reprlib
from collections.abc import Iterable
from typing import Any

FILE_NAME = re.compile(r"[^\W_][\w.+-]*")
LARGEST_INTEGER = 2**63 - 1  # what files, MLflow and torch can hold
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 100
_brief.maxlevel = 3


class InputError(ValueError):
    """Invalid input from a user. The message is one self-contained sentence."""


def brief_repr(value: Any) -> str:
    """A short repr of any value for an error message, however large or deeply nested the value is."""
    try:
        return _brief.repr(value)
    except ValueError:  # Python refuses to print integers of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"


def check_file_name(where: str, name: str) -> None:
    """Check that a name is safe as a file or folder name and cannot escape its parent folder.

    Allowed are letters, digits and . _ + -, starting with a letter or digit, at most 200 bytes. This excludes
    slashes, NUL, `..` and characters that are special in a shell or a query.

    Raises:
        InputError: any other name.
    """
    if not FILE_NAME.fullmatch(name) or len(name.encode()) > 200:
        raise InputError(
            f"{where}={brief_repr(name)} is not a valid file name: use at most 200 letters, digits and . _ + -, and"
            " start with a letter or digit"
        )


def unknown_name(kind: str, name: str, known: Iterable[str], *, forms: str = "") -> InputError:
    """The error for an unknown name. It suggests the closest known one.

    `forms` describes names that follow a pattern rather than a list, such as `wrn_<depth>_<width>`.
    """
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    nearest = difflib.get_close_matches(name[:100].lower(), lowered, n=1, cutoff=0.5)
    hint = f"; did you mean {lowered[nearest[0]]!r}?" if nearest else "."
    rule = f", {forms}" if forms else ""
    return InputError(f"unknown {kind} {brief_repr(name)}{hint} Known: {', '.join(names)}{rule}")


def check_amount(where: str, value: float) -> None:
    """Check that an amount of pixel change is in (0, 1]; images are in [0, 1].

    Raises:
        InputError: value outside (0, 1] or not a number.
    """
    if 0 < value <= 1:
        return
    remedy = f", so write {value:g}/255, not {value:g}" if 1 < value <= 255 else ""
    raise InputError(f"{where}={value:g} is outside (0, 1]: images are in [0, 1]{remedy}")


def check_finite(where: str, value: float, *, low: float = 0.0, strict: bool = False, allow_inf: bool = False) -> None:
    """Check that a number is finite and at least `low` (above `low` if `strict`).

    Raises:
        InputError: NaN, infinite (unless `allow_inf`), too small, or a whole number of more than 64 bits.
    """
    if isinstance(value, int) and abs(value) > LARGEST_INTEGER:
        raise InputError(f"{where}={brief_repr(value)} is too large: integers must fit into 64 bits")
    rule = f"{'above' if strict else 'at least'} {low:g}"
    if math.isnan(value):
        raise InputError(f"{where}=nan is not a number: it must be {rule}")
    if math.isinf(value) and not allow_inf:
        raise InputError(f"{where}={value:g} is not finite: it must be a finite number, {rule}")
    if value < low or (strict and value == low):
        raise InputError(f"{where}={value:g} must be {rule}")


def check_choice(where: str, value: str, choices: Iterable[str]) -> None:
    """Check that a string is one of a fixed set of choices.

    Raises:
        InputError: any other value; the message suggests the closest choice.
    """
    known = tuple(choices)
    if value not in known:
        raise unknown_name(where, value, known)
