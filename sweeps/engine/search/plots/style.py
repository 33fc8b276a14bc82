"""Marks and lines that the static and the interactive plots of a search share."""

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, TypeAlias

from matplotlib.figure import Figure

from sweeps.engine.search.results import Score
from sweeps.engine.search.snapshot import Finalist, Snapshot
from sweeps.engine.search.text import champion_of, paper_point_name, paper_trial, setting
from sweeps.engine.search.threats import shown_in_words

Line: TypeAlias = tuple[list[float], list[float]]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """The style of one kind of point: shape and colour. `marker` is for matplotlib, `symbol` for plotly."""

    description: str
    color: str
    marker: str
    symbol: str
    size: float = 5.5
    edge: str | None = None
    face: str | None = None
    width: float = 1.0

    @property
    def style(self) -> dict[str, Any]:
        """Keyword arguments for matplotlib's `plot`."""
        face, edge = self.face or self.color, self.edge or self.color
        return {"ls": "none", "marker": self.marker, "ms": self.size, "mfc": face, "mec": edge, "mew": self.width}

    @property
    def spots(self) -> dict[str, Any]:
        """The `marker` argument for plotly. Open symbols have no face."""
        edge = {"line": {"color": self.edge or self.color, "width": self.width}}
        return {"symbol": self.symbol, "size": 1.6 * self.size, "color": self.color, **edge}


RED, AMBER, BLUE, GOLD = "#d01c1f", "#c77700", "#1b6ca8", "#f2c230"
FRONT = "#12344d"
LETTERS = 17  # characters per inch of a note
MARGIN, EDGE = 0.02, 0.005  # in accuracy: around all points, and beyond 0 and 1
CLEAR = Mark(description="clear: no sign of masking", color=BLUE, marker="o", symbol="circle")
SUSPECT = Mark(
    description="suspect: at least one red flag",
    color=AMBER,
    marker="^",
    symbol="triangle-up-open",
    size=6.5,
    face="white",
    width=1.4,
)
MASKED = Mark(description="masked: not reliable", color=RED, marker="x", symbol="x-thin-open", size=7, width=2.0)
VERDICTS = {"clear": CLEAR, "suspect": SUSPECT, "masked": MASKED}
PAPER = Mark(description="", color="#6a3d9a", marker="o", symbol="circle-open", size=12, face="none", width=1.5)
FINALIST = Mark(
    description="finalist, mean over seeds", color="white", marker="*", symbol="star", size=14, edge="black"
)
MASKED_FINALIST = Mark(
    description="finalist, masked: not reliable", color="#f6b8b9", marker="*", symbol="star", size=14, edge=RED
)
CHAMPION = Mark(description="champion", color=GOLD, marker="*", symbol="star", size=18, edge="black")
MEMBER = Mark(description="finalists' seeds", color="#8a6d00", marker="o", symbol="circle", size=3)
OVER = Mark(description="stopped early or failed", color="#999999", marker="|", symbol="line-ns-open", size=6)


def caption(figure: Figure, snapshot: Snapshot, title: str, *notes: str) -> None:
    """Add the title, and the notes below the figure, each on its own lines."""
    across = round(LETTERS * figure.get_size_inches()[0])
    lines = [line for note in notes for line in wrap(note, across)]
    figure.suptitle(f"{setting(snapshot)}: {title}", fontsize=12, x=0.01, ha="left")
    figure.supxlabel("\n" + "\n".join(lines), fontsize=8, color="0.3", x=0.01, ha="left")


def of_kind(snapshot: Snapshot, mark: Mark) -> list[Score]:
    """The finished trials that a mark stands for."""
    return [one for one in snapshot.finished if VERDICTS[one.masking_status] is mark]


def paper(snapshot: Snapshot) -> tuple[str, Score] | None:
    """The label and the score of the paper's point; None unless its trial finished."""
    trial = paper_trial(snapshot)
    one = next((score for score in snapshot.finished if trial is not None and score.id == trial.id), None)
    return (f"{paper_point_name(snapshot)}, {one.id}", one) if one else None


def stars(snapshot: Snapshot) -> list[tuple[Mark, str, list[Finalist]]]:
    """The finalists by mark, with their legend text. The champion is last, so it is drawn on top."""
    champion = champion_of(snapshot)
    others = [one for one in snapshot.finalists if one is not champion]
    found = []
    for mark in (FINALIST, MASKED_FINALIST):
        if chosen := [one for one in others if one.masked == (mark is MASKED_FINALIST)]:
            found.append((mark, f"{mark.description} ({len(chosen)})", chosen))
    if champion is not None:
        found.append((CHAMPION, f"champion: {champion.origin.id}, mean over seeds", [champion]))
    return found


def robust_title(snapshot: Snapshot) -> str:
    """The robust accuracy that plots show, as an axis names it."""
    return f"verified robust accuracy{shown_in_words(snapshot.objective)}"


def front_title(snapshot: Snapshot) -> str:
    """The line of the front in a legend; with more than two aims, it is that of the two that are plotted."""
    if len(snapshot.objective.aims) == 2:
        return f"front ({len(snapshot.front)})"
    return f"front of these two ({len(snapshot.plotted_front)} of {len(snapshot.front)})"


def dominated(snapshot: Snapshot, *, plain: str = "of (clean, robust) above (0, 0)") -> str:
    """What the hypervolume is of."""
    count = len(snapshot.objective.aims)
    return f"the area {plain}" if count == 2 else f"the volume above 0 of the {count} accuracies aimed at"


def stairs(front: Sequence[Score], *, left: float, low: float) -> Line:
    """The edge of the area that a front dominates: corners (clean, robust), from the most robust trial on.

    It begins at clean accuracy `left` and ends at robust accuracy `low`.
    """
    x, y = [left], [front[-1].robust_acc]
    for one, lower in zip(front[::-1], [*(below.robust_acc for below in front[-2::-1]), low], strict=True):
        x += [one.clean_acc, one.clean_acc]
        y += [one.robust_acc, lower]
    return x, y


def limits(snapshot: Snapshot) -> tuple[tuple[float, float], tuple[float, float]]:
    """Axis limits of clean and robust accuracy that include all trials, intervals and finalists."""
    members = [one for finalist in snapshot.finalists for one in finalist.members]
    clean = [one.clean_acc for one in (*snapshot.finished, *members)]
    robust = [bound for one in snapshot.finished for bound in one.interval] + [one.robust_acc for one in members]
    return _padded(clean or [0, 1]), _padded(robust or [0, 1])


def hours_of(snapshot: Snapshot, one: Score) -> float:
    """Hours of work at which a trial finished."""
    return snapshot.clock.hours_until(one.ended)


def ends(snapshot: Snapshot) -> list[float]:
    """Hours of work at which each stopped or failed trial ended."""
    over = (status for _, status in snapshot.rows if status.phase in {"stopped", "failed"})
    return [snapshot.clock.hours_until(status.ended) for status in over if status.ended is not None]


def volumes(snapshot: Snapshot) -> Line:
    """Hours of work and the hypervolume at each, from zero to now."""
    steps = snapshot.progress()
    reached = [volume for _, volume in steps]
    return [0.0, *(at for at, _ in steps), snapshot.hours], [0.0, *reached, reached[-1] if steps else 0.0]


def best_robust(snapshot: Snapshot) -> Line:
    """Hours of work and the best robust accuracy so far, over trials that count, from the first one to now."""
    x: list[float] = []
    y: list[float] = []
    for one in sorted(snapshot.finished, key=lambda one: one.ended):
        if one.counts:
            x.append(hours_of(snapshot, one))
            y.append(max(one.robust_acc, y[-1] if y else 0.0))
    return ([*x, snapshot.hours], [*y, y[-1]]) if x else ([], [])


def _padded(values: Sequence[float]) -> tuple[float, float]:
    return max(min(values) - MARGIN, -EDGE), min(max(values) + MARGIN, 1 + EDGE)
