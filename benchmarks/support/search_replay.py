"""Part `replay` of the search benchmark: successive halving and the bound before verification on recorded trials."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from support.common import table, yes_or_no
from support.search_truths import Array, Recorded
from sweeps.engine.ray_backend.rungs import ALWAYS, FrontRung
from sweeps.engine.search.improvement import expected_hypervolume_gain
from sweeps.engine.search.options import default_halving
from sweeps.engine.search.results import hypervolume
from sweeps.engine.search.spec import DEFAULT_OBJECTIVE, Halving

LOST, LUCKLESS, COMPUTE = 0.3, 0.15, 0.40  # targets: median loss in points, share that lose over a point, compute


FEWEST = 6  # whole trials from which the end of a stopped one is forecast
FORECAST_GAIN = 0.012  # of hypervolume: what a stopped trial must promise to continue


@dataclass(frozen=True)
class Replayed:
    """A search: hypervolume lost in points, its share of the compute of full trials, whole trials, unverified ones."""

    lost: float
    compute: float
    whole: int
    unverified: int


@dataclass(frozen=True)
class Way:
    """How a search spares compute: by halving, whose stopped trials may continue by their rank at the rung or by a
    forecast of their end, and by the bound before verification."""

    halving: Halving | None
    bounded: bool = False
    continues: Literal["rank", "forecast"] | None = None


def replay(trials: Sequence[Recorded], *, num_trials: int, searches: int) -> dict[str, Any]:
    """Search recorded trials `searches` times, `num_trials` each, drawn without replacement.

    Halving stops trials for good, the best ALWAYS excepted, or as searches have it, where they may continue.
    """
    halving = default_halving(DEFAULT_OBJECTIVE, len(trials[0].curve))
    ways = {
        "for good": Way(replace(halving, always=ALWAYS)),
        "not continued": Way(halving),
        "continued": Way(halving, continues="rank"),
        "forecast": Way(halving, continues="forecast"),
        "bound": Way(None, bounded=True),
        "both": Way(halving, bounded=True, continues="rank" if halving.continues else None),
    }
    runs: dict[str, list[Replayed]] = {name: [] for name in ways}
    rng = np.random.default_rng(0)
    for _ in range(searches):
        drawn = [trials[at] for at in rng.permutation(len(trials))[:num_trials]]
        for name, way in ways.items():
            runs[name].append(_Replay(drawn, way).run())
    found: dict[str, Any] = {"searches": searches, "trials": len(trials)}
    for name, mine in runs.items():
        lost = np.array([one.lost for one in mine])
        found[name] = {
            "most lost": float(lost.max()),
            "mean lost": float(lost.mean()),
            "luckless": float((lost > 1).mean()),
        }
        for field in ("lost", "compute", "whole", "unverified"):
            found[name][field] = float(np.median([getattr(one, field) for one in mine]))
    table(
        f"replay: {searches} searches of {num_trials} of {len(trials)} trials; one rung after epoch {halving.grace}",
        ("", "points lost, median", "mean", "most", "lose over a point", "compute", "whole", "of them not verified"),
        [
            [name, *(f"{one[field]:.2f}" for field in ("lost", "mean lost", "most lost")),
             *(f"{one[field]:.0%}" for field in ("luckless", "compute")),
             *(f"{one[field]:.0f}" for field in ("whole", "unverified"))]
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


class _Replay:
    """A search in which one trial runs at a time."""

    def __init__(self, drawn: Sequence[Recorded], way: Way) -> None:
        self._way, self._drawn = way, {str(at): one for at, one in enumerate(drawn)}
        self._rung = FrontRung(way.halving.grace, way.halving.factor, way.halving.always) if way.halving else None
        self._finished: list[Recorded] = []
        self._whole: list[Recorded] = []
        self._spent, self._unverified = 0.0, 0

    def run(self) -> Replayed:
        for name, one in self._drawn.items():
            self._continue_stopped()
            rung = self._rung
            if rung and rung.stops(name, rung.epoch, one.curve[rung.epoch - 1]):
                self._spent += sum(one.seconds[: rung.epoch])
            else:
                self._end(one, 0)
        self._continue_stopped()
        drawn = self._drawn.values()
        lost = 100 * (_volume(drawn) - _volume(self._finished))
        compute = self._spent / sum(sum(one.seconds) for one in drawn)
        return Replayed(lost, compute, len(self._whole), self._unverified)

    def _end(self, one: Recorded, after: int) -> None:
        """Train a trial from the end of an epoch on, and verify it unless it cannot enter the front."""
        self._whole.append(one)
        self._spent += sum(one.seconds[after:])
        if self._way.bounded and any(_beats(other, one) for other in self._finished):
            self._spent, self._unverified = self._spent - one.verifying, self._unverified + 1
        else:
            self._finished.append(one)

    def _continue_stopped(self) -> None:
        rung = self._rung
        while rung and (name := self._next(rung)) is not None:
            rung.stopped.discard(name)
            self._end(self._drawn[name], rung.epoch)

    def _next(self, rung: FrontRung) -> str | None:
        """The stopped trial that continues now."""
        if self._way.continues == "rank":
            return rung.next_stopped(any_rank=False)
        if self._way.continues != "forecast" or not rung.stopped or len(self._whole) < FEWEST:
            return None
        names = sorted(rung.stopped, key=int)
        gains = self._forecast_gains([self._drawn[name].curve[rung.epoch - 1] for name in names], rung.epoch)
        gain, name = max(zip(gains.tolist(), names, strict=True))
        return name if gain > FORECAST_GAIN else None

    def _forecast_gains(self, early: Sequence[tuple[float, float]], epoch: int) -> Array:
        """How much stopped trials are expected to add to the front, in [0, 1], by lines that whole trials fit."""
        known = np.array([[1.0, *one.curve[epoch - 1]] for one in self._whole])
        late = np.array([[one.clean, one.robust] for one in self._whole])
        slopes = np.linalg.solve(known.T @ known + 1e-3 * np.diag([0.0, 1.0, 1.0]), known.T @ late)
        deviation = np.sqrt(((late - known @ slopes) ** 2).sum(axis=0) / max(len(known) - 3, 1)) + 1e-6
        mean = np.column_stack([np.ones(len(early)), np.array(early)]) @ slopes
        front = np.array([(one.clean, one.robust) for one in self._finished if not one.masked]).reshape(-1, 2)
        spread = np.broadcast_to(deviation, mean.shape)
        return expected_hypervolume_gain((mean[:, 0], mean[:, 1]), (spread[:, 0], spread[:, 1]), front, (0.0, 0.0))


def _beats(other: Recorded, one: Recorded) -> bool:
    """Whether a verified trial beats one of which only clean and PGD accuracy are known."""
    known, bound = (other.clean, other.robust), (one.clean, one.pgd)
    return not other.masked and known != bound and all(a >= b for a, b in zip(known, bound, strict=True))


def _volume(trials: Iterable[Recorded]) -> float:
    return hypervolume((one.clean, one.robust) for one in trials if not one.masked)
