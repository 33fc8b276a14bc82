"""The numbers of a transfer matrix, and the red flag "black box beats white box": pure functions of the verdicts."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from bat_core.stats import Interval, wilson
from sweeps.engine.transfer.craft import TransferVerdicts

CHANCE = 0.05  # significance level: a p-value of at least this may be chance
NAMED = 3  # number of cells that a sentence names
NOT_VERIFIED = "not verified"


@dataclass(frozen=True, kw_only=True)
class TransferCell:
    """How many of n images crafted on `source` the `target` classifies correctly.

    `clean` is the same count for clean images, `own` for the same attack crafted on the target itself. `p` is the
    p-value of the hypothesis that both attacks are equally strong, against the source's being stronger.
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
        """Whether the images were crafted on the target itself."""
        return self.source == self.target

    @property
    def beats_white_box(self) -> bool:
        """Whether fewer images are correct than under the same attack crafted on the target itself."""
        return self.correct < self.own


def cells_of(names: Sequence[str], verdicts: Sequence[TransferVerdicts]) -> list[TransferCell]:
    """Every attack's matrix, source by source.

    Args:
        names: the models' names.  verdicts: for each model, the verdicts on the images crafted on it.
    """
    return [
        TransferCell(
            source=names[source],
            target=names[target],
            attack=attack,
            n=len(verdicts[target].clean),
            correct=int(correct.sum()),
            clean=int(verdicts[target].clean.sum()),
            own=int((own := verdicts[target].adversarial[attack][target]).sum()),
            p=sign_test(int((own & ~correct).sum()), int((correct & ~own).sum())),
        )
        for attack in verdicts[0].adversarial
        for source in range(len(names))
        for target, correct in enumerate(verdicts[source].adversarial[attack])
    ]


def sign_test(more: int, fewer: int) -> float:
    """P(X >= more) for X ~ B(more + fewer, 1/2): the exact one-sided sign test of paired verdicts.

    Source: Q. McNemar 1947, Psychometrika 12.
    """
    tosses = more + fewer
    return sum(math.comb(tosses, heads) for heads in range(more, tosses + 1)) / 2**tosses


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """The black-box cells that beat their target's white-box, the strongest evidence first.

    `red`: at least one is significant (p below 5 % after Bonferroni correction for the number of black-box cells).
    """

    cells: tuple[TransferCell, ...]
    red: bool
    description: str


def alarm(cells: Sequence[TransferCell]) -> Alarm:
    """Check whether black box beats white box in any cell, which is a red flag of gradient masking.

    Source: Carlini et al. 2019, arXiv:1902.06705, section 5; paper, section 5.2.2.
    """
    black = [cell for cell in cells if not cell.white_box]
    beaten = sorted((cell for cell in black if cell.beats_white_box), key=lambda cell: (cell.p, cell.correct))
    if not beaten:
        description = f"No red flag: none of the {len(black)} black-box cells beats the target's own white-box."
        return Alarm(cells=(), red=False, description=description)
    red = beaten[0].p * len(black) < CHANCE
    what = (
        "Red flag, gradients may be masked: black box beats white box"
        if red
        else "No red flag: black box beats white box, but not significantly,"
    )
    named = "; ".join(_description(cell, len(black)) for cell in beaten[:NAMED])
    more = f"; and {len(beaten) - NAMED} more" if len(beaten) > NAMED else ""
    tested = f"p: exact sign test, Bonferroni-corrected for {len(black)} cells"
    return Alarm(
        cells=tuple(beaten),
        red=red,
        description=f"{what} in {len(beaten)} of {len(black)} cells: {named}{more} ({tested}).",
    )


def _description(cell: TransferCell, looked_at: int) -> str:
    p = min(cell.p * looked_at, 1.0)
    return (
        f"{cell.target} has {cell.acc:.1%} under {cell.attack} crafted on {cell.source} and"
        f" {cell.own / cell.n:.1%} under its white-box, a difference of {cell.own - cell.correct} of {cell.n} images,"
        f" {'p < 0.001' if p < 0.001 else f'p = {p:.2g}'}"
    )


def as_csv(cells: Sequence[TransferCell]) -> str:
    """One line per cell. Accuracies in [0, 1], 95 % Wilson intervals."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "target", "attack", "n", "acc", "low", "high", "clean_acc_of_target"])
    for cell in cells:
        numbers = (cell.acc, *cell.interval, cell.clean / cell.n)
        writer.writerow([cell.source, cell.target, cell.attack, cell.n, *[round(number, 6) for number in numbers]])
    return text.getvalue()
