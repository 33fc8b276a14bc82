"""What an evaluation's numbers are, in a sentence each: which is exact, which a bound, and how far off it may be."""

from collections.abc import Mapping, Sequence
from typing import Any

from bat_core.suites import Suite
from sweeps.engine.cli.text import counted, percent
from sweeps.engine.evaluation.attack import Evaluation
from sweeps.engine.evaluation.best import winner_of

# Against `standard`: the greatest difference that was measured on a model (docs/evaluation.md).
STANDARD = "the field's convention; no attack in use leaves fewer, but one may exist"
QUICK = "on the models compared so far without masked gradients, standard left at most 0.5 points less"
FAST = "on the models compared so far without masked gradients, standard left no less"
OTHERS = "stronger attacks may leave far less: 30 points less on the paper's own model"


def exactness(suite: Suite) -> str:
    """What the worst case over a suite is."""
    names = suite.name.split("+")
    known = (("standard", STANDARD), ("fast", FAST), ("quick", QUICK))
    said = next((text for name, text in known if name in names), OTHERS)
    return f"These numbers are exact for these attacks on these images, and upper bounds of true robustness: {said}."


def best_in_words(evaluation: Evaluation, summaries: Sequence[Mapping[str, Any]]) -> str:
    """Which candidate won, and what was saved."""
    winner, left = winner_of(evaluation, summaries)
    members = [one for one in summaries if one["model"] in winner]
    mean = sum(one["robust_acc"] for one in members) / len(members)
    named = " and ".join(winner)
    word = "is" if len(winner) == 1 else "together are"
    rest = "all models met every attack"
    if left:
        rest = f"{counted(left, 'model')} could not win any more, met fewer attacks, and got upper bounds (<=)"
    return f"{named} {word} the most robust: {percent(mean)} under {evaluation.attacks().label}; {rest}."
