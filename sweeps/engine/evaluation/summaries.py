"""Reads summary.json, which an evaluation leaves for each model."""

from dataclasses import dataclass, fields

from bat_core.config import from_dict
from bat_core.errors import InputError
from bat_core.jsontext import read_json
from bat_core.paths import Rooted, read_regular


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A red flag that was raised."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is read of a model's summary.json. Accuracies are in [0, 1]."""

    clean_acc: float
    robust_acc: float
    robust_acc_interval: tuple[float, ...]
    n: int
    suite: str
    verdict: str
    flags: tuple[Flag, ...]

    def __post_init__(self) -> None:
        low_high = self.robust_acc_interval
        if len(low_high) != 2 or not all(0 <= share <= 1 for share in (self.clean_acc, self.robust_acc, *low_high)):
            raise InputError("its accuracies must be in [0, 1], and its interval needs a low and a high one")


def read_summary(path: Rooted) -> Summary:
    """The summary in a file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        content = read_json(read_regular(path))
        known = {field.name: content[field.name] for field in fields(Summary)}
        flags = [{"name": flag["name"]} for flag in known["flags"]]
        return from_dict(Summary, known | {"flags": flags})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is not a complete summary: {error}") from error
