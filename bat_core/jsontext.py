"""JSON from a file that someone else may have written: read strictly, refused in one sentence."""

import json
from collections.abc import Sequence
from typing import Any

from bat_core.errors import InputError, brief_repr


def read_json(text: str | bytes) -> Any:
    """The value that a JSON text stands for.

    Stricter than Python's own reader: NaN and Infinity, which JSON lacks, and a key that stands in an
    object twice are refused, so that every reader of the file sees the same.

    Raises:
        InputError: it is no JSON, or is nested too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError("the JSON is nested too deep to be one of ours") from error
    except ValueError as error:
        raise InputError(f"this is no JSON: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise InputError(f"{name} is no JSON value: infinity is written as text, 'inf', and no number is left out")


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"key {brief_repr(twice)} stands in one object twice")
    return made
