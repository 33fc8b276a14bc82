"""The command `leaderboard`: finished models of many folders in one table per data set, split and budget."""

import csv
import io
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

import bat_core
from bat_core.errors import InputError
from bat_core.paths import chosen, write_atomically
from sweeps.engine.cli.live_table import MASKING_STYLES
from sweeps.engine.cli.redact import redacted_uri
from sweeps.engine.cli.text import UNVERIFIED_HEAD, UNVERIFIED_MARK, counted, percent, percent_range, span
from sweeps.engine.evaluation.leaderboard_corruptions import (
    UnderCorruptions,
    corruption_tables,
    has_corruptions,
    show_corruptions,
    under_corruptions,
)
from sweeps.engine.evaluation.leaderboard_entries import Entry, beside, collect, known_folders, protocol, tracked
from sweeps.engine.pages.document import (
    NONE,
    ROBUST_COLUMNS,
    UNVERIFIED_COLUMNS,
    Cell,
    Page,
    Section,
    Table,
    render,
    robust_cells,
)

COLUMNS = ("model", "clean", *ROBUST_COLUMNS, "checks", "suite", "n")
MORE = ("recipe", "trained at", "seed", "training", "network", "training data", "folder")
OFTEN_SHARED = ("suite", "n", *(name for name in MORE if name != "training"))
NOTE = (
    "Robust: correct against every attack of the suite, with a 95 % Wilson interval over images. Verified: a verifying"
    " suite is among the attacks. Stronger attacks can only lower a number that is not verified. Models whose suites"
    " differ are not compared by the same measure."
)


def run_leaderboard(
    sources: Sequence[str],
    *,
    dataset: str | None = None,
    csv_file: Path | None = None,
    html_file: Path | None = None,
    robustbench: int = 0,
) -> int:
    """Show the models of sweeps and evaluations, and write them to files.

    Args:
        sources: folders, and URIs of tracking servers or databases.
        robustbench: how many of RobustBench's published entries to show beside them, per data set and budget.
    Returns:
        The exit code: 0.
    Raises:
        InputError: a folder has no sweep or evaluation, a server does not answer, or no model is finished.
    """
    if not sources:
        raise InputError("no folder is given: name the folders of sweeps or evaluations, or one that has them")
    uris = [source for source in sources if "://" in source]
    folders = [Path(source) for source in sources if source not in uris]
    entries = [one for one in [*collect(folders), *tracked(uris)] if dataset in (None, one.dataset)]
    corrupted = under_corruptions([one for one in known_folders(folders) if has_corruptions(one)], dataset)
    if not entries and not corrupted:
        on = f" on {dataset!r}" if dataset else ""
        raise InputError(f"no finished model{on} in {', '.join(map(redacted_uri, sources))}")
    entries = sorted([*entries, *beside(entries, robustbench)], key=_rank)
    if entries:
        show(Console(), entries)
    show_corruptions(Console(), corrupted)
    for path, text in ((csv_file, as_csv(entries)), (html_file, as_page(entries, corrupted))):
        if path is not None:
            try:
                write_atomically(chosen(path.absolute()), text)
            except OSError as error:
                raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from error
    return 0


def _rank(one: Entry) -> tuple[str, bool, float, float]:
    """By group; within it the verified models first, each kind by falling robust and clean accuracy."""
    return one.group, not one.verified, -one.robust_acc, -one.clean_acc


def _groups(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for one in entries:
        groups.setdefault(one.group, []).append(one)
    return groups


def show(console: Console, entries: Sequence[Entry]) -> None:
    """Print one table per group, within the terminal's width."""
    several = len({one.folder for one in entries}) > 1
    heads = [] if all(one.verified for one in entries) else [UNVERIFIED_HEAD]
    for group, members in _groups(entries).items():
        table = RichTable(title=f"{group}: {counted(len(members), 'model')}", title_justify="left", highlight=False)
        for name in ("model", "clean", "verified (95 %)", *heads, "checks", "suite, n"):
            words = name in {"model", "suite, n"}
            table.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=not words)
        for one in members:
            low, high = one.interval
            number = percent(one.robust_acc)
            verified = f"{number} ({100 * low:.0f}-{100 * high:.0f})" if one.verified else ""
            checks = f"[{MASKING_STYLES.get(one.verdict, 'none')}]{escape(one.verdict)}[/]"
            name = escape(f"{one.folder}/{one.model}" if several else one.model)
            others = ["" if one.verified else f"{UNVERIFIED_MARK}{number}" for _ in heads]
            table.add_row(name, percent(one.clean_acc), verified, *others, checks, escape(f"{one.suite}, {one.n}"))
        console.print(table)
        for line in protocol(members):
            console.print(line, highlight=False, markup=False)
    console.print(f"{UNVERIFIED_MARK}: not verified. {NOTE}" if heads else NOTE, highlight=False, markup=False)


def as_csv(entries: Sequence[Entry]) -> str:
    """One line per model. A robust accuracy is in `robust_verified` or in `robust_not_verified`, never in both."""
    names = [field.name for field in fields(Entry) if field.name != "robust_acc"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "robust_verified", "robust_not_verified", "low", "high"])
    for one in entries:
        number = round(one.robust_acc, 6)
        numbers = (number, "") if one.verified else ("", number)
        shared = ["" if (value := getattr(one, name)) is None else _plain(value) for name in names]
        writer.writerow([*shared, *numbers, *(round(end, 6) for end in one.interval)])
    return text.getvalue()


def _plain(value: object) -> object:
    """A value for a spreadsheet, in which no text begins a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value


def as_page(entries: Sequence[Entry], corrupted: Sequence[UnderCorruptions] = ()) -> str:
    """All groups as one self-contained page."""
    groups, mine = _groups(entries), [one for one in entries if not one.published]
    sections: list[Section] = [
        Table(
            heading=group,
            columns=[*COLUMNS, *MORE],
            rows=[_row(one) for one in members],
            note=" ".join([NOTE, *protocol(members)]),
        )
        .without_empty(UNVERIFIED_COLUMNS)
        .without_common(OFTEN_SHARED)
        for group, members in groups.items()
    ]
    return render(
        Page(
            title=f"Leaderboard: {counted(len(mine) + len(corrupted), 'model')}",
            question="Which of these models is the most robust, by data set and budget?",
            answer=_answer(mine) if mine else "No model was attacked: see the tables of accuracy under corruptions.",
            sections=[*sections, *corruption_tables(corrupted)],
            version=f"bat-sweeps {bat_core.__version__}",
        )
    )


def _answer(mine: Sequence[Entry]) -> str:
    best = next((one for one in mine if one.verified), mine[0])
    word = "verified" if best.verified else "not verified"
    return (
        f"On {best.group}, {best.model} of {best.folder} is first: {percent(best.robust_acc)} robust ({word},"
        f" {percent_range(*best.interval)}), {percent(best.clean_acc)} clean."
        f" {sum(one.verified for one in mine)} of {counted(len(mine), 'model')} are verified."
    )


def _row(one: Entry) -> list[Cell | str]:
    robust = robust_cells(one.robust_acc, one.interval, verified=one.verified)
    clean, checks = Cell(percent(one.clean_acc), one.clean_acc), Cell(one.verdict, look=one.verdict)
    count, unit = one.train_eps_pixels, one.unit
    budget = NONE if count is None else Cell(unit.amount(count * unit.size, 3), count)
    seed = NONE if one.seed is None else Cell(str(one.seed), one.seed)
    hours = NONE if one.hours is None else Cell(span(one.hours), one.hours)
    row: list[Cell | str] = [Cell(one.model, look="name"), clean, *robust, checks, Cell(one.suite, look="name")]
    return [
        *row,
        Cell(str(one.n), one.n),
        one.recipe or "-",
        budget,
        seed,
        hours,
        one.architecture or "-",
        one.training_data or "-",
        one.folder,
    ]
