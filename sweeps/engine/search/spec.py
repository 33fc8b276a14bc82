"""Everything that was decided before a search began; written once, as search.json beside sweep.json."""

import json
from dataclasses import dataclass
from pathlib import Path

from bat_core.config import TrialConfig, from_dict, to_dict
from bat_core.errors import InputError, shown
from bat_core.jsontext import read_json
from search_spaces.base import Space
from sweeps.engine.storage.files import write_atomically
from sweeps.engine.sweep.folder import SweepFolder

SEARCH = "search.json"
SAMPLERS = ("tpe", "gp", "random")


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Asynchronous successive halving: at `grace`, `grace * factor` ... epochs the best 1 / factor go on."""

    grace: int
    factor: int


@dataclass(frozen=True, kw_only=True)
class Final:
    """What becomes of the front: `count` of it train anew, once for each seed, for `epochs` if that is said;
    `rule` picks one."""

    count: int
    epochs: int | None
    seeds: tuple[int, ...]
    rule: str
    registered_name: str

    def __post_init__(self) -> None:
        if not self.registered_name or set(self.registered_name) & set("'\"/:\0"):
            raise InputError(f"--register={shown(self.registered_name)} is no name for a model: leave out ' \" / and :")


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search: where it looks, what it aims at, when it ends.

    `space` has amounts in [0, 1]; `base` is the trial that a point of it changes. It ends after
    `num_trials`, `max_hours` of wall time, or `flat` trials that added nothing to the hypervolume.
    """

    space: Space
    base: TrialConfig
    objective: str
    sampler: str
    seed: int
    num_trials: int
    max_hours: float | None
    flat: int | None
    halving: Halving | None
    final: Final | None
    warm_start: tuple[str, ...] = ()

    @property
    def longest(self) -> int:
        """Epochs of the longest trial that the space admits."""
        return round(self.space["epochs"].high) if "epochs" in self.space.names else self.base.train.epochs

    def write(self, folder: SweepFolder) -> None:
        """Keep it beside the sweep's description."""
        write_atomically(folder.path / SEARCH, json.dumps(to_dict(self), indent=1))
        folder.keep(SEARCH)

    @classmethod
    def read(cls, folder: SweepFolder) -> "Search":
        """The search that lives in a folder.

        Raises:
            InputError: none does.
        """
        return read_search(folder.path)


def read_search(path: Path) -> Search:
    """The search in a sweep's folder.

    Raises:
        InputError: none lives there.
    """
    try:
        return from_dict(Search, read_json((path / SEARCH).read_bytes()))
    except OSError as error:
        raise InputError(f"{str(path)!r} holds no search: {SEARCH} is missing") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r}: {SEARCH} is not a search's description: {error}") from error


def differences(mine: Space, other: Space) -> str | None:
    """How another space differs from this one, in a few words; None if a point of it means the same here."""
    if mine.fixed != other.fixed:
        return f"it has {dict(other.fixed)} where this one has {dict(mine.fixed)}"
    if gone := sorted(set(mine.names) ^ set(other.names)):
        there = "only it has" if gone[0] in other.names else "it lacks"
        return f"{there} parameter {gone[0]!r}"
    for parameter in mine.parameters:
        theirs = other[parameter.name]
        if (parameter.kind, parameter.field_path) != (theirs.kind, theirs.field_path):
            return f"parameter {parameter.name!r} is another thing there"
    return None
