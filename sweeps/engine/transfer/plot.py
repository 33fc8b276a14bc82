"""Heat maps of a transfer matrix, one per attack."""

import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from bat_core.norms import LINF, TITLES
from sweeps.engine.cli.plotting import new_figure
from sweeps.engine.transfer.craft import Matrix
from sweeps.engine.transfer.matrix import NOT_VERIFIED, TransferCell, alarm
from sweeps.engine.transfer.report import attacks_of

COLORS = mpl.colormaps["YlGnBu_r"]  # dark is low accuracy; readable for colour-blind people and in greyscale
DARK, LIGHT = "black", "white"
FEW = 8  # with more models, cells have no room for an interval
LETTER = 0.075  # inches per character of a tick label
ANGLE = 40  # degrees, for long column names


def draw_matrix(matrix: Matrix, cells: Sequence[TransferCell]) -> Figure:
    """Draw one panel per attack: rows are targets, columns are sources; the white-box diagonal is boxed."""
    names, attacks = matrix.names, attacks_of(cells)
    few, longest = len(names) <= FEW, LETTER * max(map(len, names))
    side = max((0.78 if few else 0.46) * len(names), 2.4)
    width, height = len(attacks) * (side + 0.2) + longest + 1.6, side + longest * math.sin(math.radians(ANGLE)) + 2.2
    figure = new_figure(max(width, 8.5), height, ConstrainedLayoutEngine(h_pad=0.1))
    panels = figure.subplots(1, len(attacks), sharey=True, squeeze=False)[0]
    for axes, attack in zip(panels, attacks, strict=True):
        of = {(cell.target, cell.source): cell for cell in cells if cell.attack == attack}
        rows = [[of[target, source] for source in names] for target in names]
        image = axes.imshow([[cell.acc for cell in row] for row in rows], cmap=COLORS, vmin=0, vmax=1)
        for y, row in enumerate(rows):
            for x, cell in enumerate(row):
                _write(axes, x, y, cell, few=few)
        _style_axes(axes, names, attack, slanted=longest > 0.9 * side / len(names))
    clean = {cell.target: f"{cell.clean / cell.n:.1%}" for cell in cells}
    panels[0].set_yticks(range(len(names)), [f"{name}\nclean {clean[name]}" for name in names])
    panels[0].set_ylabel("evaluated on")
    bar = figure.colorbar(image, ax=panels, shrink=0.8, pad=0.02, format=PercentFormatter(1.0))
    bar.set_label("accuracy")
    bar.outline.set_visible(False)
    norm = "" if matrix.norm == LINF else f"{TITLES[matrix.norm]} "
    figure.suptitle(
        f"Black-box attacks by transfer, {NOT_VERIFIED}: {matrix.dataset} {matrix.split},"
        f" n = {matrix.n}, {norm}eps = {matrix.unit.amount(matrix.eps)}",
        fontsize=12,
    )
    figure.supxlabel(_note(matrix, cells, few=few), fontsize=8, color="0.3", x=0.01, ha="left")
    return figure


def _note(matrix: Matrix, cells: Sequence[TransferCell], *, few: bool) -> str:
    key = ["Accuracy in % over all images.", "Boxed: white-box, crafted on the evaluated model itself."]
    if few:
        key.append("Small: 95 % Wilson interval.")
    if (found := alarm(cells)).cells:
        key.append(f"▼: below the evaluated model's own white-box{'' if found.red else ', but not significantly'}.")
    return (
        f"\n{' '.join(key)}\n"
        f"FGSM: one step of eps, no random start. CE{matrix.steps}: PGD on cross-entropy, steps of"
        f" {matrix.unit.amount(matrix.step_size)} from a random start, last iterate. {matrix.unit.note},"
        f" seed {matrix.seed}.\n"
        "Not verified: no verifying suite (Auto-PGD, AutoAttack) ran; a model's robustness is at most the lowest number"
        " in its row."
    )


def _write(axes: Axes, x: int, y: int, cell: TransferCell, *, few: bool) -> None:
    ink = _ink(cell.acc)
    text = f"{100 * cell.acc:.1f}{'▼' if cell.beats_white_box else ''}"
    weight, up, size = "bold" if cell.white_box else "normal", 0.1 if few else 0.0, 10 if few else 8
    axes.text(x, y - up, text, color=ink, weight=weight, ha="center", va="center", fontsize=size)
    if few:
        low, high = cell.interval
        axes.text(x, y + 0.22, f"{100 * low:.0f}-{100 * high:.0f}", color=ink, ha="center", va="center", fontsize=7)
    if cell.white_box:
        axes.add_patch(Rectangle((x - 0.45, y - 0.45), 0.9, 0.9, fill=False, edgecolor=ink, lw=2 if few else 1.3))


def _ink(accuracy: float) -> str:
    """Black or white, whichever contrasts more with the cell (WCAG 2, relative luminance)."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in COLORS(accuracy)[:3])
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return DARK if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else LIGHT


def _style_axes(axes: Axes, names: Sequence[str], title: str, *, slanted: bool) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xticks(range(len(names)), names)
    if slanted:
        axes.tick_params("x", labelrotation=ANGLE)
        for name in axes.get_xticklabels():
            name.set(ha="right", rotation_mode="anchor")
    axes.set_xlabel("crafted on")
    axes.tick_params(length=0, labelsize=8.5)
    axes.spines[:].set_visible(False)
