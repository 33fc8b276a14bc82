"""The gallery of an evaluation, as a section of its page and as pictures."""

from collections.abc import Sequence

from bat_core.gallery import Specimen, as_png, contact_sheet, difference
from bat_core.paths import Rooted, below, write_atomically
from sweeps.engine.pages.document import Picture, Pictures
from sweeps.engine.sweep.trial_sync import GALLERY


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


def save_gallery(found: Sequence[Specimen], folder: Rooted, scale: float) -> Rooted:
    """Write a model's gallery into its folder, under the name that a trial's has. Returns its path."""
    path = below(folder, GALLERY)
    write_atomically(path, contact_sheet(found, scale))
    return path
