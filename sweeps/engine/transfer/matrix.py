"""The numbers of a transfer matrix, and whether a black box beats a white box: pure functions of the verdicts."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bat_core.stats import Interval, wilson
from sweeps.engine.transfer.craft import TransferVerdicts

CHANCE = 0.05  # a cell whose p-value is at least this says nothing
NAMED = 3  # so many cells are named in a sentence
NOT_VERIFIED = "not verified"


@dataclass(frozen=True, kw_only=True)
class TransferCell:
    """What `target` makes of n images crafted on `source`: how many it classifies correctly.

    `clean` and `own` are how many of them it does when they are clean, and when the same attack is
    crafted on itself. `p` is the chance of so many images that fall to the source's attack but not to
    its own, were the two equally strong.
    """

    source: str
    target: str
    attack: str
    n: int
    correct: int
    clean: int
    own: int
    p: float

    @property
    def acc(self) -> float:
        """Accuracy over all images, in [0, 1]."""
        return self.correct / self.n

    @property
    def interval(self) -> Interval:
        """Its 95 % Wilson interval."""
        return wilson(self.correct, self.n)

    @property
    def white_box(self) -> bool:
        """Whether the target was attacked through its own gradients."""
        return self.source == self.target

    @property
    def beats_white_box(self) -> bool:
        """Whether more images fell than to the same attack with the target's own gradients."""
        return self.correct < self.own


def cells_of(names: Sequence[str], verdicts_: Sequence[TransferVerdicts]) -> list[TransferCell]:
    """Every attack's matrix, source by source.

    Args:
        names: the models'.  verdicts_: what became of the images crafted on each of them.
    """
    return [
        TransferCell(
            source=names[source],
            target=names[target],
            attack=attack,
            n=len(verdicts_[target].clean),
            correct=int(stands.sum()),
            clean=int(verdicts_[target].clean.sum()),
            own=int((own := verdicts_[target].adversarial[attack][target]).sum()),
            p=sign_test(int((own & ~stands).sum()), int((stands & ~own).sum())),
        )
        for attack in verdicts_[0].adversarial
        for source in range(len(names))
        for target, stands in enumerate(verdicts_[source].adversarial[attack])
    ]


def sign_test(more: int, fewer: int) -> float:
    """P(X >= more) for X ~ B(more + fewer, 1/2): the exact one-sided sign test of paired verdicts.

    Source: Q. McNemar 1947, Psychometrika 12.
    """
    tosses = more + fewer
    return sum(math.comb(tosses, heads) for heads in range(more, tosses + 1)) / 2**tosses


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """The black-box cells that are stronger than their target's white-box, the strongest evidence first.

    `red`: for one of them, chance is no explanation (p below 5 %, divided by the number of black-box
    cells that were looked at).
    """

    cells: tuple[TransferCell, ...]
    red: bool
    description: str


def alarm(cells: Sequence[TransferCell]) -> Alarm:
    """Whether black box beats white box anywhere, a red flag of gradient masking.

    Source: Carlini et al. 2019, arXiv:1902.06705, section 5; paper, section 5.2.2.
    """
    black = [cell for cell in cells if not cell.white_box]
    beaten = sorted((cell for cell in black if cell.beats_white_box), key=lambda cell: (cell.p, cell.correct))
    if not beaten:
        description = (
            f"No red flag: none of {len(black)} black-box attacks is stronger than the target's own white-box."
        )
        return Alarm(cells=(), red=False, description=description)
    red = beaten[0].p * len(black) < CHANCE
    what = (
        "Red flag, gradients may be masked: black box beats white box"
        if red
        else "No red flag: black box beats white box by no more than chance"
    )
    named = "; ".join(_description(cell, len(black)) for cell in beaten[:NAMED])
    more = f"; and {len(beaten) - NAMED} more" if len(beaten) > NAMED else ""
    tested = f"p: exact sign test, times {len(black)} cells"
    return Alarm(
        cells=tuple(beaten),
        red=red,
        description=f"{what} in {len(beaten)} of {len(black)} cells: {named}{more} ({tested}).",
    )


def _description(cell: TransferCell, looked_at: int) -> str:
    p = min(cell.p * looked_at, 1.0)
    return (
        f"{cell.attack} crafted on {cell.source} leaves {cell.target} at {cell.acc:.1%}, its white-box at"
        f" {cell.own / cell.n:.1%}, {cell.own - cell.correct} of {cell.n} images,"
        f" {'p < 0.001' if p < 0.001 else f'p = {p:.2g}'}"
    )


def as_csv(cells: Sequence[TransferCell]) -> str:
    """A line a cell. Accuracies in [0, 1], 95 % Wilson intervals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "target", "attack", "n", "acc", "low", "high", "clean_acc_of_target"])
    for cell in cells:
        numbers = (cell.acc, *cell.interval, cell.clean / cell.n)
        writer.writerow([cell.source, cell.target, cell.attack, cell.n, *[round(number, 6) for number in numbers]])
    return text.getvalue()
