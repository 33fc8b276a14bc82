"""The part of a search's report on trials that were not verified, because they cannot enter the front."""

from sweeps.engine.cli.markdown import pipe_table
from sweeps.engine.cli.text import count_of, percent
from sweeps.engine.search.snapshot import Snapshot

RULE = (
    "A trial is not verified if a finished trial beats its clean accuracy and its accuracy under PGD: attacks can only"
    " lower the latter, so it cannot enter the front."
)


def bounded_md(snapshot: Snapshot) -> list[str]:
    """The trials with their clean accuracy and the bound of their verified one; empty without such trials."""
    known = [(trial.id, status.bound) for trial, status in snapshot.bounded if status.bound is not None]
    if not known:
        return []
    rows = [
        [name, percent(bound["clean_acc"]), percent(bound["robust_bound"]), bound["reason"].rpartition(", and ")[2]]
        for name, bound in sorted(known, key=lambda row: -row[1]["robust_bound"])
    ]
    said = f"{count_of(len(rows), 'trial')} {'was' if len(rows) == 1 else 'were'} trained and not verified. {RULE}"
    return [said[:1].upper() + said[1:], pipe_table(("trial", "clean", "robust, at most (PGD)", "beaten by"), rows)]
