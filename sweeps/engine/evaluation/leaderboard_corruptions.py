"""Accuracy under corruptions in the leaderboard: a table per data set and source of the images."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from bat_core.config import from_dict
from bat_core.errors import InputError
from bat_core.jsontext import read_json
from bat_core.paths import below, read_regular
from sweeps.engine.evaluation.attack import SUMMARY
from sweeps.engine.evaluation.corruption_report import HEADLINE, NOTE, numbers_of, terminal_table
from sweeps.engine.evaluation.corruption_spec import SPEC, CorruptionFolder
from sweeps.engine.pages.document import Cell, Table


@dataclass(frozen=True, kw_only=True)
class UnderCorruptions:
    """A model's accuracy under corruptions, as its summary.json has it."""

    model: str
    dataset: str
    n: int
    images: str
    clean_acc: float
    corrupted_acc: float
    corrupted_acc_interval: tuple[float, ...]
    mce: float | None

    def __post_init__(self) -> None:
        if len(self.corrupted_acc_interval) != 2:
            raise InputError("its interval needs a low and a high end")

    @property
    def group(self) -> str:
        """What it can be compared within."""
        return f"{self.dataset} under corruptions, {self.images}, n = {self.n}"

    @property
    def numbers(self) -> list[str]:
        """The columns of `HEADLINE` but the first."""
        return numbers_of(vars(self))


def has_corruptions(folder: Path) -> bool:
    """Whether a folder is that of an evaluation under corruptions."""
    return (folder / SPEC).exists()


def under_corruptions(folders: Sequence[Path], dataset: str | None) -> list[UnderCorruptions]:
    """The models in folders of `has_corruptions`, by group and falling accuracy.

    Raises:
        InputError: a file is damaged.
    """
    found = []
    for path in folders:
        folder = CorruptionFolder(path)
        for model in folder.load().models:
            place = below(folder.model(model), SUMMARY)
            if place.exists():
                found.append(_read(place))
    return sorted(
        (one for one in found if dataset in (None, one.dataset)), key=lambda one: (one.group, -one.corrupted_acc)
    )


def _read(place: Path) -> UnderCorruptions:
    try:
        content = read_json(read_regular(place))
        return from_dict(UnderCorruptions, {one.name: content[one.name] for one in fields(UnderCorruptions)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(place)!r} is not a complete summary: {error}") from error


def grouped(found: Sequence[UnderCorruptions]) -> dict[str, list[UnderCorruptions]]:
    """By group."""
    groups: dict[str, list[UnderCorruptions]] = {}
    for one in found:
        groups.setdefault(one.group, []).append(one)
    return groups


def show_corruptions(console: Console, found: Sequence[UnderCorruptions]) -> None:
    """Print one table per group."""
    for group, members in grouped(found).items():
        table = terminal_table(HEADLINE, group)
        for one in members:
            table.add_row(escape(one.model), *one.numbers)
        console.print(table)
    if found:
        console.print(NOTE, highlight=False, markup=False)


def corruption_tables(found: Sequence[UnderCorruptions]) -> list[Table]:
    """The same for a page."""
    return [
        Table(
            heading=group,
            columns=HEADLINE,
            rows=[[Cell(one.model, look="name"), *one.numbers] for one in members],
            note=NOTE,
        )
        for group, members in grouped(found).items()
    ]
