"""Part `replay` of the search benchmark: successive halving on recorded curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from support.common import table, yes_or_no
from support.search_truths import Recorded
from sweeps.engine.ray_backend.rungs import FrontRung
from sweeps.engine.search.options import default_halving
from sweeps.engine.search.results import hypervolume
from sweeps.engine.search.spec import DEFAULT_OBJECTIVE

LOST, LUCKLESS, COMPUTE = 0.3, 0.15, 0.40  # targets: median loss in points, share that lose over a point, compute


def replay(trials: Sequence[Recorded], *, num_trials: int, searches: int) -> dict[str, Any]:
    """Halve `searches` searches of `num_trials` recorded trials each, drawn without replacement."""
    rng = np.random.default_rng(0)
    halving = default_halving(DEFAULT_OBJECTIVE, len(trials[0].curve))
    lost, shares, whole = [], [], []
    for _ in range(searches):
        drawn = [trials[at] for at in rng.permutation(len(trials))[:num_trials]]
        rung = FrontRung(halving.grace, halving.factor)
        stopped = [rung.stops(halving.grace, one.curve[halving.grace - 1]) for one in drawn]
        finished = [one for one, ended in zip(drawn, stopped, strict=True) if not ended]
        lost.append(100 * (_volume(drawn) - _volume(finished)))
        spent = sum(sum(one.seconds[: halving.grace if ended else None])
                    for one, ended in zip(drawn, stopped, strict=True))  # fmt: skip
        shares.append(spent / sum(sum(one.seconds) for one in drawn))
        whole.append(len(finished))
    luckless = float(np.mean(np.array(lost) > 1))
    found = {"lost": float(np.median(lost)), "luckless": luckless, "compute": float(np.median(shares)),
             "whole": float(np.median(whole)), "searches": searches, "trials": len(trials)}  # fmt: skip
    table(
        f"replay: one rung after epoch {halving.grace}, {searches} searches of {num_trials} of {len(trials)} trials",
        ("", "measured", "target met"),
        [
            ["hypervolume lost, points, median", f"{found['lost']:.2f}", yes_or_no(found["lost"] <= LOST)],
            ["searches that lose over a point", f"{luckless:.0%}", yes_or_no(luckless < LUCKLESS)],
            ["compute, median", f"{found['compute']:.0%}", yes_or_no(found["compute"] <= COMPUTE)],
            ["whole trials, median", f"{found['whole']:.0f}", ""],
        ],
    )
    return found


def _volume(trials: Sequence[Recorded]) -> float:
    return hypervolume((one.clean, one.robust) for one in trials if not one.masked)
