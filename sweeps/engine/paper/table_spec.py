"""The description of a table: the models it trains, the numbers it reads off them, and the paper's claims."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from bat_core.config import EVAL_PIXELS
from sweeps.engine.driver.query_spec import GradientQuery, ModelQuery, TransferQuery
from sweeps.engine.paper.reported import PAPER, PaperTable

if TYPE_CHECKING:
    from sweeps.engine.driver.model_queries import QueryAnswers
    from sweeps.engine.paper.curves import EvaluatedTrial

CITED = ""  # recipe of a row whose numbers the paper cites from other work


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the paper's table, or an additional one.

    `recipe` is trained with a training budget of `eps` pixels; a "+" selects the long schedule. `network` is an index
    into the scale's models.
    """

    name: str
    recipe: str
    eps: float = EVAL_PIXELS
    network: int | None = None

    @property
    def key(self) -> str:
        """Prefix of its trials' ids. Rows of other tables that train the same models have the same key."""
        network = "" if self.network is None else f"-net{self.network + 1}"
        budget = "" if self.recipe == "Undefended" else f"-eps{self.eps:g}"
        return f"{self.recipe}{network}{budget}"

    def trial_id(self, seed: int) -> str:
        """The id of its trial with this seed."""
        return f"{self.key}-seed{seed}"


def row(name: str, recipe: str | None = None, *, eps: float = EVAL_PIXELS, network: int | None = None) -> Row:
    """A row. Its recipe is `name`, unless `recipe` is given."""
    return Row(name=name, recipe=name if recipe is None else recipe, eps=eps, network=network)


def cited(name: str) -> Row:
    """A row whose numbers the paper cites from other work. Nothing is trained."""
    return Row(name=name, recipe=CITED)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The finished trials of a table's sweep, by id, and the query answers of their models."""

    evaluated: Mapping[str, "EvaluatedTrial"]
    answers: "QueryAnswers"
    seeds: tuple[int, ...]

    def of(self, row: Row) -> dict[int, "EvaluatedTrial"]:
        """The row's trials, by seed."""
        ids = {seed: row.trial_id(seed) for seed in self.seeds}
        return {seed: self.evaluated[trial] for seed, trial in ids.items() if trial in self.evaluated}


Values: TypeAlias = Mapping[int, float]  # by seed


class Column(ABC):
    """A number that is read off each of a row's models."""

    @abstractmethod
    def read(self, row: Row, found: Found) -> Values:
        """Its value by seed. Seeds without a value are omitted."""

    def queries(self, row: Row, found: Found) -> Sequence[ModelQuery]:  # noqa: ARG002
        """Queries that the trained models must answer for this column; none if the verdicts suffice."""
        return ()


@dataclass(frozen=True)
class Clean(Column):
    """Accuracy on clean test images."""

    def read(self, row: Row, found: Found) -> Values:
        return {seed: one.verdicts.clean_acc for seed, one in found.of(row).items()}


@dataclass(frozen=True)
class White(Column):
    """Accuracy under a white-box attack: the final iterate after `steps` steps, as in the paper."""

    attack: str
    steps: int = 1

    def read(self, row: Row, found: Found) -> Values:
        return {seed: self._accuracy(one) for seed, one in found.of(row).items()}

    def _accuracy(self, one: "EvaluatedTrial") -> float:
        outcome = one.verdicts.outcomes[self.attack]
        return float(outcome.curve("final")[outcome.steps.index(self.steps)])


@dataclass(frozen=True)
class Black(Column):
    """Accuracy on images crafted on another model: the `source` row's model with the same seed or, with `another`, the
    next one.

    `attack` is "fgsm" without random start or "ce20", PGD of 20 steps from a random start.
    """

    source: Row
    attack: str
    another: bool = False

    def read(self, row: Row, found: Found) -> Values:
        read = {seed: found.answers.crafted(source, row.trial_id(seed)) for seed, source in self._pairs(row, found)}
        return {seed: accuracies[self.attack] for seed, accuracies in read.items() if accuracies is not None}

    def queries(self, row: Row, found: Found) -> Sequence[ModelQuery]:
        return [TransferQuery(source=source, targets=(row.trial_id(seed),)) for seed, source in self._pairs(row, found)]

    def is_white_for(self, row: Row) -> bool:
        """Whether the attack would be a white-box attack for the row."""
        return row.key == self.source.key and not self.another

    def _pairs(self, row: Row, found: Found) -> list[tuple[int, str]]:
        """(seed, source trial) if both models are trained. A model is never paired with itself."""
        targets, sources = found.of(row), found.of(self.source)
        pairs = []
        for place, seed in enumerate(found.seeds):
            crafted_on = found.seeds[(place + self.another) % len(found.seeds)]
            source = self.source.trial_id(crafted_on)
            if seed in targets and crafted_on in sources and source != row.trial_id(seed):
                pairs.append((seed, source))
        return pairs


@dataclass(frozen=True)
class Gradient(Column):
    """A statistic of the squared L2 norm of the loss gradient with respect to the image, for images in [-1, 1].

    `which` selects test images: "all", "correct" or "wrong"; `statistic`: "min", "mean" or "max".
    """

    which: str
    statistic: str

    def read(self, row: Row, found: Found) -> Values:
        read = {seed: found.answers.gradients(row.trial_id(seed)) for seed in found.of(row)}
        values = {seed: norms.statistic(self.which, self.statistic) for seed, norms in read.items() if norms}
        return {seed: value for seed, value in values.items() if value is not None}

    def queries(self, row: Row, found: Found) -> Sequence[ModelQuery]:
        return [GradientQuery(trial=row.trial_id(seed)) for seed in found.of(row)]


Place: TypeAlias = tuple[str, str]  # names of a row and a column
CellKey: TypeAlias = tuple[Row, Column]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the paper about one or two numbers.

    It is true if `first` minus `second` (with `ratio`, the decimal logarithm of their ratio) lies within the limits.
    """

    description: str
    first: CellKey
    second: CellKey | None = None
    at_least: float = -math.inf
    at_most: float = math.inf
    ratio: bool = False


def more(description: str, first: CellKey, second: CellKey, *, by: float = 0.0) -> Claim:
    """`first` is above `second` by at least `by`."""
    return Claim(description=description, first=first, second=second, at_least=by)


def about(description: str, first: CellKey, second: CellKey, *, within: float) -> Claim:
    """The two differ by less than `within`."""
    return Claim(description=description, first=first, second=second, at_least=-within, at_most=within)


def at_most(description: str, first: CellKey, limit: float) -> Claim:
    """`first` is below the limit."""
    return Claim(description=description, first=first, at_most=limit)


def times(description: str, first: CellKey, second: CellKey, *, at_least: float) -> Claim:
    """`first` is at least `at_least` times `second`."""
    return Claim(description=description, first=first, second=second, at_least=math.log10(at_least), ratio=True)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One of the paper's tables.

    `images` is the paper's data set. The models are attacked with PGD and the suite `also`, with an evaluation budget
    of `eps` pixels and steps of `step` pixels. `lines` gives the cell of each row and column if the paper's rows are
    not models; otherwise every column is read for every row. `unit` is "%", or "" for plain numbers, which are drawn
    on a logarithmic axis.
    """

    number: int
    rows: tuple[Row, ...]
    columns: Mapping[str, Column]
    images: str = "cifar10"
    also: str = "diagnostic"
    eps: float = 8
    step: float = 2
    steps: tuple[int, ...] = (7, 20, 100, 200)
    losses: tuple[str, ...] = ("ce", "cw")
    lines: Mapping[Place, CellKey] | None = None
    unit: str = "%"
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def paper(self) -> PaperTable:
        """The table as the paper reports it."""
        return PAPER[self.number]

    @property
    def trained(self) -> tuple[Row, ...]:
        """The rows to train."""
        return tuple(one for one in self.rows if one.recipe != CITED)

    @property
    def networks(self) -> int:
        """The number of networks that it compares."""
        return max(((one.network or 0) + 1 for one in self.trained), default=1)

    def cells(self) -> Mapping[Place, CellKey]:
        """The row and column that each number is read from, row by row."""
        if self.lines is not None:
            return self.lines
        return {
            (one.name, name): (one, column)
            for one in self.trained
            for name, column in self.columns.items()
            if not (isinstance(column, Black) and column.is_white_for(one))
        }

    def queries(self, found: Found) -> list[ModelQuery]:
        """All queries to the trained models, each source once."""
        cells = [*self.cells().values()]
        cells += [cell for claim in self.claims for cell in (claim.first, claim.second) if cell]
        asked = [query for one, column in cells for query in column.queries(one, found)]
        return _merge_queries(asked)


def _merge_queries(queries: Sequence[ModelQuery]) -> list[ModelQuery]:
    crafted: dict[str, list[str]] = {}
    others: dict[str, ModelQuery] = {}
    for query in queries:
        if isinstance(query, TransferQuery):
            crafted.setdefault(query.source, []).extend(query.targets)
        else:
            others[query.name] = query
    joined = [
        TransferQuery(source=source, targets=tuple(dict.fromkeys(targets))) for source, targets in crafted.items()
    ]
    return [*others.values(), *joined]
