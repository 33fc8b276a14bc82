"""The part of a search's report on trials that are verified in two norms."""

from bat_core.norms import THREAT_TITLES, UNION
from sweeps.engine.cli.markdown import pipe_table
from sweeps.engine.cli.text import percent, with_interval
from sweeps.engine.search.results import Score
from sweeps.engine.search.snapshot import Snapshot
from sweeps.engine.search.threats import budget_in_words

SAID = (
    "Each norm, and both at once: an image counts there if it is correct and stays so under every attack in either"
    " norm. So that accuracy is at most the lower of the two. The checks for masked gradients run in both, and the"
    " worse result counts. PGD and training are in the first norm."
)


def threats_of(snapshot: Snapshot) -> list[str]:
    """The norms that trials are verified in, and the UNION; empty if it is one norm only."""
    attack = snapshot.search.base.attack
    return [attack.norm, attack.second.norm, UNION] if attack.second else []


def threat_columns(snapshot: Snapshot) -> list[str]:
    """The headings of the accuracies that `threat_accuracies` gives."""
    return [f"robust in {THREAT_TITLES[name]} (95 %)" for name in threats_of(snapshot)]


def threat_accuracies(snapshot: Snapshot, one: Score) -> list[str]:
    """A trial's robust accuracy in each norm and under both, with intervals."""
    return [with_interval(one.under(name).acc, one.under(name).interval) for name in threats_of(snapshot)]


def threats_md(snapshot: Snapshot) -> list[str]:
    """The front in each norm and under both; empty if trials are verified in one norm only."""
    if not threats_of(snapshot):
        return []
    rows = [[one.id, percent(one.clean_acc), *threat_accuracies(snapshot, one)] for one in snapshot.front[::-1]]
    return [SAID, pipe_table(("trial", "clean", *threat_columns(snapshot)), rows)]


def second_attack(snapshot: Snapshot) -> str:
    """How trials are attacked in the second norm, as a sentence after that on the first; empty without one."""
    second = snapshot.search.base.attack.second
    if second is None:
        return ""
    return f" APGD at {budget_in_words(second.norm, second.eps)} attacks the same images, each from the clean image."
