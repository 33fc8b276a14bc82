"""What a search's report and page say of the front by the model of all trials."""

from sweeps.engine.cli.markdown import pipe_table
from sweeps.engine.cli.text import percent
from sweeps.engine.search.expected import Expected, ExpectedFront
from sweeps.engine.search.results import volume
from sweeps.engine.search.snapshot import Snapshot

COLUMNS = ("trial", "clean seen", "clean expected", "robust seen", "robust expected", "front")


def expected_md(snapshot: Snapshot) -> list[str]:
    """Seen and expected accuracies of the front; empty if too few trials have finished."""
    if len(snapshot.objective.aims) > 2:
        return ["What other seeds are expected to show is modelled for two accuracies only, so it is left out here."]
    found = snapshot.expected
    if found is None:
        return []
    return [
        "The same trials by a Gaussian process over all trials. It knows the noise of a sample of images and estimates"
        " that of training seeds; its means are what other seeds and images are expected to show, with 95 % intervals."
        " Trials of front `expected` are on the front of these means, and were unlucky.",
        pipe_table(COLUMNS, expected_rows(found)),
        volumes_in_words(snapshot),
    ]


def expected_rows(found: ExpectedFront) -> list[list[str]]:
    """The rows of a table with COLUMNS: the seen front, and the trials that the model would put on it."""
    return [[*_row(one), "seen"] for one in found.seen[::-1]] + [[*_row(one), "expected"] for one in found.better]


def volumes_in_words(snapshot: Snapshot) -> str:
    """The hypervolume of the front as it was seen, and by the model; empty without a model."""
    if (found := snapshot.expected) is None:
        return ""
    low, high = found.volume_interval
    return (
        f"Hypervolume of the seen front, times 10,000: {1e4 * volume(snapshot.finished):.0f} seen,"
        f" {1e4 * found.volume:.0f} expected ({1e4 * low:.0f} to {1e4 * high:.0f})."
    )


def origins_in_words(snapshot: Snapshot) -> str:
    """What the finalists' trials had shown, and what the model expects of them; empty without a model."""
    rows = {row.trial.id: row for row in snapshot.expected.rows} if snapshot.expected else {}
    known = [rows[one.origin.id] for one in snapshot.finalists if one.origin.id in rows]
    final = snapshot.search.final
    if not known or final is None:
        return ""
    shown = "; ".join(
        f"{row.trial.id} {percent(row.trial.clean_acc)} / {percent(row.trial.robust_acc)} seen,"
        f" {percent(row.clean_acc)} / {percent(row.robust_acc)} expected"
        for row in known
    )
    by = "expected" if final.by == "expected" else "seen"
    return f"They are from the front of {by} accuracies (clean / robust in the search): {shown}."


def _row(one: Expected) -> list[str]:
    clean, robust = (f"{percent(mean)} ({percent(low)} to {percent(high)})" for mean, (low, high) in (
        (one.clean_acc, one.clean_interval), (one.robust_acc, one.robust_interval)))  # fmt: skip
    return [one.trial.id, percent(one.trial.clean_acc), clean, percent(one.trial.robust_acc), robust]
