"""The sentence of a search's report about successive halving."""

from sweeps.engine.ray_backend.rungs import expected_whole
from sweeps.engine.search.snapshot import Snapshot

CONTINUES = (
    " A stopped trial continues once it is among the best of all that came, and if hours are left after the last trial."
)


def stopping_md(snapshot: Snapshot) -> str:
    """Which trials are stopped early, and whether they may continue."""
    halving = snapshot.search.halving
    if halving is None:
        return "No trial is stopped early."
    if halving.by == "front":
        expected = expected_whole(snapshot.search.num_trials, halving.factor, halving.always)
        return (
            f"Successive halving stops a trial after epoch {halving.grace}, unless it is among the best 1 in"
            f" {halving.factor} (at least {halving.always}) of the trials so far, ranked by the fronts of clean and PGD"
            f" accuracy on validation images; about {expected} of {snapshot.search.num_trials} trials are expected to"
            f" be whole.{CONTINUES if halving.continues else ''}"
        )
    return (
        f"Successive halving stops a trial early: from epoch {halving.grace} on, the best 1 in {halving.factor}"
        " continue, ranked by PGD accuracy on validation images."
    )
