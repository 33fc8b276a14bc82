"""Build a trial's config from a point of a search space."""

from typing import Any

from bat_core.config import TrialConfig, from_dict, to_dict
from bat_core.errors import InputError
from bat_core.norms import LINF
from search_spaces.base import Point, Space, Value


def trial_config(space: Space, point: Point, base: TrialConfig) -> TrialConfig:
    """`base` with the fields that the point sets.

    A space with its own recipe starts from that recipe's defaults, in the norm of the evaluation.

    Raises:
        InputError: the resulting config is invalid, or a field does not exist.
    """
    values = to_dict(base)
    if "recipe.name" in space.fixed:
        norm = base.attack.norm
        values["recipe"]["params"] = {} if norm == LINF else {"norm": norm}
    for field_path, value in space.fixed.items():
        _set(values, field_path, value)
    for name, value in point.items():
        if field_path := space[name].field_path:
            form = space.forms.get(name, {}).get(str(value))
            _set(values, field_path, form.format(**point) if form else value)
    return from_dict(TrialConfig, values)


def _set(values: Any, field_path: str, value: Value) -> None:
    """`values["a"]["b"] = value` for "a.b"; a number is a list index."""
    *path, last = field_path.split(".")
    try:
        for name in path:
            values = values[name]
        values[int(last) if last.isdigit() else last] = value
    except (LookupError, TypeError) as error:
        raise InputError(f"cannot set {field_path!r} to {value!r}: a trial config has no such field") from error
