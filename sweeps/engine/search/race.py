"""How clearly a rule chooses among finalists, and which of them get another seed before it does."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeps.engine.search.gaussian import Array
from sweeps.engine.search.objectives import choose
from sweeps.engine.search.snapshot import Finalist, trusted_finalists

CLEAR, OUT = 0.95, 0.05  # the choice is clear at this share of the draws; below the other a finalist has lost
DRAWS = 2000


@dataclass(frozen=True)
class Drawn:
    """What a rule chooses from: a finalist's means, drawn anew."""

    at: int
    clean_acc: float
    robust_acc: float
    robust_per_hour: float
    counts: bool = True


def choice_shares(finalists: Sequence[Finalist], rule: str, floor: float) -> dict[str, float]:
    """In what share of draws the rule would choose each finalist, by its origin's id.

    The means over seeds are drawn from a t distribution by the spread between seeds, which all finalists share. All
    models are measured on the same images, so the noise of images is not drawn. Without a second seed nothing is known
    of the spread, and all shares are 0. Finalists that do not count, or are below the clean accuracy `floor` in a draw,
    are not chosen there.
    """
    known = trusted_finalists(finalists)
    shares = {finalist.origin.id: 0.0 for finalist in finalists}
    values = [np.array([[one.clean_acc, one.robust_acc, one.robust_per_hour] for one in f.members]) for f in known]
    freedom = sum(len(members) - 1 for members in values)
    if not freedom:
        return shares
    for means in _drawn_means(values, freedom):
        drawn = [
            Drawn(at, clean, robust, per_hour)
            for at, (clean, robust, per_hour) in enumerate(means.tolist())
            if clean >= floor
        ]
        if (chosen := choose(drawn, rule)) is not None:
            shares[known[chosen.at].origin.id] += 1 / DRAWS
    return shares


def to_be_trained_again(finalists: Sequence[Finalist], rule: str, floor: float) -> list[str]:
    """The ids of the origins of the finalists that need another seed; none once the choice is clear."""
    shares = choice_shares(finalists, rule, floor)
    if max(shares.values(), default=1.0) >= CLEAR:
        return []
    if not any(shares.values()):
        return [one.origin.id for one in trusted_finalists(finalists)] if len(finalists) > 1 else []
    return [name for name, share in shares.items() if share >= OUT]


def _drawn_means(values: Sequence[Array], freedom: int) -> Array:
    """(DRAWS, finalists, 3) means, from each finalist's (seeds, 3) values."""
    rng = np.random.default_rng(0)
    centred = np.concatenate([members - members.mean(axis=0) for members in values])
    strengths, directions = np.linalg.eigh(centred.T @ centred / freedom)
    spread = directions * np.sqrt(np.maximum(strengths, 0.0))
    heavy = np.sqrt(freedom / rng.chisquare(freedom, (DRAWS, 1, 1)))
    steps = heavy * (rng.standard_normal((DRAWS, len(values), 3)) @ spread.T)
    return np.array([members.mean(axis=0) for members in values]) + steps / np.sqrt(
        [[len(members)] for members in values]
    )
