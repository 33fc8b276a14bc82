"""The numbers of a table next to the paper's: pure functions of records and query answers."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from scipy import stats

from bat_core.config import TrialConfig
from bat_core.masking.flags import MASKING_STATUSES, NOTHING_TO_MASK, status_in_words
from bat_core.stats import Interval, wilson
from bat_core.suites import is_verified
from sweeps.engine.cli.text import UNVERIFIED_MARK
from sweeps.engine.driver.model_queries import QueryAnswers
from sweeps.engine.paper.curves import EvaluatedTrial, evaluated_trials
from sweeps.engine.paper.table_spec import CITED, CellKey, Claim, Found, Row, Table, Values
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Sweep

NOT_RUN: Literal["not run"] = "not run"
SAYS_NOTHING: Literal["says nothing"] = "says nothing"  # for a claim about a model that predicts one class only
Word: TypeAlias = Literal["shows", "does not show", "undecided", "says nothing", "not run"]


@dataclass(frozen=True)
class Number:
    """One value per seed, in the column's unit: accuracies in [0, 1] over n test images; n = 0 for other quantities."""

    values: Mapping[int, float]
    n: int

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def interval(self) -> Interval:
        """The wider of two 95 % intervals: Wilson's, over test images, and Student's, over seeds.

        For quantities other than accuracies, the range from the lowest to the highest seed.
        """
        values = list(self.values.values())
        if not self.n:
            return Interval(min(values), max(values))
        drawn = wilson(round(self.mean * self.n), self.n)
        trained = student(values) if len(values) > 1 else drawn
        return max(drawn, trained, key=lambda interval: interval.high - interval.low)


def student(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean of at least two values."""
    mean, error = statistics.fmean(values), statistics.stdev(values) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    return Interval(mean - reach, mean + reach)


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """What we measure beyond the paper for a row's models: their worst case under `suite`, and the masking checks.

    `verdicts` counts models by masking status in words. `collapsed` counts models with catastrophic overfitting,
    `one_class` models that are correct on one class only.
    """

    row: Row
    clean: Number
    robust: Number
    suite: str
    verdicts: Mapping[str, int]
    collapsed: int
    one_class: int

    @property
    def is_verified(self) -> bool:
        """Whether the worst case is verified."""
        return is_verified(self.suite)

    @property
    def masking_statuses(self) -> list[tuple[str, str]]:
        """The models' masking statuses in words, the worst first, with their counts (empty if there is one status)."""
        found = [word for word in (*MASKING_STATUSES[::-1], NOTHING_TO_MASK) if word in self.verdicts]
        return [(word, str(self.verdicts[word]) if len(found) > 1 else "") for word in found]

    @property
    def masking_status(self) -> str:
        """`masking_statuses` as a text."""
        return ", ".join(f"{word} {count}".strip() for word, count in self.masking_statuses)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table: for each column the paper's number, in its unit, and ours.

    A missing number is None. A column that does not apply to the row is missing from `ours`.
    """

    name: str
    paper: Mapping[str, float | None]
    ours: Mapping[str, Number | None]
    robustness: Robustness | None
    cited: bool


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """A claim of the paper, and whether our numbers show it."""

    claim: Claim
    word: Word
    mean: float | None = None
    interval: Interval | None = None
    seeds: int = 0


@dataclass(frozen=True)
class Result:
    """Everything that a finished table shows."""

    table: Table
    sweep: Sweep
    folder: SweepFolder

    @cached_property
    def found(self) -> Found:
        """Its trials and query answers."""
        return found_in(self.sweep, self.folder)

    @property
    def config(self) -> TrialConfig:
        """The config of its first trial. All trials share images, training and attacks, except for their recipes."""
        return self.sweep.trials[0].config

    @cached_property
    def n(self) -> int:
        """Test images behind each number."""
        return max((len(one.verdicts) for one in self.found.evaluated.values()), default=0)

    @cached_property
    def lines(self) -> list[Line]:
        """All rows in order, including the paper's rows that we do not train."""
        cells = self.table.cells()
        names = dict.fromkeys(name for name, _ in cells)
        rows = {one.name: one for one in self.table.rows}
        order = names if self.table.lines is not None else rows
        return [self._line(name, rows.get(name), cells) for name in order]

    def _line(self, name: str, row: Row | None, cells: Mapping[tuple[str, str], CellKey]) -> Line:
        paper, columns = self.table.paper, self.table.columns
        return Line(
            name=name,
            paper={
                one: paper.cell(name, one) if name in paper.rows and one in paper.columns else None for one in columns
            },
            ours={column: self._number(cells[name, column]) for column in columns if (name, column) in cells},
            robustness=self.robustness.get(row.key) if row else None,
            cited=row is not None and row.recipe == CITED,
        )

    def _number(self, cell: CellKey) -> Number | None:
        values = self._values(cell)
        return Number(values, self.n if self.table.unit == "%" else 0) if values else None

    def _values(self, cell: CellKey | None) -> Values:
        return {} if cell is None else cell[1].read(cell[0], self.found)

    @cached_property
    def robustness(self) -> dict[str, Robustness]:
        """The robustness of each trained row's models, by the row's key."""
        rows = {row.key: (row, self.found.of(row)) for row in self.table.trained}
        return {key: _robustness(row, models) for key, (row, models) in rows.items() if models}

    @property
    def robustness_title(self) -> str:
        """What the models' robust accuracies are called; those that are not verified have a mark (`mark_of`)."""
        return "verified" if any(one.is_verified for one in self.robustness.values()) else "not verified"

    def mark_of(self, robustness: Robustness) -> str:
        """The mark of an accuracy that is not verified in a column of verified ones."""
        return "" if robustness.is_verified or self.robustness_title != "verified" else UNVERIFIED_MARK

    @cached_property
    def claim_results(self) -> list[ClaimResult]:
        """Our result for each claim of the paper."""
        return [self._claim_result(claim) for claim in self.table.claims]

    def _claim_result(self, claim: Claim) -> ClaimResult:
        first, second = self._values(claim.first), self._values(claim.second)
        if claim.second is None:
            values = list(first.values())
        else:
            pairs = [(first[seed], second[seed]) for seed in first if seed in second]
            values = [math.log10(a / b) if claim.ratio else a - b for a, b in pairs]
        if not values:
            return ClaimResult(claim=claim, word=NOT_RUN)
        mean = statistics.fmean(values)
        if len(values) == 1:
            return ClaimResult(claim=claim, word="undecided", mean=mean, seeds=1)
        interval = student(values)
        word = SAYS_NOTHING if self._answers_one_class(claim) else _word(claim, interval)
        return ClaimResult(claim=claim, word=word, mean=mean, interval=interval, seeds=len(values))

    def _answers_one_class(self, claim: Claim) -> bool:
        """Whether a model that the claim is about predicts one class for every image."""
        rows = [cell[0] for cell in (claim.first, claim.second) if cell is not None]
        return any(row.key in self.robustness and self.robustness[row.key].one_class for row in rows)


def found_in(sweep: Sweep, folder: SweepFolder) -> Found:
    """The finished trials of a sweep, and the query answers stored with them."""
    evaluated = {one.trial.id: one for one in evaluated_trials(sweep, folder)}
    seeds = tuple(dict.fromkeys(trial.config.seed for trial in sweep.trials))
    return Found(evaluated=evaluated, answers=QueryAnswers(folder), seeds=seeds)


def _robustness(row: Row, models: Mapping[int, EvaluatedTrial]) -> Robustness:
    first = next(iter(models.values()))
    masked = (one.suite for one in models.values() if one.masking_status == "masked")
    return Robustness(
        row=row,
        clean=Number({seed: one.verdicts.clean_acc for seed, one in models.items()}, len(first.verdicts)),
        robust=Number({seed: one.headline.robust_acc for seed, one in models.items()}, len(first.headline)),
        suite=next(masked, first.suite),
        verdicts=Counter(status_in_words(one.masking_status, one.headline.robust_acc) for one in models.values()),
        collapsed=sum(one.collapsed is not None for one in models.values()),
        one_class=sum(one.verdicts.one_class for one in models.values()),
    )


def _word(claim: Claim, interval: Interval) -> Word:
    if claim.at_least < interval.low and interval.high < claim.at_most:
        return "shows"
    if interval.high < claim.at_least or interval.low > claim.at_most:
        return "does not show"
    return "undecided"
