"""A table's numbers, beside the paper's: pure functions of records and probes."""

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from scipy import stats

from bat_core.config import TrialConfig
from bat_core.stats import Interval, wilson
from sweeps.engine.driver.model_queries import QueryAnswers
from sweeps.engine.paper.curves import EvaluatedTrial, evaluated_trials
from sweeps.engine.paper.table_spec import CITED, CellKey, Claim, Found, Row, Table, Values
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Sweep

NOT_RUN: Literal["not run"] = "not run"
SAYS_NOTHING: Literal["says nothing"] = "says nothing"  # of a claim about a model that answers one class alone
Word: TypeAlias = Literal["shows", "does not show", "undecided", "says nothing", "not run"]


@dataclass(frozen=True)
class Number:
    """One value a seed, in the column's own unit: accuracies in [0, 1], over n test images each; n = 0 for others."""

    values: Mapping[int, float]
    n: int

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def interval(self) -> Interval:
        """95 %, the wider of two: Wilson's, for another draw of test images, and Student's, for other seeds.

        Of a value that is no accuracy, from the lowest seed to the highest.
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
    """What a row's models hold beyond the paper: their verified worst case, and whether to believe it.

    `collapsed` counts those that fell to catastrophic overfitting, `one_class` those that are right on one class alone.
    """

    row: Row
    clean: Number
    robust: Number
    suite: str
    verdicts: Mapping[str, int]
    collapsed: int
    one_class: int

    @property
    def masking_status(self) -> str:
        """The models' verdicts, the worst first."""
        order = [word for word in ("masked", "suspect", "clear") if word in self.verdicts]
        total = sum(self.verdicts.values())
        return ", ".join(word if self.verdicts[word] == total else f"{word} {self.verdicts[word]}" for word in order)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the table: for each column the paper's number, in its unit, and ours.

    Where there is none it is None; a column that does not belong to the row is missing from `ours`.
    """

    name: str
    paper: Mapping[str, float | None]
    ours: Mapping[str, Number | None]
    robustness: Robustness | None
    cited: bool


@dataclass(frozen=True, kw_only=True)
class ClaimResult:
    """A claim of the paper's, and what our numbers say of it."""

    claim: Claim
    word: Word
    mean: float | None = None
    interval: Interval | None = None
    seeds: int = 0


@dataclass(frozen=True)
class Result:
    """Everything a finished table shows."""

    table: Table
    sweep: Sweep
    folder: SweepFolder

    @cached_property
    def found(self) -> Found:
        """Its trials and probes."""
        return found_in(self.sweep, self.folder)

    @property
    def config(self) -> TrialConfig:
        """Of its first trial; all share images, training and attacks but for their recipes."""
        return self.sweep.trials[0].config

    @cached_property
    def n(self) -> int:
        """Test images behind each number."""
        return max((len(one.verdicts) for one in self.found.evaluated.values()), default=0)

    @cached_property
    def lines(self) -> list[Line]:
        """All rows in order, with those of the paper that nothing of ours stands beside."""
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
        """What the models of each trained row hold, by the row's key."""
        rows = {row.key: (row, self.found.of(row)) for row in self.table.trained}
        return {key: _robustness(row, models) for key, (row, models) in rows.items() if models}

    @cached_property
    def claim_results(self) -> list[ClaimResult]:
        """What our numbers say of each of the paper's claims."""
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
        """Whether some model that the claim is about answers one class for every image."""
        rows = [cell[0] for cell in (claim.first, claim.second) if cell is not None]
        return any(row.key in self.robustness and self.robustness[row.key].one_class for row in rows)


def found_in(sweep: Sweep, folder: SweepFolder) -> Found:
    """The finished trials of a sweep, and the answers that lie beside them."""
    evaluated = {one.trial.id: one for one in evaluated_trials(sweep, folder)}
    seeds = tuple(dict.fromkeys(trial.config.seed for trial in sweep.trials))
    return Found(evaluated=evaluated, answers=QueryAnswers(folder), seeds=seeds)


def _robustness(row: Row, models: Mapping[int, EvaluatedTrial]) -> Robustness:
    some = next(iter(models.values()))
    masked = (one.suite for one in models.values() if one.masking_status == "masked")
    return Robustness(
        row=row,
        clean=Number({seed: one.verdicts.clean_acc for seed, one in models.items()}, len(some.verdicts)),
        robust=Number({seed: one.headline.robust_acc for seed, one in models.items()}, len(some.headline)),
        suite=next(masked, some.suite),
        verdicts=Counter(one.masking_status for one in models.values()),
        collapsed=sum(one.collapsed is not None for one in models.values()),
        one_class=sum(one.verdicts.one_class for one in models.values()),
    )


def _word(claim: Claim, interval: Interval) -> Word:
    if claim.at_least < interval.low and interval.high < claim.at_most:
        return "shows"
    if interval.high < claim.at_least or interval.low > claim.at_most:
        return "does not show"
    return "undecided"
