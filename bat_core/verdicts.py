"""Per-example results of attacks, and the curves and worst cases computed from them."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from bat_core.correctness import NO_ANSWER
from bat_core.errors import InputError
from bat_core.jsontext import read_json
from bat_core.paths import Rooted, check_regular, write_atomically

Reading: TypeAlias = Literal["final", "worst"]
READINGS: tuple[Reading, ...] = ("final", "worst")
UNBROKEN = -1  # attacked and not broken
SKIPPED = -2  # not attacked, because an earlier attack had broken it
METADATA = "bat_sweeps"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one attack on N examples.

    `broken_at` (N,) is the first step whose iterate was misclassified: 0 if the clean image or the start already
    was, UNBROKEN if none was, SKIPPED if an earlier attack had broken the example. `final` (N, len(steps)) is
    whether x^k was classified correctly, for each k in `steps`. `predicted` (N,) is the class that the model gave
    where the attack broke it, else NO_ANSWER; None if that was not kept.
    """

    broken_at: npt.NDArray[np.int64]
    steps: tuple[int, ...] = ()
    final: npt.NDArray[np.bool_]
    predicted: npt.NDArray[np.int64] | None = None

    @property
    def robust(self) -> npt.NDArray[np.bool_]:
        """(N,): correct when clean and at every iterate. Skipped examples are not robust."""
        return self.broken_at == UNBROKEN

    def curve(self, reading: Reading) -> npt.NDArray[np.float64]:
        """Accuracy after k steps for each k in `steps`: (len(steps),) in [0, 1].

        "final" counts an example as broken if x^k is misclassified, as the paper does; "worst" if any of the clean
        image and x^0 ... x^k is.
        """
        if reading == "final":
            return self.final.mean(axis=0)
        return np.array([np.mean(self.robust | (self.broken_at > step)) for step in self.steps])

    def take(self, positions: npt.NDArray[np.int64]) -> "Outcome":
        """The outcome of the examples at `positions`, in that order."""
        return Outcome(
            broken_at=self.broken_at[positions],
            steps=self.steps,
            final=self.final[positions],
            predicted=None if self.predicted is None else self.predicted[positions],
        )

    @classmethod
    def concat(cls, parts: Sequence["Outcome"]) -> "Outcome":
        """The outcome of the examples of all parts, in order."""
        return cls(
            broken_at=np.concatenate([part.broken_at for part in parts]),
            steps=parts[0].steps,
            final=np.concatenate([part.final for part in parts]),
            predicted=_concatenated([part.predicted for part in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The results on N examples. `rows` are their rows in the source; `outcomes` maps attack names to outcomes.

    `clean_predicted` (N,) is the class of each clean image; None if that was not kept.
    """

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    clean_correct: npt.NDArray[np.bool_]
    outcomes: Mapping[str, Outcome]
    clean_predicted: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def clean_acc(self) -> float:
        """Accuracy on clean images, in [0, 1]."""
        return float(self.clean_correct.mean())

    @property
    def one_class(self) -> bool:
        """Whether the images have several classes and the model is correct on one class at most.

        This includes models that predict one class for every image: they cannot be attacked and have learnt nothing.
        """
        return len(set(self.labels.tolist())) > 1 >= len(set(self.labels[self.clean_correct].tolist()))

    @property
    def robust_correct(self) -> npt.NDArray[np.bool_]:
        """(N,): correct when clean and at every iterate of every attack."""
        return self.robust_after(len(self.outcomes))

    @property
    def robust_acc(self) -> float:
        """Accuracy in [0, 1] in the per-example worst case over all attacks.

        This is a robust accuracy only if the attacks are a suite that verifies (`suites.is_verified`). Under PGD alone
        it is an upper bound, which a masked model meets with nothing behind it.
        """
        return float(self.robust_correct.mean())

    def robust_after(self, count: int) -> npt.NDArray[np.bool_]:
        """(N,): the examples that remain robust after the first `count` attacks."""
        outcomes = list(self.outcomes.values())[:count]
        return np.logical_and.reduce([self.clean_correct, *[outcome.robust for outcome in outcomes]])

    def worst_predicted(self) -> npt.NDArray[np.int64] | None:
        """(N,): the class that each example gets in the worst case: its label if it is robust, else the class of the
        clean image or of the first attack that broke it. None if a file of an earlier version did not keep them.
        """
        if self.clean_predicted is None:
            return None
        worst = np.where(self.clean_correct, self.labels, self.clean_predicted)
        open_still = self.clean_correct.copy()
        for outcome in self.outcomes.values():
            if outcome.predicted is None:
                return None
            broken = open_still & (outcome.broken_at >= 0)
            worst[broken] = outcome.predicted[broken]
            open_still &= ~broken
        return worst

    def curve(self, name: str, reading: Reading) -> npt.NDArray[np.float64]:
        """`Outcome.curve` of the attack called `name`."""
        return self.outcomes[name].curve(reading)

    def with_outcome(self, name: str, outcome: Outcome) -> "Verdicts":
        """The same examples after one more attack.

        Raises:
            ValueError: an attack of that name exists, or the outcome has another number of examples.
        """
        if name in self.outcomes or len(outcome.broken_at) != len(self):
            raise ValueError(
                f"attack {name!r} with {len(outcome.broken_at)} examples cannot be added to {len(self)} verdicts under"
                f" {list(self.outcomes)}: names must be unique and numbers of examples equal"
            )
        return replace(self, outcomes={**self.outcomes, name: outcome})

    def without_outcomes(self) -> "Verdicts":
        """The same examples before any attack."""
        return replace(self, outcomes={})

    def take(self, positions: npt.NDArray[np.int64]) -> "Verdicts":
        """The verdicts on the examples at `positions`, in that order."""
        return Verdicts(
            rows=self.rows[positions],
            labels=self.labels[positions],
            clean_correct=self.clean_correct[positions],
            outcomes={name: outcome.take(positions) for name, outcome in self.outcomes.items()},
            clean_predicted=None if self.clean_predicted is None else self.clean_predicted[positions],
        )

    @classmethod
    def concat(cls, parts: Sequence["Verdicts"]) -> "Verdicts":
        """The verdicts on all parts' examples, sorted by row.

        Raises:
            ValueError: as `chain`.
        """
        whole = cls.chain(parts)
        return whole.take(np.argsort(whole.rows, kind="stable"))

    @classmethod
    def chain(cls, parts: Sequence["Verdicts"]) -> "Verdicts":
        """The verdicts on all parts' examples, in their order.

        Raises:
            ValueError: the parts differ in their attacks or steps, or a row occurs twice.
        """
        attacks = [{name: outcome.steps for name, outcome in part.outcomes.items()} for part in parts]
        if any(one != attacks[0] for one in attacks):
            raise ValueError("verdicts of different attacks or steps cannot be concatenated")
        rows = np.concatenate([part.rows for part in parts])
        if len(np.unique(rows)) < len(rows):
            raise ValueError("duplicate rows in verdicts: each example may occur once")
        return cls(
            rows=rows,
            labels=np.concatenate([part.labels for part in parts]),
            clean_correct=np.concatenate([part.clean_correct for part in parts]),
            outcomes={name: Outcome.concat([part.outcomes[name] for part in parts]) for name in attacks[0]},
            clean_predicted=_concatenated([part.clean_predicted for part in parts]),
        )

    def write(self, path: Rooted) -> None:
        """Write a Parquet file, atomically, with one row per example.

        Columns: index, label, clean_correct, robust_correct; and for each attack attacked_<name> (false:
        skipped), broken_at_<name> (null: never broken) and final_<name>_<k>. Where they are known: clean_predicted,
        and predicted_<name> (null: never broken).
        """
        columns: dict[str, pa.Array] = {
            "index": pa.array(self.rows),
            "label": pa.array(self.labels),
            "clean_correct": pa.array(self.clean_correct),
            "robust_correct": pa.array(self.robust_correct),
        }
        if self.clean_predicted is not None:
            columns["clean_predicted"] = pa.array(self.clean_predicted)
        for name, outcome in self.outcomes.items():
            columns[f"attacked_{name}"] = pa.array(outcome.broken_at != SKIPPED)
            columns[f"broken_at_{name}"] = pa.array(outcome.broken_at, mask=outcome.broken_at < 0)
            for position, step in enumerate(outcome.steps):
                columns[f"final_{name}_{step}"] = pa.array(outcome.final[:, position])
            if outcome.predicted is not None:
                columns[f"predicted_{name}"] = pa.array(outcome.predicted, mask=outcome.predicted < 0)
        described = {"steps": {name: list(outcome.steps) for name, outcome in self.outcomes.items()}}
        table = pa.table(columns).replace_schema_metadata({METADATA: json.dumps(described)})
        content = io.BytesIO()
        pq.write_table(table, content)
        write_atomically(path, content.getvalue())

    @classmethod
    def read(cls, path: Path) -> "Verdicts":
        """Read a file that `write` wrote.

        Raises:
            InputError: the file is truncated or is not a verdicts file.
        """
        try:
            table = pq.read_table(check_regular(path), partitioning=None)
            steps = read_json((table.schema.metadata or {})[METADATA.encode()])["steps"]
            return cls(
                rows=checked_column(table, "index", pa.int64()),
                labels=checked_column(table, "label", pa.int64()),
                clean_correct=checked_column(table, "clean_correct", pa.bool_()),
                outcomes={name: _read_outcome(table, name, tuple(read_at)) for name, read_at in steps.items()},
                clean_predicted=_classes(table, "clean_predicted"),
            )
        except (pa.ArrowException, KeyError, ValueError, TypeError, AttributeError, OSError, MemoryError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{str(path)!r} is not a complete verdicts file: {reason}") from error


def checked_column(table: pa.Table, name: str, kind: pa.DataType) -> npt.NDArray[Any]:
    """A column of a file that may come from anyone, as an array.

    Raises:
        KeyError: there is none of that name.
        ValueError: it has another type, or nulls.
    """
    column = table.column(name)
    if column.type != kind or column.null_count:
        raise ValueError(
            f"column {name} has type {column.type} with {column.null_count} nulls, not {kind} without nulls"
        )
    return column.to_numpy()


def robust_in_all(several: Sequence[Verdicts]) -> npt.NDArray[np.bool_]:
    """(N,): the examples that are robust in each of several verdicts on them, as under the union of several threats.

    Raises:
        ValueError: the verdicts are on different examples.
    """
    if any(not np.array_equal(one.rows, several[0].rows) for one in several):
        raise ValueError("the verdicts are on different examples: their union needs the same ones")
    return np.logical_and.reduce([one.robust_correct for one in several])


def _read_outcome(table: pa.Table, name: str, steps: tuple[int, ...]) -> Outcome:
    attacked = checked_column(table, f"attacked_{name}", pa.bool_())
    reached = table.column(f"broken_at_{name}")
    if reached.type != pa.int64():
        raise ValueError(f"column broken_at_{name} has type {reached.type}, not int64")
    broken_at = reached.fill_null(UNBROKEN).to_numpy()
    final = [checked_column(table, f"final_{name}_{step}", pa.bool_()) for step in steps]
    return Outcome(
        broken_at=np.where(attacked, broken_at, SKIPPED),
        steps=steps,
        final=np.stack(final, axis=1) if final else np.empty((len(table), 0), dtype=np.bool_),
        predicted=_classes(table, f"predicted_{name}"),
    )


def _classes(table: pa.Table, name: str) -> npt.NDArray[np.int64] | None:
    """A column of classes; None in a file of an earlier version, which has none."""
    if name not in table.column_names:
        return None
    if table.column(name).type != pa.int64():
        raise ValueError(f"column {name} has type {table.column(name).type}, not int64")
    return table.column(name).fill_null(NO_ANSWER).to_numpy()


def _concatenated(parts: Sequence[npt.NDArray[np.int64] | None]) -> npt.NDArray[np.int64] | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None
