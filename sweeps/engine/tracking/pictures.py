"""Pictures for descriptions: one trial's curves, and a sweep's figure at the size that MLflow has room for."""

import io
import threading
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter
from PIL import Image

from bat_core.curves import Curves
from bat_core.paths import Rooted, below, write_atomically
from sweeps.engine.cli.plotting import new_figure
from sweeps.engine.cli.text import UNVERIFIED_MARK, percent

CURVES, PREVIEW = "curves.png", "figure_preview.png"
PREVIEW_WIDTH = 820
LEFT, RIGHT, BOTTOM, TOP = 0.12, 0.66, 0.14, 0.92  # of the axes, as parts of the picture; the legend is to their right
STEPS = [base * 10**power for power in range(5) for base in (1, 2, 5)]  # ticks
_drawing = threading.Lock()  # trials are synced at once, and fonts are shared


def save_preview(figure: bytes, folder: Path) -> Rooted:
    """A figure as wide as MLflow's description has room for. Returns the picture's path."""
    with Image.open(io.BytesIO(figure)) as whole:
        whole.thumbnail((PREVIEW_WIDTH, PREVIEW_WIDTH), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        whole.save(content, "PNG")
    place = below(folder, PREVIEW)
    write_atomically(place, content.getvalue())
    return place


def save_curves(curves: Curves, folder: Path, *, robust: float, verified: bool, title: str) -> Rooted:
    """Draw a finished trial's curves into a folder, as `draw_curves`. Returns the picture's path."""
    figure = draw_curves(curves, robust=robust, verified=verified, title=title)
    content = io.BytesIO()
    with _drawing:
        figure.savefig(content, format="png", dpi=110, metadata={"Software": None})
    place = below(folder, CURVES)
    write_atomically(place, content.getvalue())
    return place


def draw_curves(curves: Curves, *, robust: float, verified: bool, title: str) -> Figure:
    """Accuracy by attack steps, and the worst case as a line.

    There is a picture for every trial. Margins and ticks are fixed: finding them took most of the time of drawing.

    Args:
        robust: the worst case over all attacks, in [0, 1].  verified: whether a verifying suite stands behind it.
    """
    figure = new_figure(6.4, 3.6, layout=None)
    axes = figure.subplots(gridspec_kw={"left": LEFT, "right": RIGHT, "bottom": BOTTOM, "top": TOP})
    longest = 1
    for name, curve in curves.outcomes.items():
        steps = [step for step in curve.steps if step > 0]
        final, worst = (curve.curve(reading)[-len(steps) :] for reading in ("final", "worst"))
        (line,) = axes.plot(steps, final, marker="o", ms=3.5, label=f"{name}: final iterate")
        axes.plot(steps, worst, ":", color=line.get_color(), label=f"{name}: worst so far")
        longest = max(longest, *steps)
    axes.axhline(curves.clean_acc, color="0.6", lw=1, label=f"clean {percent(curves.clean_acc)}")
    mark = "verified" if verified else f"{UNVERIFIED_MARK}not verified"
    axes.axhline(robust, color="black", lw=1, ls="--", label=f"worst case {percent(robust)}, {mark}")
    axes.set(xlabel="attack steps", ylabel="accuracy", xscale="log", ylim=(-0.02, 1.02))
    axes.set_title(title, loc="left", fontsize=10, parse_math=False)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(FixedLocator([step for step in STEPS if step <= longest]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=7, loc="upper left", bbox_to_anchor=(RIGHT, TOP), frameon=False)
    return figure
