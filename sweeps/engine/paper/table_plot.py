"""Plot of a table: one panel per column, with the paper's numbers and ours."""

import textwrap
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sweeps.engine.cli.plotting import new_figure
from sweeps.engine.paper.report import notes, settings, title
from sweeps.engine.paper.results import Line, Number, Result

OURS, PAPER, VERIFIED = "#1f6f8b", "0.55", "#c0392b"
ROW, PANEL = 0.34, 1.45  # inches


def draw_table(result: Result) -> Figure:
    """Draw rows from top to bottom: filled marks are ours with intervals, hollow ones the paper's; verified last."""
    lines = result.lines
    with_robustness = any(line.robustness for line in lines)
    names = [*result.table.columns, *(["verified"] if with_robustness else [])]
    figure = new_figure(max(2.2 + PANEL * len(names), 8), 1.9 + ROW * len(lines))
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        if name == "verified" and with_robustness:
            _panel(
                axes, lines, lambda line: line.robustness.robust if line.robustness else None, None, VERIFIED, scale=100
            )
        else:
            scale = 100 if result.table.unit == "%" else 1
            _panel(axes, lines, _ours(name), _paper_value(name), OURS, scale=scale)
        axes.set_title(name, fontsize=9)
        _style_axes(axes, logarithmic=result.table.unit != "%")
    panels[0].set_yticks(range(len(lines)), [line.name for line in lines], fontsize=9)
    panels[0].invert_yaxis()
    figure.suptitle(title(result), fontsize=11, x=0.01, ha="left", wrap=True)
    unit = " In %." if result.table.unit == "%" else ""
    red = " Red: ours, verified." if with_robustness else ""
    key = f"Filled: ours, with its interval; hollow: the paper's.{red}{unit}"
    under = "\n".join([key, settings(result), *notes(result)])
    figure.supxlabel(_folded(under, figure.get_figwidth()), fontsize=7.5, color="0.3", x=0.01, ha="left")
    return figure


def _ours(column: str) -> Callable[[Line], Number | None]:
    return lambda line: line.ours.get(column)


def _paper_value(column: str) -> Callable[[Line], float | None]:
    return lambda line: line.paper[column]


def _panel(
    axes: Axes,
    lines: Sequence[Line],
    ours: Callable[[Line], Number | None],
    papers: Callable[[Line], float | None] | None,
    color: str,
    *,
    scale: int,
) -> None:
    for place, line in enumerate(lines):
        number, paper = ours(line), papers(line) if papers else None
        if number is not None:
            low, high = number.interval
            axes.plot([scale * low, scale * high], [place, place], color=color, lw=2.2, alpha=0.45)
            axes.plot([scale * number.mean], [place], "o", ms=4.5, color=color)
        if paper is not None:
            axes.plot([paper], [place], "D", ms=4.5, mfc="none", color=PAPER)


def _style_axes(axes: Axes, *, logarithmic: bool) -> None:
    if logarithmic:
        axes.set_xscale("log")
    else:
        axes.set_xlim(-4, 104)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.tick_params(labelsize=7)
    axes.grid(axis="x", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


def _folded(text: str, inches: float) -> str:
    """Wrap text to a width in inches at this font size."""
    return "\n".join(part for line in text.split("\n") for part in textwrap.wrap(line, int(inches * 17)))
