"""One interactive page with all plots of a search. The page is self-contained and needs no server."""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any, TypeAlias

import optuna
import plotly.graph_objects as go  # type: ignore[import-untyped]
from plotly.io import to_html  # type: ignore[import-untyped]
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from sweeps.engine.cli.text import percent, span
from sweeps.engine.search.plots import style as marks
from sweeps.engine.search.plots.importance import importances_note, importances_page, parallel_note, parallel_page
from sweeps.engine.search.plots.style import Mark
from sweeps.engine.search.report_threats import threat_accuracies, threat_columns
from sweeps.engine.search.results import Score
from sweeps.engine.search.snapshot import Finalist, Snapshot
from sweeps.engine.search.text import evaluated_on, robust, setting, settings, states, why_not_enough
from sweeps.engine.search.threats import plotted_note, shown_in_words

Draw: TypeAlias = Callable[[], Any]

CONFIG = {"displaylogo": False, "showSendToCloud": False, "modeBarButtonsToRemove": ["select2d", "lasso2d"]}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1240px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin: 2.5rem 0 0 } p { margin: .3rem 0 .6rem; color: #444 }
.wide { overflow-x: auto }
"""


def page(snapshot: Snapshot, study: optuna.Study) -> str:
    """The page as HTML. It is deterministic: the same search gives the same text."""
    title = f"Search on {setting(snapshot)}"
    parts = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1><p>{escape(states(snapshot))}. {escape(evaluated_on(snapshot))}</p>",
    ]
    nothing = None if snapshot.finished else "no trial has finished"
    why_not = {"importances": why_not_enough(snapshot), "parallel": why_not_enough(snapshot)}
    for number, (name, heading, description, draw) in enumerate(_sections(snapshot, study)):
        parts.append(f"<h2>{escape(heading)}</h2>")
        if why := why_not.get(name, nothing):
            parts.append(f"<p>Omitted: {escape(why)}.</p>")
            continue
        drawn = to_html(draw(), full_html=False, include_plotlyjs=number == 0, div_id=name, config=CONFIG)
        parts.append(f'<p>{escape(description)}</p><div class="wide">{drawn}</div>')
    return "\n".join([*parts, "</body></html>\n"])


def _sections(snapshot: Snapshot, study: optuna.Study) -> list[tuple[str, str, str, Draw]]:
    """Each section's name, heading, one-sentence description and figure."""
    return [
        (
            "pareto",
            f"Clean and {marks.robust_title(snapshot)}",
            "Each point is a trial with its 95 % Wilson interval. The front dominates the area below the step line;"
            f" masked trials are never on the front. Hover over a point for details."
            f" {plotted_note(snapshot.objective)}".rstrip(),
            lambda: pareto(snapshot),
        ),
        (
            "importances",
            "Parameter importance",
            importances_note(snapshot),
            lambda: _importances(snapshot, study),
        ),
        (
            "parallel",
            "Trials, their measures and parameters",
            parallel_note(snapshot),
            lambda: _parallel(snapshot, study),
        ),
        (
            "progress",
            "Best result so far by hours of work",
            f"Top: {marks.dominated(snapshot, plain='above (0, 0)')} that unmasked trials dominate. Bottom: every"
            " finished trial at the time it"
            " ended, and the best unmasked robust accuracy so far.",
            lambda: progress(snapshot),
        ),
    ]


def pareto(snapshot: Snapshot) -> Any:
    """Plot clean and verified robust accuracy of every finished trial, the front and the finalists."""
    figure = go.Figure()
    for mark in marks.VERDICTS.values():
        chosen = marks.of_kind(snapshot, mark)
        _add(figure, [one.clean_acc for one in chosen], chosen, mark, snapshot, interval=True)
    if snapshot.front:
        x, y = marks.stairs(snapshot.plotted_front, left=0.0, low=0.0)
        line = {"color": marks.FRONT, "width": 1.6}
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name=marks.front_title(snapshot), hoverinfo="skip")
    if found := marks.paper(snapshot):
        x, y = [found[1].clean_acc], [found[1].robust_acc]
        figure.add_scatter(x=x, y=y, mode="markers", marker=marks.PAPER.spots, name=found[0], hoverinfo="skip")
    _add_finalists(figure, snapshot)
    across, up = marks.limits(snapshot)
    figure.update_xaxes(title="clean accuracy", tickformat=".3~p", range=across)
    figure.update_yaxes(title=marks.robust_title(snapshot), tickformat=".3~p", range=up)
    return _plain(figure, 620)


def progress(snapshot: Snapshot) -> Any:
    """Plot hypervolume and best verified robust accuracy by hours of work."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.42, 0.58])
    line = {"color": marks.FRONT, "width": 1.6, "shape": "hv"}
    x, y = marks.volumes(snapshot)
    figure.add_scatter(x=x, y=y, mode="lines", line=line, name="hypervolume", showlegend=False, row=1, col=1)
    if snapshot.front:
        x, y = marks.best_robust(snapshot)
        figure.add_scatter(x=x, y=y, mode="lines", line=line, name="best so far, unmasked", row=2, col=1)
    for mark in marks.VERDICTS.values():
        chosen = marks.of_kind(snapshot, mark)
        _add(figure, [marks.hours_of(snapshot, one) for one in chosen], chosen, mark, snapshot, row=2, col=1)
    if over := marks.ends(snapshot):
        known = {"marker": marks.OVER.spots, "name": f"{marks.OVER.description} ({len(over)})", "hoverinfo": "x+name"}
        figure.add_scatter(x=over, y=[0.0] * len(over), mode="markers", row=1, col=1, **known)
    figure.update_xaxes(title="hours of work", rangemode="tozero", row=2, col=1)
    figure.update_yaxes(title="hypervolume", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title=marks.robust_title(snapshot), tickformat=".3~p", row=2, col=1)
    return _plain(figure, 620)


def _add(
    figure: Any,
    x: Sequence[float],
    chosen: Sequence[Score],
    mark: Mark,
    snapshot: Snapshot,
    *,
    interval: bool = False,
    **at: int,
) -> None:
    """Add all trials of a kind, with hover text."""
    if not chosen:
        return
    bars = None
    if interval:
        up = [one.interval[1] - one.robust_acc for one in chosen]
        down = [one.robust_acc - one.interval[0] for one in chosen]
        bars = {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 0.6, "width": 0}
    figure.add_scatter(
        x=x,
        y=[one.robust_acc for one in chosen],
        error_y=bars,
        mode="markers",
        marker=mark.spots,
        name=f"{mark.description} ({len(chosen)})",
        hovertext=[hover(snapshot, one) for one in chosen],
        hovertemplate="%{hovertext}<extra></extra>",
        **at,
    )


def _add_finalists(figure: Any, snapshot: Snapshot) -> None:
    shown = {"mode": "markers", "hovertemplate": "%{hovertext}<extra></extra>"}
    if members := [member for finalist in snapshot.finalists for member in finalist.members]:
        figure.add_scatter(
            x=[one.clean_acc for one in members],
            y=[one.robust_acc for one in members],
            marker=marks.MEMBER.spots,
            name=marks.MEMBER.description,
            hovertext=[hover(snapshot, one) for one in members],
            **shown,
        )
    for mark, description, chosen in marks.stars(snapshot):
        figure.add_scatter(
            x=[one.clean_acc for one in chosen],
            y=[one.robust_acc for one in chosen],
            marker=mark.spots,
            name=description,
            hovertext=[_of_finalist(snapshot, one) for one in chosen],
            **shown,
        )


def hover(snapshot: Snapshot, one: Score) -> str:
    """The hover text of a trial."""
    front = ", on the front" if one in snapshot.front else ""
    threats = zip(threat_columns(snapshot), threat_accuracies(snapshot, one), strict=True)
    lines = [
        f"clean {percent(one.clean_acc)}, robust{shown_in_words(snapshot.objective)} {robust(one)}, n = {one.robust_n}",
        *(f"{heading}: {said}" for heading, said in threats),
        f"PGD alone {percent(one.pgd_acc)}",
        f"{one.verdict}: {', '.join(one.flags) or 'no flags'}",
        f"training {span(one.hours)}",
        *settings(snapshot, one.point),
    ]
    return "<br>".join([f"<b>{escape(one.id)}</b>{front}", *map(escape, lines)])


def _of_finalist(snapshot: Snapshot, finalist: Finalist) -> str:
    lines = [
        f"mean over {len(finalist.members)} seeds: clean {percent(finalist.clean_acc)},"
        f" robust {percent(finalist.robust_acc)}",
        *settings(snapshot, finalist.origin.point),
    ]
    return "<br>".join([f"<b>finalist from {escape(finalist.origin.id)}</b>", *map(escape, lines)])


def _importances(snapshot: Snapshot, study: optuna.Study) -> Any:
    figure = importances_page(snapshot, study)
    most = max(len(bars.y) for bars in figure.data)
    figure.update_layout(bargap=0.25, colorway=[marks.BLUE, marks.AMBER, marks.FRONT, marks.RED])
    figure.update_xaxes(title="importance")
    figure.update_yaxes(title=None, ticksuffix=" ")
    figure.update_traces(textfont={"size": 10})
    return _plain(figure, 130 + most * (12 + 13 * len(figure.data)))


def _parallel(snapshot: Snapshot, study: optuna.Study) -> Any:
    figure = _plain(parallel_page(snapshot, study), 540)
    figure.update_annotations(bgcolor="rgba(255,255,255,0.75)", borderpad=1)
    figure.update_layout(margin={"b": 110})
    return figure


def _plain(figure: Any, height: int) -> Any:
    """Apply the common style: white background, no title."""
    figure.update_layout(
        template="plotly_white", title=None, height=height, margin={"l": 70, "r": 30, "t": 30, "b": 60}
    )
    figure.update_layout(hoverlabel={"align": "left", "bgcolor": "white"}, font={"family": "system-ui, sans-serif"})
    return figure
