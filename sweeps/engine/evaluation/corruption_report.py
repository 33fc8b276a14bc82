"""Tables and the page of accuracy under corruptions."""

import csv
import io
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from bat_core.corruption_names import SEVERITIES
from sweeps.engine.cli.markdown import document, pipe_table
from sweeps.engine.cli.text import counted, percent, percent_range
from sweeps.engine.pages.document import Cell, Heat, Page, Section, Table, commands

Summary = Mapping[str, Any]
HEADLINE = ("model", "clean", "corrupted", "95 %", "mCE")
NOTE = (
    "Corrupted: mean accuracy over corruptions and severities. mCE: the mean of the errors relative to AlexNet's, on"
    " ImageNet with all fifteen corruptions only; lower is better. Neither is robustness against an attack."
)


def headlines(summaries: Sequence[Summary]) -> list[list[str]]:
    """One row per model."""
    return [[str(one["model"]), *numbers_of(one)] for one in summaries]


def numbers_of(one: Summary) -> list[str]:
    """The columns of `HEADLINE` but the first."""
    mce = "-" if one["mce"] is None else percent(one["mce"])
    interval = percent_range(*one["corrupted_acc_interval"])
    return [percent(one["clean_acc"]), percent(one["corrupted_acc"]), interval, mce]


def details(one: Summary) -> list[list[str]]:
    """One row per corruption: accuracy at each severity, and the mean."""
    found: Mapping[str, Sequence[float]] = one["by_corruption"]
    return [[name, *map(percent, shares), percent(fmean(shares))] for name, shares in found.items()]


def _heads() -> list[str]:
    return ["corruption", *map(str, SEVERITIES), "mean"]


def show(console: Console, settings: str, summaries: Sequence[Summary]) -> None:
    """Print each model's table, then the headlines."""
    for one in summaries:
        table = terminal_table(_heads(), f"{one['model']}: accuracy by corruption and severity (1 to 5)")
        for row in details(one):
            table.add_row(*row)
        console.print(table)
    table = terminal_table(HEADLINE, "Accuracy under corruptions")
    for name, *numbers in headlines(summaries):
        table.add_row(escape(name), *numbers)
    console.print(table)
    console.print(f"{settings}. {NOTE}", highlight=False, markup=False)


def terminal_table(columns: Sequence[str], title: str) -> RichTable:
    """An empty table for the terminal: names to the left, numbers to the right."""
    table = RichTable(title=escape(title), title_justify="left", highlight=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=column != "model")
    return table


def markdown(settings: str, summaries: Sequence[Summary]) -> str:
    """All tables, for table.md."""
    parts = [f"{settings}. {NOTE}", pipe_table(HEADLINE, headlines(summaries))]
    for one in summaries:
        parts += [f"{one['model']}, accuracy by corruption and severity:", pipe_table(_heads(), details(one))]
    return document(parts)


def as_csv(settings: str, summaries: Sequence[Summary]) -> str:  # noqa: ARG001 (as `markdown`)
    """One line per model, corruption and severity, and one for the clean images. Accuracies in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "dataset", "images", "n", "corruption", "severity", "acc"])
    for one in summaries:
        shared = [one["model"], one["dataset"], one["images"], one["n"]]
        writer.writerow([*shared, "clean", 0, round(one["clean_acc"], 6)])
        for name, shares in one["by_corruption"].items():
            for severity, acc in zip(SEVERITIES, shares, strict=True):
                writer.writerow([*shared, name, severity, round(acc, 6)])
    return text.getvalue()


def corruption_page(command: str, settings: str, summaries: Sequence[Summary], version: str) -> Page:
    """The page: headlines, a heat map per model, and how to go on."""
    ranked = sorted(summaries, key=lambda one: -one["corrupted_acc"])
    best = ranked[0]
    rows: list[list[Cell | str]] = []
    for one in ranked:
        clean, corrupted, *others = numbers_of(one)
        numbers = [Cell(clean, one["clean_acc"]), Cell(corrupted, one["corrupted_acc"])]
        rows.append([Cell(str(one["model"]), look="name"), *numbers, *others])
    sections: list[Section] = [Table(heading="Leaderboard", columns=HEADLINE, rows=rows, note=NOTE)]
    for one in ranked:
        heat = [
            (name, [(share, f"{100 * share:.1f}") for share in (*shares, fmean(shares))])
            for name, shares in one["by_corruption"].items()
        ]
        sections.append(
            Heat(
                heading=f"{one['model']}: accuracy in %",
                corner="corruption ↓ severity →",
                columns=[*map(str, SEVERITIES), "mean"],
                rows=heat,
                note="",
            )
        )
    return Page(
        title=f"Corruptions: {counted(len(summaries), 'model')}",
        question=f"How accurate are these models on corrupted images? {settings}.",
        answer=(
            f"{best['model']} keeps {percent(best['corrupted_acc'])} ({percent_range(*best['corrupted_acc_interval'])})"
            f" of images over all corruptions and severities, and {percent(best['clean_acc'])} of clean ones."
        ),
        sections=[*sections, commands("corruptions", command)],
        version=version,
    )
