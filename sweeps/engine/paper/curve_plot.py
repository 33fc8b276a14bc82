"""Figure 1: accuracy by number of PGD steps, one line per training budget."""

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter

from bat_core.config import AttackConfig
from sweeps.engine.cli.plotting import new_figure
from sweeps.engine.paper.curves import Family, Spread

LOSS_TITLES = {"ce": "cross-entropy", "cw": "CW margin"}
REFERENCE_COLOR = "0.45"
CLEAN_AT = 0.45  # position of clean accuracy on the step axis
VERIFIED_BEYOND = 3.0  # position of the verified worst case, as a multiple of the last step
SPACING = 1.07  # factor between the positions of two lines' marks
COLOR_RANGE = (0.9, 0.0)  # range of the colour map, smallest to largest budget


def draw_curves(lines: Sequence[Family], *, attack: AttackConfig, title: str, note: str) -> Figure:
    """Draw one panel per loss.

    Solid lines show the final iterate: mean over seeds, with a band from the lowest to the highest seed. Dotted lines
    show the worst iterate so far. The mark on the left is clean accuracy. The mark on the right is the verified worst
    case over the attacks of both panels and of the verifying suite.

    Args:
        attack: the evaluation that all lines share.  note: the text below the panels.
    """
    figure = new_figure(5.2 * len(attack.losses), 4.9)
    panels = figure.subplots(1, len(attack.losses), sharey=True, squeeze=False)[0]
    colors = _colors(lines)
    for axes, loss in zip(panels, attack.losses, strict=True):
        for rank, (family, color) in enumerate(zip(lines, colors, strict=True)):
            _draw_family(axes, family, loss, attack.steps, color)
            shift = SPACING ** (rank - (len(lines) - 1) / 2)
            _mark(axes, CLEAN_AT * shift, family.clean_acc, color, "D")
            if family.verified:
                _mark(axes, attack.steps[-1] * VERIFIED_BEYOND * shift, family.headline_acc, color, "s")
        verified = any(family.verified for family in lines)
        _style_axes(axes, attack.steps, f"PGD on {LOSS_TITLES.get(loss, loss)}", verified=verified)
    panels[0].set_ylabel("accuracy on test images")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(title, fontsize=12)
    figure.supxlabel(note, fontsize=8, color="0.3", x=0.01, ha="left")
    return figure


def _draw_family(axes: Axes, family: Family, loss: str, steps: Sequence[int], color: object) -> None:
    final, worst = family.curve(loss, "final"), family.curve(loss, "worst")
    style = "--" if family.role == "reference" else "-"
    axes.plot(steps, [s.mean for s in final], style, marker="o", ms=3.5, color=color, label=family.label)
    axes.fill_between(steps, [s.low for s in final], [s.high for s in final], color=color, alpha=0.18, lw=0)
    axes.plot(steps, [s.mean for s in worst], ":", lw=1.1, color=color)


def _mark(axes: Axes, at: float, accuracy: Spread, color: object, marker: str) -> None:
    """Draw a mark with a bar from the lowest to the highest seed."""
    axes.plot([at], [accuracy.mean], marker=marker, ms=4, color=color, ls="none")
    axes.plot([at, at], [accuracy.low, accuracy.high], color=color, lw=2, alpha=0.5)


def _style_axes(axes: Axes, steps: Sequence[int], title: str, *, verified: bool) -> None:
    end = steps[-1] * VERIFIED_BEYOND
    ticks = {CLEAN_AT: "clean", **{float(step): str(step) for step in steps}}
    axes.axvline((CLEAN_AT * steps[0]) ** 0.5, color="0.8", lw=0.8)
    if verified:
        ticks[end] = "verified"
        axes.axvline((end * steps[-1]) ** 0.5, color="0.8", lw=0.8)
    axes.set_xscale("log")
    axes.set_xlim(CLEAN_AT * 0.75, (end if verified else steps[-1]) * 1.3)
    axes.set_ylim(-0.02, math.ceil(axes.dataLim.ymax * 10) / 10 + 0.02)
    axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels(list(ticks.values()))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("PGD steps")


def _colors(lines: Sequence[Family]) -> list[object]:
    budgets = sorted({family.pixels for family in lines if family.role != "reference"})
    first, last = COLOR_RANGE
    colors = {
        budget: mpl.colormaps["plasma"](first + (last - first) * rank / max(len(budgets) - 1, 1))
        for rank, budget in enumerate(budgets)
    }
    return [REFERENCE_COLOR if family.role == "reference" else colors[family.pixels] for family in lines]
