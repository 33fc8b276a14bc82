"""A gallery of adversarial images: those that fall with the fewest attack steps, and those that stand longest."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from bat_core.data import Split, to_unit
from bat_core.evaluate import Evaluator
from bat_core.forward import eval_without_tf32
from bat_core.norms import LINF
from bat_core.suites import Suite
from bat_core.verdicts import Verdicts

SIDE, LINE, MARGIN = 144, 18, 8  # of a contact sheet, in pixels: a picture, a line of text, the space between
FONT_SIZE = 13


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model answers to an image, and its softmax probability in [0, 1]."""

    name: str
    confidence: float

    def __str__(self) -> str:
        return f"{self.name}, {self.confidence:.1%}"


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
    suite: Suite, evaluator: Evaluator, part: Split, positions: Sequence[int], class_names: Sequence[str]
) -> list[Specimen]:
    """Attack the images at `positions` of `part` again, by the suite's attacks, and keep what they made.

    Random starts are named by seed, attack and row, so the images are those that were evaluated. The exception is
    AutoAttack, which draws per batch.
    """
    if not positions:
        return []
    chosen = part.take(torch.tensor(positions))
    images, rows = chosen.images[:], chosen.rows.tolist()
    made: dict[int, tuple[str, Tensor]] = {}
    verdicts = evaluator.clean(images, chosen.labels, chosen.rows)
    for entry in suite.entries:
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


def class_name(label: int, class_names: Sequence[str] | None) -> str:
    """A class's name; its number where no name is known."""
    return class_names[label] if class_names and 0 <= label < len(class_names) else str(label)


def difference(one: Specimen, eps: float) -> Tensor:
    """The change, from -eps to eps, as an image in [0, 1]."""
    return ((one.adversarial - one.clean) / (2 * eps) + 0.5).clamp(0, 1)


def largest_change(found: Sequence[Specimen], eps: float, norm: str) -> float:
    """The change of a value that is shown as black or white: the budget in L-inf, else the largest there is."""
    if norm == LINF:
        return eps
    return max((float((one.adversarial - one.clean).abs().max()) for one in found), default=0.0) or eps


def as_png(image: Tensor) -> bytes:
    """An image (C, H, W) in [0, 1] as PNG: in grey if it has not three channels."""
    content = io.BytesIO()
    _drawn(image).save(content, "PNG")
    return content.getvalue()


def _drawn(image: Tensor) -> Image.Image:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels) if pixels.shape[2] == 3 else Image.fromarray(pixels[:, :, 0])


def contact_sheet(found: Sequence[Specimen], scale: float) -> bytes:
    """All specimens as one PNG: a row each, with the clean image, the attacked one and their difference.

    Args:
        scale: the change of a value that is shown as black or white, as of `largest_change`.
    """
    row, width = SIDE + 2 * LINE + MARGIN, 3 * (SIDE + MARGIN) + MARGIN
    sheet = Image.new("RGB", (width, row * max(len(found), 1)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_SIZE)
    for number, one in enumerate(found):
        top = number * row
        draw.text((MARGIN, top + 2), one.title, fill="black", font=font)
        pictures = (
            (one.clean, str(one.before)),
            (one.adversarial, str(one.after)),
            (difference(one, scale), "difference"),
        )
        for at, (image, said) in enumerate(pictures):
            left = MARGIN + at * (SIDE + MARGIN)
            shown = _drawn(image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(shown, (left, top + LINE))
            draw.text((left, top + LINE + SIDE + 1), said, fill="black", font=font)
    content = io.BytesIO()
    sheet.save(content, "PNG")
    return content.getvalue()
