"""Several threats at once: an evaluation of each in a folder of its own, and their union, the per-example worst."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

import bat_core
from bat_core.errors import InputError, check_file_name
from bat_core.jsontext import read_json
from bat_core.norms import UNION
from bat_core.paths import below, chosen, make_folder, read_regular, write_atomically
from bat_core.stats import wilson
from bat_core.suites import is_verified
from bat_core.verdicts import Verdicts, robust_in_all
from sweeps.engine.cli.app import command_line
from sweeps.engine.cli.markdown import document, pipe_table
from sweeps.engine.cli.options import timestamped
from sweeps.engine.cli.text import UNVERIFIED_MARK, percent, percent_range
from sweeps.engine.cli.threat import Threat, refuse_beside
from sweeps.engine.evaluation.attack import SPEC, EvaluationFolder
from sweeps.engine.evaluation.options import EvaluateOptions
from sweeps.engine.evaluation.summaries import read_summary
from sweeps.engine.pages.document import PAGE, Cell, Commands, Page, Table, render
from sweeps.engine.storage.files import refuse_if_used, relative
from sweeps.engine.sweep.records import VERDICTS

THREATS = "threats.json"
TABLES = ("table.md", "table.csv")
NOTE = (
    "Union: correct when clean and under every attack of every threat, example by example, so at most the lowest of the"
    f" others. {UNVERIFIED_MARK}: not verified. 95 % Wilson intervals over images."
)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """One model under all threats: (N,) bool robust under each and under every one, and the suites' labels."""

    model: str
    clean_acc: float
    robust: dict[str, npt.NDArray[np.bool_]]
    union: npt.NDArray[np.bool_]
    suites: dict[str, str]

    def rows(self) -> list[tuple[str, float, tuple[float, float], bool]]:
        """(threat, accuracy, interval, verified) of each threat, and of the union last."""
        found = {**self.robust, UNION: self.union}
        verified = {name: is_verified(suite) for name, suite in self.suites.items()}
        verified[UNION] = all(verified.values())
        return [
            (name, float(some.mean()), wilson(int(some.sum()), len(some)), verified[name])
            for name, some in found.items()
        ]


def run_threats(models: Sequence[str], options: EvaluateOptions) -> int:
    """Evaluate models under each of --threat, and report each and their union.

    Run again with the same --output, it goes on where it stopped.

    Returns:
        The exit code, 0.
    Raises:
        InputError: the input is invalid; nothing was attacked.
    """
    from sweeps.engine.evaluation.run import run_evaluation

    threats = [Threat.parse(text) for text in options.threat]
    names = [threat.name for threat in threats]
    for threat in threats:
        check_file_name("--threat", threat.name)
    if len(set(names)) < len(names):
        raise InputError("--threat names a threat twice: give each once")
    refuse_beside(options)
    if "resume" in options.given:
        raise InputError(
            "--resume cannot be given with --threat, which names norms and budgets: give the same command again with"
            " the same --output"
        )
    path = Path(options.output or timestamped(f"evaluate-{options.suite}-threats")).resolve()
    _begin(path, options.threat)
    for threat in threats:
        folder = path / threat.name
        if (folder / SPEC).exists():
            same = {name: getattr(options, name) for name in options.given if name in ("data_dir", "workers")}
            run_evaluation([], EvaluateOptions(resume=str(folder), **same))
        else:
            own = options.changed(threat=(), norm=threat.norm, eps=threat.eps, output=folder)
            run_evaluation(models, own)
    shared = collected(path, names)
    _write(path, threats, shared)
    show(Console(), options.suite, shared)
    print(f"Results: {relative(path)} ({PAGE}, {', '.join(TABLES)}, and a folder for each threat)")
    return 0


def _begin(path: Path, threats: Sequence[str]) -> None:
    known = path / THREATS
    if known.exists():
        if read_json(read_regular(known)).get("threats") != list(threats):
            raise InputError(f"--output {str(path)!r} has an evaluation under other threats: name a new folder")
        return
    refuse_if_used(path, THREATS, "an evaluation under several threats")
    make_folder(chosen(path))
    content = {"threats": list(threats), "command": command_line(), "version": bat_core.__version__}
    write_atomically(below(path, THREATS), json.dumps(content, indent=1))


def collected(path: Path, names: Sequence[str]) -> list[Shared]:
    """What the evaluations in the folders `names` found, model by model.

    Raises:
        InputError: they are about different images or models.
    """
    found = []
    folders = [EvaluationFolder(path / name) for name in names]
    for model in folders[0].load().models:
        places = [folder.model(model) for folder in folders]
        verdicts = [Verdicts.read(place / VERDICTS) for place in places]
        try:
            union = robust_in_all(verdicts)
        except ValueError as error:
            raise InputError(f"{str(path)!r} has evaluations on different images: start a new one") from error
        summaries = [read_summary(below(place, "summary.json")) for place in places]
        found.append(
            Shared(
                model=model.source.name,
                clean_acc=verdicts[0].clean_acc,
                robust={name: one.robust_correct for name, one in zip(names, verdicts, strict=True)},
                union=union,
                suites={name: one.suite for name, one in zip(names, summaries, strict=True)},
            )
        )
    return found


def _cells(one: Shared) -> list[str]:
    return [
        f"{'' if verified else UNVERIFIED_MARK}{percent(acc)} ({percent_range(*interval)})"
        for _, acc, interval, verified in one.rows()
    ]


def _columns(shared: Sequence[Shared]) -> list[str]:
    return ["model", "clean", *(name for name, *_ in shared[0].rows())]


def show(console: Console, suite: str, shared: Sequence[Shared]) -> None:
    """Print one table of all models."""
    table = RichTable(title=f"Each threat and their union, suite {suite}", title_justify="left", highlight=False)
    for column in _columns(shared):
        table.add_column(column, justify="left" if column == "model" else "right")
    for one in shared:
        table.add_row(escape(one.model), percent(one.clean_acc), *_cells(one))
    console.print(table)
    console.print(NOTE, highlight=False, markup=False)


def _write(path: Path, threats: Sequence[Threat], shared: Sequence[Shared]) -> None:
    rows = [[one.model, percent(one.clean_acc), *_cells(one)] for one in shared]
    write_atomically(below(path, TABLES[0]), document([NOTE, pipe_table(_columns(shared), rows)]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "threat", "acc", "low", "high", "n", "verified"])
    for one in shared:
        for name, acc, (low, high), verified in one.rows():
            writer.writerow([one.model, name, round(acc, 6), round(low, 6), round(high, 6), len(one.union), verified])
    write_atomically(below(path, TABLES[1]), text.getvalue())
    write_atomically(below(path, PAGE), render(_page(path, threats, shared)))


def _page(path: Path, threats: Sequence[Threat], shared: Sequence[Shared]) -> Page:
    ranked = sorted(shared, key=lambda one: -float(one.union.mean()))
    best = ranked[0]
    _, acc, interval, verified = best.rows()[-1]
    rows: list[list[Cell | str]] = []
    for one in ranked:
        row: list[Cell | str] = [Cell(one.model, look="name"), Cell(percent(one.clean_acc), one.clean_acc)]
        numbers = [found for _, found, _, _ in one.rows()]
        rows.append([*row, *(Cell(text, number) for text, number in zip(_cells(one), numbers, strict=True))])
    word = "" if verified else " (not verified)"
    command = read_json(read_regular(path / THREATS))["command"]
    return Page(
        title=f"Evaluation under {' and '.join(threat.text for threat in threats)}",
        question="How robust are these models under each threat, and under all of them at once?",
        answer=(
            f"{best.model} is correct{word} on {percent(acc)} ({percent_range(*interval)}) of {len(best.union)} images"
            f" under every threat, {percent(best.clean_acc)} clean."
        ),
        sections=[
            Table(heading="Leaderboard", columns=_columns(shared), rows=rows, note=NOTE),
            Commands(heading="Go on", pairs=[("as it was started", command)], note="Each threat has its own report."),
        ],
        version=f"bat-sweeps {bat_core.__version__}",
    )
