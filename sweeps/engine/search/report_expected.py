"""The part of a search's report that shows the front by the model of all trials."""

from sweeps.engine.cli.markdown import pipe_table
from sweeps.engine.cli.text import percent
from sweeps.engine.search.expected import Expected, expected_front
from sweeps.engine.search.results import volume
from sweeps.engine.search.snapshot import Snapshot


def expected_md(snapshot: Snapshot) -> list[str]:
    """Seen and expected accuracies of the front; empty if too few trials have finished."""
    if len(snapshot.objective.aims) > 2:
        return ["What other seeds are expected to show is modelled for two accuracies only, so it is left out here."]
    found = expected_front(snapshot.search.space, snapshot.finished)
    if found is None:
        return []
    rows = [[*_row(one), "seen"] for one in found.seen[::-1]] + [[*_row(one), "expected"] for one in found.better]
    low, high = found.volume_interval
    return [
        "The same trials by a Gaussian process over all trials. It knows the noise of a sample of images and estimates"
        " that of training seeds; its means are what other seeds and images are expected to show, with 95 % intervals."
        " Trials of front `expected` are on the front of these means, and were unlucky.",
        pipe_table(("trial", "clean seen", "clean expected", "robust seen", "robust expected", "front"), rows),
        f"Hypervolume of the seen front, times 10,000: {1e4 * volume(snapshot.finished):.0f} seen,"
        f" {1e4 * found.volume:.0f} expected ({1e4 * low:.0f} to {1e4 * high:.0f}).",
    ]


def _row(one: Expected) -> list[str]:
    clean, robust = (f"{percent(mean)} ({percent(low)} to {percent(high)})" for mean, (low, high) in (
        (one.clean_acc, one.clean_interval), (one.robust_acc, one.robust_interval)))  # fmt: skip
    return [one.trial.id, percent(one.trial.clean_acc), clean, percent(one.trial.robust_acc), robust]
