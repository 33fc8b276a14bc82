"""Strict parsing of JSON from untrusted files, with one-sentence errors."""

import json
from collections.abc import Sequence
from typing import Any

from bat_core.errors import InputError, brief_repr


def read_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Stricter than Python's own parser: it rejects NaN and Infinity, which are not JSON, and duplicate keys, so
    that every reader of the file sees the same value.

    Raises:
        InputError: the text is not valid JSON, or is nested too deeply.
    """
    try:
        return json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates)
    except InputError:
        raise
    except RecursionError as error:
        raise InputError("the JSON is nested too deeply: this program writes no such file") from error
    except ValueError as error:
        raise InputError(f"not valid JSON: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise InputError(f"{name} is not a JSON value: write infinity as the string 'inf'; NaN is not allowed")


def _without_duplicates(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InputError(f"duplicate key {brief_repr(twice)} in a JSON object: each key may appear once")
    return made
