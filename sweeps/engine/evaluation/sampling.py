"""Evaluations whose suite attacks images drawn at random: the draw, the interval so far, and when it is decided."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from bat_core.config import from_dict, to_dict
from bat_core.data import Split
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.jsontext import read_json
from bat_core.paths import Rooted, below, read_regular, write_atomically
from bat_core.sequential import ANY_SHARE, FEW, count_bounds, draw_order
from bat_core.suites import NOT_VERIFIED
from bat_core.verdicts import Verdicts
from sweeps.engine.evaluation.attack import FIRST, Evaluation, joined
from sweeps.engine.evaluation.shard_files import ShardWork, attack_images, known_verdicts

DRAW = "drawn.json"
DRAWN = "drawn"
DRAWN_VERDICTS = "drawn.parquet"
AT_A_TIME = 100  # most images between two looks, if a look may end the evaluation
BELOW, AT_LEAST, UNDECIDED = "below", "at least", "undecided"


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The images to draw from, `population` of them, and the rows of those that are drawn, in order."""

    seed: int
    population: int
    rows: tuple[int, ...]

    def shards(self, size: int) -> list[slice]:
        """The slices of `rows` that are attacked together."""
        return [slice(first, min(first + size, len(self.rows))) for first in range(0, len(self.rows), size)]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the drawn images say of all `n`: of `population` images, `drawn` were attacked and `fallen` fell.

    `low` and `high` bound the share of all n that the suite would leave, with 95 % confidence whenever one stops.
    `answer` is "below" `stop_below`, "at least" `stop_above`, "undecided", or empty without such a question.
    """

    n: int
    population: int
    drawn: int
    fallen: int
    low: float
    high: float
    answer: str

    @property
    def exact(self) -> bool:
        """Whether every image was attacked that could be drawn."""
        return self.drawn == self.population


def draw_size(evaluation: Evaluation) -> int:
    """How many drawn images are attacked together. Each such batch is a look at the interval."""
    return min(evaluation.shard_size, AT_A_TIME) if evaluation.stops else evaluation.shard_size


def make_draw(evaluation: Evaluation, folder: Rooted) -> Draw:
    """The images that are drawn for the model in `folder`; recorded the first time, and the same ever after.

    Raises:
        InputError: the record is damaged, or of other images.
    """
    verdicts = joined(evaluation, folder)
    standing = verdicts.rows[verdicts.robust_correct]
    order = draw_order(len(standing), evaluation.seed)
    rows = standing[order][: evaluation.survivors]
    made = Draw(seed=evaluation.seed, population=len(standing), rows=tuple(rows.tolist()))
    path = below(folder, DRAW)
    if not path.exists():
        write_atomically(path, json.dumps(to_dict(made)))
    elif read_draw(folder) != made:
        raise InputError(f"{str(path)!r} is of other images than those that stand: start a new evaluation")
    return made


def read_draw(folder: Path) -> Draw:
    """The recorded draw.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path = below(folder, DRAW)
    try:
        return from_dict(Draw, read_json(read_regular(path)))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is damaged: {error}; remove it, and --resume draws again") from error


def attack_drawn(evaluation: Evaluation, folder: Rooted, evaluator: Evaluator, part: Split, shard: slice) -> None:
    """Run the suite on some of the drawn images, except for results that are on disk."""
    at = {row: position for position, row in enumerate(part.rows.tolist())}
    rows = read_draw(folder).rows[shard]
    images = part.take(torch.tensor([at[row] for row in rows], dtype=torch.int64))
    work = ShardWork(_place(folder, shard), images, evaluator)
    attack_images(evaluation.attacks(evaluator.device.type).entries, [work])


def attacked(evaluation: Evaluation, folder: Rooted) -> list[Verdicts]:
    """The verdicts on the drawn images in the order of the draw, up to the first batch that is not finished."""
    return list(_attacked(evaluation, folder))


def _attacked(evaluation: Evaluation, folder: Rooted) -> Iterator[Verdicts]:
    entries = evaluation.attacks().entries
    for shard in read_draw(folder).shards(draw_size(evaluation)):
        known = known_verdicts(_place(folder, shard), entries)
        if known is None or len(known.outcomes) < len(entries):
            return
        yield known


def sample_of(evaluation: Evaluation, folder: Rooted) -> Sample:
    """What the drawn images of the model in `folder` say so far."""
    draw, looks, drawn, fallen = read_draw(folder), [(0, 0)], 0, 0
    for verdicts in attacked(evaluation, folder):
        drawn, fallen = drawn + len(verdicts), fallen + int((~verdicts.robust_correct).sum())
        looks.append((drawn, fallen))
    prior = ANY_SHARE if evaluation.survivors is None else FEW
    bounds, n = count_bounds(looks, draw.population, prior), evaluation.n
    low, high = (draw.population - bounds.high) / n, (draw.population - bounds.low) / n
    return Sample(
        n=n,
        population=draw.population,
        drawn=drawn,
        fallen=fallen,
        low=low,
        high=high,
        answer=_answer(evaluation, low, high),
    )


def _answer(evaluation: Evaluation, low: float, high: float) -> str:
    if evaluation.stop_below is not None and high < evaluation.stop_below:
        return BELOW
    if evaluation.stop_above is not None and low >= evaluation.stop_above:
        return AT_LEAST
    return UNDECIDED if evaluation.stops else ""


def next_shards(evaluation: Evaluation, folder: Rooted, *, most: int) -> list[slice]:
    """The next batches of drawn images to attack, at most `most`; none if all are attacked or it is decided."""
    sample = sample_of(evaluation, folder)
    if sample.answer in (BELOW, AT_LEAST):
        return []
    shards = read_draw(folder).shards(draw_size(evaluation))
    left = [shard for shard in shards if shard.start >= sample.drawn]
    return left[:most] if evaluation.stops else left


def sampled_label(evaluation: Evaluation, sample: Sample, masking_status: str) -> str:
    """The name of the number: never that of the suite itself, unless all images met it."""
    suite = evaluation.attacks()
    if not sample.exact:
        return f"{suite.title}, sampled{NOT_VERIFIED}: at most"
    label = suite.label_for(masking_status)
    return label if evaluation.survivors is None else f"{FIRST}+{label}"


def _place(folder: Rooted, shard: slice) -> Rooted:
    return below(folder, DRAWN, f"{shard.start:06d}")
