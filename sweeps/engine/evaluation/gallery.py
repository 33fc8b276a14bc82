"""The gallery of an evaluation, as a section of its page and as pictures."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from bat_core.gallery import Specimen, as_png, difference
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.pages.document import Picture, Pictures

STEM = "gallery"


def gallery_section(heading: str, found: Sequence[Specimen], scale: float, *, whole: bool = True) -> Pictures:
    """The gallery as a section of a page: clean, adversarial and the difference, magnified to the whole range.

    `whole` says that `scale` is the whole budget.
    """
    rows = [
        (
            one.title,
            [
                Picture(png=as_png(one.clean), alt=f"image {one.row}", caption=f"clean: {one.before}"),
                Picture(png=as_png(one.adversarial), alt="adversarial", caption=f"attacked: {one.after}"),
                Picture(png=as_png(difference(one, scale)), alt="difference", caption="difference"),
            ],
        )
        for one in found
    ]
    note = (
        "With the model's answer and its softmax confidence. Difference: grey is no change, black and white are"
        f" a change by {'the whole budget, ' if whole else ''}{255 * scale:.4g}/255."
    )
    return Pictures(heading=heading, rows=rows, note=note)


def save_gallery(found: Sequence[Specimen], folder: Path, scale: float) -> list[Path]:
    """Write gallery.png and .svg into a model's folder. Returns their paths."""
    figure = Figure(figsize=(7.5, 1.75 * max(len(found), 1)), layout="constrained")
    axes = figure.subplots(max(len(found), 1), 3, squeeze=False)
    for row, one in zip(axes, found, strict=False):
        shown = (
            (one.clean, str(one.before)),
            (one.adversarial, str(one.after)),
            (difference(one, scale), "difference"),
        )
        for axis, (image, said) in zip(row, shown, strict=True):
            pixels = image.clamp(0, 1).permute(1, 2, 0).numpy()
            axis.imshow(pixels if pixels.shape[2] == 3 else pixels[:, :, 0], cmap="gray", vmin=0, vmax=1)
            axis.set_title(said, fontsize=8, parse_math=False)
            axis.set_axis_off()
        row[0].text(-0.08, 0.5, _folded(one.title), transform=row[0].transAxes, ha="right", va="center", fontsize=7)
    return save_figure(figure, folder / STEM)


def _folded(title: str) -> str:
    return title.replace(", class", ",\nclass").replace(": ", ":\n", 1)
