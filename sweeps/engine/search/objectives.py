"""Search objectives, and the rules that choose one model at the end."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar

from bat_core.errors import InputError
from bat_core.norms import NORMS, TITLES, UNION
from sweeps.engine.cli.options import share_of
from sweeps.engine.search.results import CLEAN_AND_ROBUST, Aims, Score

FLOOR = re.compile(r"robust-at-clean>=(?P<floor>[0-9.]+%?)")


Direction: TypeAlias = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Measure:
    """One number of a finished trial that a search can optimise, and its variance over samples of n images.

    `robust` marks a verified robust accuracy. `threat` is the norm that it is in, or UNION; None: the trial's own norm.
    """

    of: Callable[[Score], float]
    description: str
    variance: Callable[[Score], float]
    direction: Direction = "maximize"
    robust: bool = False
    threat: str | None = None


def share_variance(share: float, n: int) -> float:
    """The variance of a share of n images, above 0 also for shares of 0 and 1 (Laplace's estimate of the share)."""
    smoothed = (share * n + 1) / (n + 2)
    return smoothed * (1 - smoothed) / n


def _robust_under(threat: str | None, description: str) -> Measure:
    return Measure(
        lambda one: one.under(threat).acc,
        description,
        lambda one: share_variance(one.under(threat).acc, one.under(threat).n),
        robust=True,
        threat=threat,
    )


ROBUST = _robust_under(None, "verified robust accuracy")
MEASURES = {
    "clean": Measure(lambda one: one.clean_acc, "clean accuracy", lambda one: share_variance(one.clean_acc, one.n)),
    "robust": ROBUST,
    "pgd": Measure(
        lambda one: one.pgd_acc, "accuracy under PGD, not verified", lambda one: share_variance(one.pgd_acc, one.n)
    ),
    "robust-per-hour": Measure(
        lambda one: ROBUST.of(one) / max(one.hours, 1e-9),
        "verified robust accuracy per hour of training",
        lambda one: ROBUST.variance(one) / max(one.hours, 1e-9) ** 2,
    ),
    "hours": Measure(lambda one: one.hours, "hours of training", lambda _: 0.0, "minimize"),
    **{f"robust-{norm}": _robust_under(norm, f"{ROBUST.description} in {TITLES[norm]}") for norm in NORMS},
    f"robust-{UNION}": _robust_under(UNION, f"{ROBUST.description} in both norms at once"),
}


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One or several measures to optimise, and the minimum clean accuracy of a feasible trial, if any."""

    name: str
    measures: tuple[Measure, ...]
    floor: float | None = None

    @property
    def aims(self) -> Aims:
        """The accuracies that span the front: clean, and each robust one among the measures, or the trial's own."""
        robust = tuple(measure.of for measure in self.measures if measure.robust)
        return (CLEAN_AND_ROBUST[0], *(robust or (ROBUST.of,)))

    @property
    def shown(self) -> str | None:
        """The threat of the one robust accuracy that reports and plots show: the UNION of several aimed at."""
        threats = [measure.threat for measure in self.measures if measure.robust]
        return UNION if len(threats) > 1 else threats[0] if threats else None

    @property
    def directions(self) -> list[Direction]:
        """For each measure, "maximize" or "minimize"."""
        return [measure.direction for measure in self.measures]

    def values(self, score: Score) -> list[float]:
        """The value of each measure for a finished trial."""
        return [measure.of(score) for measure in self.measures]

    def variances(self, score: Score) -> list[float]:
        """The variance of each value over samples of validation images."""
        return [measure.variance(score) for measure in self.measures]

    def constraints(self, score: Score) -> dict[str, float]:
        """Constraint values by name; a value above zero makes the trial infeasible.

        A trial is infeasible if its gradients are masked, if it predicts the same class for every image, or if its
        clean accuracy is below the floor. Masking is allowed when the objective includes unverified PGD accuracy.
        """
        broken = {} if MEASURES["pgd"] in self.measures else {"masked": 1.0 if score.masked else -1.0}
        broken["one class"] = 1.0 if score.constant else -1.0
        if self.floor is not None:
            broken["clean floor"] = self.floor - score.clean_acc
        return broken


def get_objective(name: str) -> Objective:
    """Parse an objective: measures joined by +, or robust-at-clean>=X.

    Raises:
        InputError: a measure is unknown or appears twice.
    """
    if match := FLOOR.fullmatch(name):
        return Objective(name=name, measures=(ROBUST,), floor=_share("--objective", match["floor"]))
    parts = name.split("+")
    for part in parts:
        if part not in MEASURES:
            known = f"{', '.join(MEASURES)}, joined by +, or robust-at-clean>=X"
            raise InputError(f"--objective {name!r}: unknown measure {part!r}; known: {known}")
        if parts.count(part) > 1:
            raise InputError(f"--objective {name!r} names {part!r} twice: name each measure once")
    return Objective(name=name, measures=tuple(MEASURES[part] for part in parts))


class Candidate(Protocol):
    """What a rule chooses from."""

    @property
    def clean_acc(self) -> float:
        """In [0, 1]."""

    @property
    def robust_acc(self) -> float:
        """In [0, 1]."""

    @property
    def robust_per_hour(self) -> float:
        """Robust accuracy per hour of training."""

    @property
    def counts(self) -> bool:
        """Whether its robust accuracy can be compared with that of other models."""


C = TypeVar("C", bound=Candidate)


def check_rule(name: str) -> None:
    """Raises InputError if the rule is unknown or its share is not in [0, 1]."""
    if name not in {"knee", "robust-per-hour"} and not FLOOR.fullmatch(name):
        raise InputError(f"--rule {name!r} is unknown; known: robust-at-clean>=X, knee, robust-per-hour")
    if match := FLOOR.fullmatch(name):
        _share("--rule", match["floor"])


def choose(candidates: Sequence[C], rule: str) -> C | None:
    """The candidate that the rule picks from those that count; None if none satisfies the rule.

    robust-at-clean>=X: the most robust candidate with clean accuracy of at least X.
    knee: the candidate farthest above the line from the front's most robust end to its most accurate end.
    robust-per-hour: the highest robust accuracy per hour of training.
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
    most_robust = max((one for one in candidates if one.robust_acc == best_robust), key=lambda one: one.clean_acc)
    wide, high = best_clean - most_robust.clean_acc, best_robust - cleanest.robust_acc
    if not (wide and high):
        return most_robust

    def above(one: C) -> float:
        """Distance from the line between the ends, with both axes scaled to 1; the ends lie on the line."""
        return (one.clean_acc - most_robust.clean_acc) / wide + (one.robust_acc - cleanest.robust_acc) / high

    return max(candidates, key=lambda one: (above(one), one.robust_acc))


def _share(where: str, text: str) -> float:
    if (value := share_of(text)) is None:
        raise InputError(f"{where}: clean>={text} is not a share between 0 and 1: write 0.9 or 90%")
    return value
