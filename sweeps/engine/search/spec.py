"""The description of a search: fixed before it starts, and stored as search.json next to sweep.json."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bat_core.config import TrialConfig, from_dict, to_dict
from bat_core.errors import InputError, brief_repr, check_finite
from bat_core.jsontext import read_json
from bat_core.paths import below, read_regular, write_atomically
from search_spaces.base import Space

if TYPE_CHECKING:
    from sweeps.engine.sweep.folder import SweepFolder

SEARCH = "search.json"
DEFAULT_OBJECTIVE = "clean+robust"
DEFAULT_RULE = "knee"
TRIAL_SEEDS = 1000  # the seed of trial i is TRIAL_SEEDS times the seed of the search, plus i
SAMPLERS = ("auto", "tpe", "gp", "random")


@dataclass(frozen=True, kw_only=True)
class Halving:
    """Asynchronous successive halving.

    By "pgd", after `grace`, `grace * factor` ... epochs the best 1 / factor by PGD accuracy continue. By "front", there
    is one rung at `grace`, ranked by clean and PGD accuracy; at least the best `always` continue. If it
    `continues`, stopped trials may continue later.
    """

    grace: int
    factor: int
    by: Literal["front", "pgd"] = "pgd"  # searches from before "front" existed do not name it
    always: int = 3  # nor this
    continues: bool = False  # nor this


@dataclass(frozen=True, kw_only=True)
class Final:
    """How to treat the front: retrain `count` of its trials with each seed, for `epochs` (None: as many as the
    original trial); `rule` picks one. The front is that of the accuracies that were seen, or `by` what a model expects.
    Finalists get more seeds, up to `max_seeds`, until the rule's choice is clear."""

    count: int
    epochs: int | None
    seeds: tuple[int, ...]
    rule: str
    registered_name: str
    max_seeds: int | None = None  # searches from before it existed do not name it
    by: Literal["expected", "seen"] = "seen"  # nor this

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds {brief_repr(self.seeds)}: finalists need at least one seed, and each only once")
        for seed in self.seeds:
            check_finite("--seeds", seed)
        if self.max_seeds is not None and self.max_seeds < len(self.seeds):
            raise InputError(
                f"--max-seeds={self.max_seeds} is below the {len(self.seeds)} seeds of every finalist: give more, or"
                " fewer --seeds"
            )
        if not self.registered_name or set(self.registered_name) & set("'\"/:\0"):
            raise InputError(
                f"--register={brief_repr(self.registered_name)} is not a valid model name: remove ' \" / and :"
            )

    def seeds_for(self, count: int) -> tuple[int, ...]:
        """`count` seeds: those given, then the smallest others."""
        others = (seed for seed in range(count + len(self.seeds)) if seed not in self.seeds)
        return (*self.seeds, *others)[:count]


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search: its space, its objective and its budget.

    `space` has amounts in [0, 1]; `base` is the config that a point of the space modifies. The search ends after
    `num_trials`, after `max_hours` of wall time, or after `flat` trials in a row that did not increase the
    hypervolume. With `skip_dominated`, a trial whose PGD accuracy shows that it cannot enter the front is not verified.
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
    skip_dominated: bool = False  # searches from before it existed do not name it

    @property
    def longest(self) -> int:
        """Epochs of the longest trial in the space."""
        return longest_trial(self.space, self.base.train.epochs)

    def write(self, folder: "SweepFolder") -> None:
        """Store it in the sweep's folder as search.json."""
        write_atomically(below(folder.path, SEARCH), json.dumps(to_dict(self), indent=1))
        folder.copy_to_store(SEARCH)

    @classmethod
    def read(cls, folder: "SweepFolder") -> "Search":
        """Read the search in a folder.

        Raises:
            InputError: search.json is missing or invalid.
        """
        return read_search(folder.path)


def longest_trial(space: Space, epochs: int) -> int:
    """Epochs of the longest trial in a space whose trials have `epochs` unless the space varies them."""
    return round(space["epochs"].high) if "epochs" in space.names else epochs


def read_search(path: Path) -> Search:
    """Read the search in a sweep's folder.

    Raises:
        InputError: search.json is missing or invalid.
    """
    try:
        return from_dict(Search, read_json(read_regular(below(path, SEARCH))))
    except OSError as error:
        raise InputError(f"{str(path)!r} is not a search folder: {SEARCH} is missing") from error
    except ValueError as error:
        raise InputError(f"{str(path)!r}: {SEARCH} is not a valid search description: {error}") from error


def differences(mine: Space, other: Space) -> str | None:
    """How the other space differs from this one, in a few words; None if their points are interchangeable."""
    if mine.fixed != other.fixed:
        return f"it fixes {dict(other.fixed)}, and this search fixes {dict(mine.fixed)}"
    if gone := sorted(set(mine.names) ^ set(other.names)):
        there = "only it has" if gone[0] in other.names else "it lacks"
        return f"{there} parameter {gone[0]!r}"
    for parameter in mine.parameters:
        theirs = other[parameter.name]
        if (parameter.kind, parameter.field_path) != (theirs.kind, theirs.field_path):
            return f"it uses parameter {parameter.name!r} for a different field or type"
    return None
