"""A gallery of adversarial images: those that fall with the fewest attack steps, and those that stand longest."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from bat_core.data import Split, to_unit
from bat_core.evaluate import Evaluator
from bat_core.forward import eval_without_tf32
from bat_core.norms import LINF
from bat_core.verdicts import Verdicts
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.cli.text import percent
from sweeps.engine.evaluation.attack import Evaluation
from sweeps.engine.pages.classes import class_name
from sweeps.engine.pages.document import Picture, Pictures

STEM = "gallery"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answers to an image, and its softmax probability in [0, 1]."""

    name: str
    confidence: float

    def __str__(self) -> str:
        return f"{self.name}, {percent(self.confidence)}"


@dataclass(frozen=True, kw_only=True)
class Specimen:
    """An image and the image that an attack made of it, both (C, H, W) float32 in [0, 1].

    `attack` broke it at `step`; it is the last attack, and `step` is None, if none did.
    """

    row: int
    label: str
    clean: Tensor
    adversarial: Tensor
    before: Answer
    after: Answer
    attack: str
    step: int | None

    @property
    def title(self) -> str:
        """What became of it."""
        fate = "stands against every attack" if self.step is None else f"falls to {self.attack} at step {self.step}"
        return f"image {self.row}, class {self.label}: {fate}"


def choose(verdicts: Verdicts, count: int) -> tuple[list[int], list[int]]:
    """Positions of images that are correct when clean: those that fall first, and those that stand longest.

    At most half of `count` each, and no image twice. Of equal ones, the first in the data set.
    """
    fell = np.full(len(verdicts), np.iinfo(np.int64).max)
    for outcome in verdicts.outcomes.values():
        broken = outcome.broken_at >= 0
        fell[broken] = np.minimum(fell[broken], outcome.broken_at[broken])
    order = sorted(np.flatnonzero(verdicts.clean_correct).tolist(), key=lambda at: (fell[at], verdicts.rows[at]))
    fallen = [at for at in order if not verdicts.robust_correct[at]][: (count + 1) // 2]
    longest = sorted((at for at in order if at not in fallen), key=lambda at: (-fell[at], verdicts.rows[at]))
    return fallen, longest[: count // 2]


def specimens(
    evaluation: Evaluation, evaluator: Evaluator, part: Split, positions: Sequence[int], class_names: Sequence[str]
) -> list[Specimen]:
    """Attack the images at `positions` again, by the evaluation's own attacks, and keep what they made.

    Random starts are named by seed, attack and row, so the images are those of the evaluation. The exception is
    AutoAttack, which draws per batch.
    """
    if not positions:
        return []
    chosen = part.take(torch.tensor(positions))
    images, rows = chosen.images[:], chosen.rows.tolist()
    made: dict[int, tuple[str, Tensor]] = {}
    verdicts = evaluator.clean(images, chosen.labels, chosen.rows)
    for entry in evaluation.attacks(evaluator.device.type).entries:
        tried: dict[int, Tensor] = {}

        def keep(_: str, seen: Tensor, x_adv: Tensor, tried: dict[int, Tensor] = tried) -> None:
            tried.update(zip(seen.tolist(), x_adv, strict=True))

        standing = verdicts.robust_correct.copy()
        verdicts = verdicts.with_outcome(entry.name, evaluator.attack(entry, images, verdicts, save=keep))
        made |= {row: (entry.name, tried[row]) for row, open_still in zip(rows, standing, strict=True) if open_still}
    x = to_unit(images).float()
    x_adv = torch.stack([made[row][1] if row in made else x[at] for at, row in enumerate(rows)])
    before, after = (_answers(evaluator, batch, class_names) for batch in (x, x_adv))
    return [
        Specimen(
            row=row,
            label=class_name(int(chosen.labels[at]), class_names),
            clean=x[at],
            adversarial=x_adv[at],
            before=before[at],
            after=after[at],
            attack=made[row][0].upper() if row in made else "",
            step=_step(verdicts, at),
        )
        for at, row in enumerate(rows)
    ]


def _step(verdicts: Verdicts, at: int) -> int | None:
    """The step at which the first attack that broke an image did so."""
    steps = (int(outcome.broken_at[at]) for outcome in verdicts.outcomes.values())
    return next((step for step in steps if step >= 0), None)


@torch.no_grad()
def _answers(evaluator: Evaluator, x: Tensor, class_names: Sequence[str]) -> list[Answer]:
    with eval_without_tf32(evaluator.model):
        likely = evaluator.logits(x.to(evaluator.device)).float().softmax(1).cpu()
    best = likely.max(dim=1)
    return [
        Answer(name=class_name(label, class_names), confidence=confidence)
        for label, confidence in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


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


def largest_change(found: Sequence[Specimen], evaluation: Evaluation) -> float:
    """The change of a value that a gallery shows as black or white: the budget in L-inf, else the largest there is."""
    if evaluation.norm == LINF:
        return evaluation.eps
    return max((float((one.adversarial - one.clean).abs().max()) for one in found), default=0.0) or evaluation.eps


def difference(one: Specimen, scale: float) -> Tensor:
    """The change, from -scale to scale, as an image in [0, 1]."""
    return ((one.adversarial - one.clean) / (2 * scale) + 0.5).clamp(0, 1)


def as_png(image: Tensor) -> bytes:
    """An image (C, H, W) in [0, 1] as PNG: in grey if it has not three channels."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    content = io.BytesIO()
    (Image.fromarray(pixels) if pixels.shape[2] == 3 else Image.fromarray(pixels[:, :, 0])).save(content, "PNG")
    return content.getvalue()


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
