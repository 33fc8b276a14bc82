"""What a person is told when their input cannot be used: where, what was given, the rule, the remedy."""

import difflib
import math
import re
import reprlib
from collections.abc import Iterable
from typing import Any

FILE_NAME = re.compile(r"[^\W_][\w.+-]*")
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 100
_brief.maxlevel = 3


class InputError(ValueError):
    """Input from a person that cannot be used. Its text is one sentence that stands alone."""


def brief_repr(value: Any) -> str:
    """What was given, for an error: short, however long, deep or odd it is."""
    try:
        return _brief.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"


def check_file_name(where: str, name: str) -> None:
    """A name that becomes a file or folder stays in the folder it is put into.

    Letters, digits and . _ + - only, a letter or digit first, at most 200 bytes: no slash, no NUL, no
    `..`, and nothing that means something to a shell or in a query.

    Raises:
        InputError: any other.
    """
    if not FILE_NAME.fullmatch(name) or len(name.encode()) > 200:
        raise InputError(
            f"{where}={brief_repr(name)} is no name for a file: use letters, digits and . _ + -, up to 200, and begin with a"
            " letter or digit"
        )


def unknown_name(kind: str, name: str, known: Iterable[str], *, forms: str = "") -> InputError:
    """The error for a name that nothing bears, with the nearest known one.

    `forms` describes names that are made by a rule rather than listed, such as `wrn_<depth>_<width>`.
    """
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    nearest = difflib.get_close_matches(name[:100].lower(), lowered, n=1, cutoff=0.5)
    hint = f"; did you mean {lowered[nearest[0]]!r}?" if nearest else "."
    rule = f", {forms}" if forms else ""
    return InputError(f"unknown {kind} {brief_repr(name)}{hint} Known: {', '.join(names)}{rule}")


def check_amount(where: str, value: float) -> None:
    """An amount of pixel change lies in (0, 1], because images do.

    Raises:
        InputError: value outside (0, 1] or not a number.
    """
    if 0 < value <= 1:
        return
    remedy = f", so write {value:g}/255, not {value:g}" if 1 < value <= 255 else ""
    raise InputError(f"{where}={value:g} is outside (0, 1]: images are in [0, 1]{remedy}")


def check_finite(where: str, value: float, *, low: float = 0.0, strict: bool = False, allow_inf: bool = False) -> None:
    """A number is a number, and at least `low` (above it if `strict`).

    Raises:
        InputError: NaN, infinite (unless `allow_inf`) or too small.
    """
    rule = f"{'above' if strict else 'at least'} {low:g}"
    if math.isnan(value):
        raise InputError(f"{where}=nan is not a number: give one {rule}")
    if math.isinf(value) and not allow_inf:
        raise InputError(f"{where}={value:g} is not finite: give a number {rule}")
    if value < low or (strict and value == low):
        raise InputError(f"{where}={value:g} must be {rule}")


def check_choice(where: str, value: str, choices: Iterable[str]) -> None:
    """A word is one of a fixed few.

    Raises:
        InputError: any other word, with the nearest choice.
    """
    known = tuple(choices)
    if value not in known:
        raise unknown_name(where, value, known)
