"""The threats of a search: the norms and budgets that its trials are verified at, and whether its objective fits."""

from collections.abc import Sequence

from bat_core.config import SecondThreat
from bat_core.errors import InputError
from bat_core.norms import LINF, THREAT_TITLES, TITLES, UNION, Norm
from sweeps.engine.cli.threat import Threat
from sweeps.engine.search.objectives import MEASURES, Objective, get_objective
from sweeps.engine.search.spec import Search

EXAMPLE = "--threat linf:8/255 l2:0.5"


def parsed(texts: Sequence[str]) -> tuple[Threat, ...]:
    """The threats that were typed, the first being that of training and of PGD.

    Raises:
        InputError: one is no threat, or a norm is named twice.
    """
    threats = tuple(Threat.parse(text) for text in texts)
    norms = [threat.norm for threat in threats]
    if twice := next((norm for norm in norms if norms.count(norm) > 1), None):
        raise InputError(f"--threat names {twice} twice: a search verifies each norm at one budget")
    return threats


def second(threats: Sequence[Threat]) -> SecondThreat | None:
    """The threat beside that of the trials' own attacks, if any."""
    return SecondThreat(norm=threats[1].norm, eps=threats[1].eps) if len(threats) > 1 else None


def check_aims(objective: str, norms: Sequence[Norm]) -> None:
    """Check that trials that are verified in `norms`, their own first, have what an objective aims at.

    Raises:
        InputError: it has a measure of a norm in which they are not verified, or one measure under two names.
    """
    known = {MEASURES[part].threat: part for part in objective.split("+") if part in MEASURES and MEASURES[part].robust}
    for threat, name in known.items():
        if threat == UNION and len(norms) < 2:
            raise InputError(
                f"--objective {objective!r} aims at {name}, and trials are verified in {norms[0]} alone: name two norms"
                f" with {EXAMPLE}"
            )
        if threat not in (None, UNION, *norms):
            raise InputError(
                f"--objective {objective!r} aims at {name}, and trials are verified in {norms[0]} alone: name {threat}"
                f" too, with {EXAMPLE}"
            )
    if None in known and norms[0] in known:
        raise InputError(
            f"--objective {objective!r}: robust is {known[norms[0]]} here, the norm of the trials' own attacks: leave"
            " one of them out"
        )


def aims_beyond_own_norm(search: Search) -> bool:
    """Whether an objective aims at a robust accuracy other than that in the norm of the trials' own attacks."""
    return get_objective(search.objective).shown not in (None, search.base.attack.norm)


def compared_by(search: Search) -> tuple[str, ...]:
    """The threats of trials that are verified in two norms, and the UNION, with the one that reports show first.

    Empty if they are verified in one norm only.
    """
    attack = search.base.attack
    if attack.second is None:
        return ()
    first = get_objective(search.objective).shown or attack.norm
    return first, *(one for one in (UNION, attack.norm, attack.second.norm) if one != first)


def all_verified(search: Search) -> str:
    """That no trial of a search is left unverified because of its bound; empty for objectives that have one."""
    if not aims_beyond_own_norm(search):
        return ""
    return (
        "Every whole trial is verified: accuracy under PGD is in one norm, and bounds no accuracy in another, so no"
        " trial is left out by it."
    )


def aims_in_words(objective: Objective) -> str:
    """The accuracies that span the front, for a sentence: both accuracies, or a list of three or more."""
    if len(objective.aims) == 2:
        return "both accuracies"
    robust = [measure for measure in objective.measures if measure.robust]
    words = ["clean accuracy", *(measure.description for measure in robust)]
    return f"all of {', '.join(words[:-1])} and {words[-1]}"


def shown_in_words(objective: Objective) -> str:
    """What follows "robust accuracy" where reports show one of several: " in L2"; empty for the trials' own norm."""
    return f" in {THREAT_TITLES[objective.shown]}" if objective.shown else ""


def plotted_note(objective: Objective) -> str:
    """That a plot shows two of the accuracies that a search aims at; empty if these are all."""
    if len(objective.aims) == 2:
        return ""
    return (
        f"The search aims at {len(objective.aims)} accuracies; this plot shows clean accuracy and the robust one under"
        " both norms at once, and its line is the front of these two."
    )


def budget_in_words(norm: Norm, eps: float) -> str:
    """A budget with its norm: "L-inf 8/255" or "L2 0.5"."""
    return f"{TITLES[norm]} {255 * eps:.4g}/255" if norm == LINF else f"{TITLES[norm]} {eps:.4g}"
