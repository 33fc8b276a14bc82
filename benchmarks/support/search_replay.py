"""Part `replay` of the search benchmark: successive halving and the bound before verification on recorded trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from support.common import table, yes_or_no
from support.search_truths import Recorded
from sweeps.engine.ray_backend.rungs import FrontRung
from sweeps.engine.search.options import default_halving
from sweeps.engine.search.results import hypervolume
from sweeps.engine.search.spec import DEFAULT_OBJECTIVE, Halving

LOST, LUCKLESS, COMPUTE = 0.3, 0.15, 0.40  # targets: median loss in points, share that lose over a point, compute


@dataclass(frozen=True)
class Replayed:
    """A search: hypervolume lost in points, its share of the compute of full trials, whole trials, unverified ones."""

    lost: float
    compute: float
    whole: int
    unverified: int


def replay(trials: Sequence[Recorded], *, num_trials: int, searches: int) -> dict[str, Any]:
    """Search recorded trials `searches` times, `num_trials` each, drawn without replacement."""
    halving = default_halving(DEFAULT_OBJECTIVE, len(trials[0].curve))
    ways = {"halving": (halving, False), "bound": (None, True), "both": (halving, True)}
    runs: dict[str, list[Replayed]] = {name: [] for name in ways}
    rng = np.random.default_rng(0)
    for _ in range(searches):
        drawn = [trials[at] for at in rng.permutation(len(trials))[:num_trials]]
        for name, way in ways.items():
            runs[name].append(_search(drawn, *way))
    found: dict[str, Any] = {"searches": searches, "trials": len(trials)}
    for name, mine in runs.items():
        lost = np.array([one.lost for one in mine])
        found[name] = {"most lost": float(lost.max()), "luckless": float((lost > 1).mean())}
        for field in ("lost", "compute", "whole", "unverified"):
            found[name][field] = float(np.median([getattr(one, field) for one in mine]))
    table(
        f"replay: {searches} searches of {num_trials} of {len(trials)} trials; one rung after epoch {halving.grace}",
        ("", "points lost, median", "most", "lose over a point", "compute", "whole", "of them not verified"),
        [
            [name, f"{one['lost']:.2f}", f"{one['most lost']:.2f}", f"{one['luckless']:.0%}", f"{one['compute']:.0%}",
             f"{one['whole']:.0f}", f"{one['unverified']:.0f}"]
            for name, one in found.items() if name in ways
        ],
    )  # fmt: skip
    both = found["both"]
    for words, met in (
        (f"lost at most {LOST} points", both["lost"] <= LOST),
        (f"under {LUCKLESS:.0%} of searches lose over a point", both["luckless"] < LUCKLESS),
        (f"at most {COMPUTE:.0%} of the compute", both["compute"] <= COMPUTE),
        ("the bound loses nothing", found["bound"]["most lost"] == 0),
    ):
        print(f"{words}: {yes_or_no(met)}")
    return found


def _search(drawn: Sequence[Recorded], halving: Halving | None, bounded: bool) -> Replayed:
    rung = FrontRung(halving.grace, halving.factor) if halving else None
    finished: list[Recorded] = []
    spent, unverified = 0.0, 0
    for one in drawn:
        if rung and rung.stops(rung.epoch, one.curve[rung.epoch - 1]):
            spent += sum(one.seconds[: rung.epoch])
        elif bounded and any(_beats(other, one) for other in finished):
            spent, unverified = spent + sum(one.seconds) - one.verifying, unverified + 1
        else:
            spent += sum(one.seconds)
            finished.append(one)
    lost = 100 * (_volume(drawn) - _volume(finished))
    return Replayed(lost, spent / sum(sum(one.seconds) for one in drawn), len(finished) + unverified, unverified)


def _beats(other: Recorded, one: Recorded) -> bool:
    """Whether a verified trial beats one of which only clean and PGD accuracy are known."""
    known, bound = (other.clean, other.robust), (one.clean, one.pgd)
    return not other.masked and known != bound and all(a >= b for a, b in zip(known, bound, strict=True))


def _volume(trials: Sequence[Recorded]) -> float:
    return hypervolume((one.clean, one.robust) for one in trials if not one.masked)
