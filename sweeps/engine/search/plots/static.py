"""Static plots of a search (PNG), and the function that writes all plots."""

import io
from collections.abc import Sequence
from pathlib import Path

import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from bat_core.paths import below, write_atomically
from sweeps.engine.cli.plotting import new_figure
from sweeps.engine.search.plots import style as marks
from sweeps.engine.search.plots.html import page
from sweeps.engine.search.plots.importance import draw_importances, draw_parallel
from sweeps.engine.search.plots.style import Mark
from sweeps.engine.search.results import Score
from sweeps.engine.search.snapshot import Snapshot
from sweeps.engine.search.text import evaluated_on, states, why_not_enough
from sweeps.engine.search.threats import plotted_note

PAGE = "search.html"
NOTHING = "no trial has finished"
PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.4g}%")


def save_pictures(snapshot: Snapshot, study: optuna.Study, folder: Path) -> list[str]:
    """Write all plots of a search and the interactive page. The same search gives the same bytes.

    Returns:
        The names of the files. Importances and parallel coordinates are omitted if too few trials finished;
        `why_not_enough` gives the reason.
    """
    figures = {"pareto": draw_pareto(snapshot)}
    if why_not_enough(snapshot) is None:
        figures |= {"importances": draw_importances(snapshot, study), "parallel": draw_parallel(snapshot, study)}
    figures["progress"] = draw_progress(snapshot)
    for name, figure in figures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=160, metadata={"Software": None})
        write_atomically(below(folder, f"{name}.png"), content.getvalue())
    write_atomically(below(folder, PAGE), page(snapshot, study))
    return [*(f"{name}.png" for name in figures), PAGE]


def draw_pareto(snapshot: Snapshot) -> Figure:
    """Plot clean and verified robust accuracy of every finished trial, the front and the finalists."""
    figure = new_figure(9.6, 6.0)
    axes = figure.subplots()
    _style_axes(axes, "clean accuracy", marks.robust_title(snapshot))
    axes.xaxis.set_major_formatter(PERCENT)
    clean, robust = marks.limits(snapshot)
    axes.set_xlim(clean)
    axes.set_ylim(robust)
    for mark in marks.VERDICTS.values():
        chosen = marks.of_kind(snapshot, mark)
        _scatter(axes, [one.clean_acc for one in chosen], chosen, mark)
        for one in chosen:
            axes.plot([one.clean_acc] * 2, one.interval, color=mark.color, lw=0.6, alpha=0.45)
    _draw_front(axes, snapshot)
    if found := marks.paper(snapshot):
        axes.plot(found[1].clean_acc, found[1].robust_acc, zorder=4, label=found[0], **marks.PAPER.style)
    _draw_finalists(axes, snapshot)
    _finish(figure, snapshot)
    marks.caption(
        figure,
        snapshot,
        f"clean and {marks.robust_title(snapshot)}",
        "Bars: 95 % Wilson intervals of robust accuracy. Numbers: the trials on the front. Step line: the edge of the"
        " area that the front dominates; masked trials are never on the front.",
        plotted_note(snapshot.objective),
        evaluated_on(snapshot),
        f"{states(snapshot)}.",
    )
    return figure


def draw_progress(snapshot: Snapshot) -> Figure:
    """Plot hypervolume and best verified robust accuracy by hours of work."""
    figure = new_figure(9.6, 6.4)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 4))
    _style_axes(top, "", "hypervolume")
    _style_axes(bottom, "hours of work", marks.robust_title(snapshot))
    top.yaxis.set_major_formatter("{x:.3g}")
    for mark in marks.VERDICTS.values():
        chosen = marks.of_kind(snapshot, mark)
        at = [marks.hours_of(snapshot, one) for one in chosen]
        _tick(top, at, mark)
        _scatter(bottom, at, chosen, mark)
    if over := marks.ends(snapshot):
        _tick(top, over, marks.OVER)
        bottom.plot([], [], "|", ms=9, color=marks.OVER.color, label=f"{marks.OVER.description} ({len(over)})")
    if snapshot.finished:
        top.step(*marks.volumes(snapshot), where="post", color=marks.FRONT, lw=1.4)
    if snapshot.front:
        bottom.step(
            *marks.best_robust(snapshot), where="post", color=marks.FRONT, lw=1.4, label="best so far, unmasked"
        )
    top.set_ylim(bottom=0)
    top.set_xlim(left=0)
    _finish(figure, snapshot)
    marks.caption(
        figure,
        snapshot,
        "best result so far by hours of work",
        f"Top: {marks.dominated(snapshot)} that unmasked trials dominate so far; each tick at the bottom"
        " marks the end of a trial. Hours of work: wall time during which at least one trial ran.",
        evaluated_on(snapshot),
        f"{states(snapshot)}.",
    )
    return figure


def _style_axes(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.yaxis.set_major_formatter(PERCENT)
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(figure: Figure, snapshot: Snapshot) -> None:
    """Add the legend, and a note if no trial has finished."""
    axes = figure.axes[-1]
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=9)
    if not snapshot.finished:
        axes.set_ylim(0, 1)
        axes.text(0.5, 0.5, NOTHING, transform=axes.transAxes, ha="center", color="0.4")


def _scatter(axes: Axes, x: Sequence[float], chosen: Sequence[Score], mark: Mark) -> None:
    """Plot all trials of a kind; the legend shows their number."""
    if chosen:
        axes.plot(
            x, [one.robust_acc for one in chosen], label=f"{mark.description} ({len(chosen)})", zorder=3, **mark.style
        )


def _tick(axes: Axes, at: Sequence[float], mark: Mark) -> None:
    """Draw short ticks along the bottom of a panel."""
    axes.plot(at, [0.03] * len(at), "|", ms=9, mew=1.2, color=mark.color, transform=axes.get_xaxis_transform())


def _draw_front(axes: Axes, snapshot: Snapshot) -> None:
    if not snapshot.front:
        return
    x, y = marks.stairs(snapshot.plotted_front, left=axes.get_xlim()[0], low=axes.get_ylim()[0])
    axes.plot(x, y, color=marks.FRONT, lw=1.3, zorder=2, label=marks.front_title(snapshot))
    for one in snapshot.front:
        text, at = one.id.removeprefix("trial-"), (one.clean_acc, one.robust_acc)
        axes.annotate(text, at, xytext=(5, 4), textcoords="offset points", fontsize=8, color=marks.FRONT, zorder=7)


def _draw_finalists(axes: Axes, snapshot: Snapshot) -> None:
    for finalist in snapshot.finalists:
        for member in finalist.members:
            x, y = [finalist.clean_acc, member.clean_acc], [finalist.robust_acc, member.robust_acc]
            axes.plot(x, y, color=marks.MEMBER.color, lw=0.7, zorder=5)
    if members := [member for finalist in snapshot.finalists for member in finalist.members]:
        x, y = [one.clean_acc for one in members], [one.robust_acc for one in members]
        axes.plot(x, y, zorder=5, label=marks.MEMBER.description, **marks.MEMBER.style)
    for mark, description, chosen in marks.stars(snapshot):
        x, y = [one.clean_acc for one in chosen], [one.robust_acc for one in chosen]
        axes.plot(x, y, label=description, zorder=6, **mark.style)
