"""The command `leaderboard`: finished models of many folders in one table per data set, split and budget."""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

import bat_core
from bat_core.errors import InputError
from bat_core.norms import LINF, Norm, Unit
from bat_core.paths import below, chosen, write_atomically
from bat_core.stats import wilson
from bat_core.suites import is_verified
from sweeps.engine.cli.live_table import MASKING_STYLES
from sweeps.engine.cli.text import UNVERIFIED_MARK, counted, percent, percent_range, span
from sweeps.engine.evaluation.attack import SPEC as EVALUATION
from sweeps.engine.evaluation.attack import SUMMARY, EvaluationFolder
from sweeps.engine.evaluation.summaries import read_summary
from sweeps.engine.pages.document import ROBUST_COLUMNS, Cell, Page, Section, Table, render, robust_cells
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import SPEC as SWEEP

COLUMNS = ("model", "clean", *ROBUST_COLUMNS, "checks", "suite", "n")
MORE = ("recipe", "trained at", "seed", "training", "folder")
NOTE = (
    "Robust: correct against every attack of the suite, with a 95 % Wilson interval over images. Verified: a verifying"
    " suite is among the attacks. Stronger attacks can only lower a number that is not verified. Models whose suites"
    " differ are not compared by the same measure."
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A finished model. Accuracies and budgets are in [0, 1]; `hours` and what a recipe has are None if unknown."""

    dataset: str
    split: str
    eps: float
    eps_pixels: float
    model: str
    folder: str
    clean_acc: float
    robust_acc: float
    n: int
    suite: str
    verdict: str
    recipe: str | None = None
    train_eps_pixels: float | None = None
    seed: int | None = None
    hours: float | None = None
    norm: Norm = LINF

    @property
    def verified(self) -> bool:
        """Whether a verifying suite stands behind its robust accuracy."""
        return is_verified(self.suite)

    @property
    def interval(self) -> tuple[float, float]:
        """The robust accuracy's 95 % Wilson interval."""
        return wilson(round(self.robust_acc * self.n), self.n)

    @property
    def unit(self) -> Unit:
        """How its budgets are written."""
        return Unit(self.eps / self.eps_pixels, self.norm)

    @property
    def group(self) -> str:
        """What it can be compared within."""
        return f"{self.dataset}, {self.split} images, {self.unit.budget(self.eps)}"


def run_leaderboard(
    folders: Sequence[Path], *, dataset: str | None = None, csv_file: Path | None = None, html_file: Path | None = None
) -> int:
    """Show the models in `folders`, and write them to files.

    Returns:
        The exit code: 0.
    Raises:
        InputError: a folder has no sweep or evaluation, or no model is finished.
    """
    if not folders:
        raise InputError("no folder is given: name the folders of sweeps or evaluations, or one that has them")
    entries = [one for one in collect(folders) if dataset in (None, one.dataset)]
    if not entries:
        on = f" on {dataset!r}" if dataset else ""
        raise InputError(f"no finished model{on} in {', '.join(map(str, folders))}")
    entries = sorted(entries, key=_rank)
    show(Console(), entries)
    for path, text in ((csv_file, as_csv), (html_file, as_page)):
        if path is not None:
            try:
                write_atomically(chosen(path.absolute()), text(entries))
            except OSError as error:
                raise InputError(f"{str(path)!r} cannot be written: {error.strerror}") from error
    return 0


def collect(folders: Sequence[Path]) -> list[Entry]:
    """The finished models of every sweep and evaluation in `folders`, each folder once.

    Raises:
        InputError: a folder has neither, or one of its files is damaged.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        here = [folder.resolve(), *sorted(one for one in folder.resolve().glob("*/") if not one.is_symlink())]
        known = [one for one in here if (one / SWEEP).exists() or (one / EVALUATION).exists()]
        if not known:
            raise InputError(f"{str(folder)!r} has no sweep or evaluation: name their folders, or the one above them")
        found |= dict.fromkeys(known)
    return [one for path in found for one in (_sweep(path) if (path / SWEEP).exists() else _evaluation(path))]


def _sweep(path: Path) -> Iterator[Entry]:
    folder = SweepFolder(path)
    sweep = folder.load()
    for trial, status in folder.statuses(sweep):
        if (result := status.result) is None:
            continue
        config = trial.config
        yield Entry(
            dataset=config.data.name,
            split=str(result.get("split", "test")),
            eps=config.attack.eps,
            eps_pixels=round(config.attack.eps / sweep.pixel, 6),
            norm=sweep.norm,
            model=trial.id,
            folder=path.name,
            clean_acc=result["clean_acc"],
            robust_acc=result["robust_acc"],
            n=result["robust_n"],
            suite=result["suite"],
            verdict=result["verdict"],
            recipe=config.recipe.name,
            train_eps_pixels=sweep.budget_in_pixels(trial),
            seed=config.seed,
            hours=status.training_hours(sweep.resources.num_workers),
        )


def _evaluation(path: Path) -> Iterator[Entry]:
    folder = EvaluationFolder(path)
    evaluation = folder.load()
    for model in evaluation.models:
        place = below(folder.model(model), SUMMARY)
        if not place.exists():
            continue
        one = read_summary(place)
        yield Entry(
            dataset=evaluation.dataset,
            split=evaluation.split,
            eps=evaluation.eps,
            eps_pixels=evaluation.eps_in_pixels,
            norm=evaluation.norm,
            model=model.source.name,
            folder=path.name,
            clean_acc=one.clean_acc,
            robust_acc=one.robust_acc,
            n=one.n,
            suite=one.suite,
            verdict=one.verdict,
        )


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
    for group, members in _groups(entries).items():
        table = RichTable(title=f"{group}: {counted(len(members), 'model')}", title_justify="left", highlight=False)
        for name in ("model", "clean", "verified (95 %)", f"{UNVERIFIED_MARK}not ver.", "checks", "suite, n"):
            words = name in {"model", "suite, n"}
            table.add_column(name, justify="left" if words else "right", overflow="fold", no_wrap=not words)
        for one in members:
            low, high = one.interval
            number = percent(one.robust_acc)
            verified = f"{number} ({100 * low:.0f}-{100 * high:.0f})" if one.verified else ""
            checks = f"[{MASKING_STYLES.get(one.verdict, 'none')}]{escape(one.verdict)}[/]"
            name = escape(f"{one.folder}/{one.model}" if several else one.model)
            others = "" if one.verified else f"{UNVERIFIED_MARK}{number}"
            table.add_row(name, percent(one.clean_acc), verified, others, checks, escape(f"{one.suite}, {one.n}"))
        console.print(table)
    console.print(f"{UNVERIFIED_MARK}: not verified. {NOTE}", highlight=False, markup=False)


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


def as_page(entries: Sequence[Entry]) -> str:
    """All groups as one self-contained page."""
    groups = _groups(entries)
    best = next((one for one in entries if one.verified), entries[0])
    word = "verified" if best.verified else "not verified"
    sections: list[Section] = [
        Table(heading=group, columns=[*COLUMNS, *MORE], rows=[_row(one) for one in members], note=NOTE)
        for group, members in groups.items()
    ]
    return render(
        Page(
            title=f"Leaderboard: {counted(len(entries), 'model')}",
            question="Which of these models is the most robust, by data set and budget?",
            answer=(
                f"On {best.group}, {best.model} of {best.folder} is first: {percent(best.robust_acc)} robust ({word},"
                f" {percent_range(*best.interval)}), {percent(best.clean_acc)} clean."
                f" {sum(one.verified for one in entries)} of {counted(len(entries), 'model')} are verified."
            ),
            sections=sections,
            version=f"bat-sweeps {bat_core.__version__}",
        )
    )


def _row(one: Entry) -> list[Cell | str]:
    robust = robust_cells(one.robust_acc, one.interval, verified=one.verified)
    clean, checks = Cell(percent(one.clean_acc), one.clean_acc), Cell(one.verdict, look=one.verdict)
    count, unit = one.train_eps_pixels, one.unit
    budget = Cell("-") if count is None else Cell(unit.amount(count * unit.size, 3), count)
    seed = Cell("-") if one.seed is None else Cell(str(one.seed), one.seed)
    hours = Cell("-") if one.hours is None else Cell(span(one.hours), one.hours)
    row: list[Cell | str] = [Cell(one.model, look="name"), clean, *robust, checks, one.suite]
    return [*row, Cell(str(one.n), one.n), one.recipe or "-", budget, seed, hours, one.folder]
