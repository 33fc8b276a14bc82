"""What a search aims at, and by which rule one model is chosen in the end."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

from bat_core.errors import InputError
from sweeps.engine.search.results import Score

DEFAULT_OBJECTIVE = "clean+robust"
DEFAULT_RULE = "knee"
FLOOR = re.compile(r"robust-at-clean>=(?P<floor>[0-9.]+%?)")


Direction: TypeAlias = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Measure:
    """One number of a finished trial that a search can aim at."""

    of: Callable[[Score], float]
    description: str
    direction: Direction = "maximize"


MEASURES = {
    "clean": Measure(lambda score: score.clean_acc, "clean accuracy"),
    "robust": Measure(lambda score: score.robust_acc, "verified robust accuracy"),
    "pgd": Measure(lambda score: score.pgd_acc, "accuracy under PGD, not verified"),
    "robust-per-hour": Measure(lambda score: score.robust_per_hour, "verified robust accuracy per hour of training"),
    "hours": Measure(lambda score: score.hours, "hours of training", "minimize"),
}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One or several measures, and the clean accuracy that a trial must have, if any."""

    name: str
    measures: tuple[Measure, ...]
    floor: float | None = None

    @property
    def directions(self) -> list[Direction]:
        """ "maximize" or "minimize", for each measure."""
        return [measure.direction for measure in self.measures]

    def values(self, score: Score) -> list[float]:
        """What a finished trial came to, measure by measure."""
        return [measure.of(score) for measure in self.measures]

    def constraints(self, score: Score) -> dict[str, float]:
        """Above zero where a trial is not feasible.

        It is not if its gradients are masked, it gives every image one class, or it is not right often enough.
        Whoever aims at accuracy under PGD asks for masks, and gets them.
        """
        broken = {} if MEASURES["pgd"] in self.measures else {"masked": 1.0 if score.masked else -1.0}
        broken["one class"] = 1.0 if score.constant else -1.0
        if self.floor is not None:
            broken["clean floor"] = self.floor - score.clean_acc
        return broken


def get_objective(name: str) -> Objective:
    """The objective that `name` describes: measures joined by +, or robust-at-clean>=X.

    Raises:
        InputError: it names a measure that no trial reports, or one twice.
    """
    if match := FLOOR.fullmatch(name):
        return Objective(name=name, measures=(MEASURES["robust"],), floor=_share("--objective", match["floor"]))
    parts = name.split("+")
    for part in parts:
        if part not in MEASURES:
            known = f"{', '.join(MEASURES)}, joined by +, or robust-at-clean>=X"
            raise InputError(f"--objective {name!r}: no trial reports {part!r}; known: {known}")
        if parts.count(part) > 1:
            raise InputError(f"--objective {name!r} names {part!r} twice")
    return Objective(name=name, measures=tuple(MEASURES[part] for part in parts))


class Candidate(Protocol):
    """What a rule looks at."""

    @property
    def clean_acc(self) -> float:
        """In [0, 1]."""

    @property
    def robust_acc(self) -> float:
        """In [0, 1]."""

    @property
    def robust_per_hour(self) -> float:
        """Robust accuracy for an hour of training."""

    @property
    def counts(self) -> bool:
        """Whether its robustness may stand beside that of others."""


C = TypeVar("C", bound=Candidate)


def check_rule(name: str) -> None:
    """Raises InputError for a rule that there is not."""
    if name not in {"knee", "robust-per-hour"} and not FLOOR.fullmatch(name):
        raise InputError(f"--rule {name!r} is unknown: known are robust-at-clean>=X, knee, robust-per-hour")
    if match := FLOOR.fullmatch(name):
        _share("--rule", match["floor"])


def choose(candidates: Sequence[C], rule: str) -> C | None:
    """The candidate that a rule picks, of those that count; None if none satisfies it.

    robust-at-clean>=X: the most robust of those that are right on a share X of clean images.
    knee: the farthest above the line from the front's most robust end to its cleanest.
    robust-per-hour: the most robust accuracy for an hour of training.
    """
    check_rule(rule)
    candidates = [one for one in candidates if one.counts]
    if match := FLOOR.fullmatch(rule):
        floor = _share("--rule", match["floor"])
        candidates = [one for one in candidates if one.clean_acc >= floor]
        return max(candidates, key=lambda one: (one.robust_acc, one.clean_acc), default=None)
    if rule == "robust-per-hour":
        return max(candidates, key=lambda one: one.robust_per_hour, default=None)
    return _knee(candidates)


def _knee(candidates: Sequence[C]) -> C | None:
    if not candidates:
        return None
    best_clean = max(one.clean_acc for one in candidates)
    best_robust = max(one.robust_acc for one in candidates)
    cleanest = max((one for one in candidates if one.clean_acc == best_clean), key=lambda one: one.robust_acc)
    toughest = max((one for one in candidates if one.robust_acc == best_robust), key=lambda one: one.clean_acc)
    wide, high = best_clean - toughest.clean_acc, best_robust - cleanest.robust_acc
    if not (wide and high):
        return toughest

    def above(one: C) -> float:
        """Distance from the line between the ends, with both scaled to 1; the ends lie on it."""
        return (one.clean_acc - toughest.clean_acc) / wide + (one.robust_acc - cleanest.robust_acc) / high

    return max(candidates, key=lambda one: (above(one), one.robust_acc))


def _share(where: str, text: str) -> float:
    try:
        value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"{where}: clean>={text} is no share of images: write 0.9 or 90%")
    return value
