"""Tables of an evaluation's results: on the terminal, as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bat_core.masking.checks import IMAGES
from bat_core.masking.flags import LOWEST_SHARE, status_in_words
from bat_core.norms import LINF, TITLES
from bat_core.suites import is_verified
from sweeps.engine.cli.live_table import MASKING_STYLES, masking_style
from sweeps.engine.cli.markdown import document, pipe_table
from sweeps.engine.cli.text import UNVERIFIED_HEAD, UNVERIFIED_MARK, counted, percent, percent_range
from sweeps.engine.evaluation import sampled_report
from sweeps.engine.evaluation.attack import FIRST, Evaluation
from sweeps.engine.evaluation.audit import audit_in_words
from sweeps.engine.evaluation.best import was_left
from sweeps.engine.evaluation.exactness import best_in_words, exactness

Summary = Mapping[str, Any]
HEADLINE = ("model", "clean", "verified", UNVERIFIED_HEAD, "95 %", "checks")
MOST_IN_FULL = 4  # with more models, the terminal shows accuracies without the settings of the attacks
DETAIL = ("model", "attack", "accuracy", "95 %", "steps", "step size", "restarts", "on")


def show(console: Console, evaluation: Evaluation, summaries: Sequence[Summary]) -> None:
    """Print every attack, then the headlines, then the findings and red flags."""
    tables = _attack_tables(evaluation, summaries) if evaluation.entries() else []
    console.print(*tables, settings(evaluation), "", sep="\n", highlight=False)
    columns, rows = headline_table(evaluation, summaries)
    worst = _rich(columns, title=f"{headline_title(evaluation)}, n = {evaluation.n}")
    for row in rows:
        worst.add_row(escape(row[0]), *row[1:-1], _styled(row[-1]))
    console.print(worst)
    for line in captions(evaluation, summaries):
        console.print(line, markup=False, highlight=False)
    for summary in summaries:
        if "published" in summary:
            console.print(f"{summary['model']}: {summary['published']}", markup=False, highlight=False)
        for finding in summary["findings"]:
            console.print(f"{summary['model']}: {finding}", style="yellow", markup=False, highlight=False)
        for flag in summary["flags"]:
            text = f"{summary['model']} is {flag['verdict']} ({flag['name']}): {flag['says']}; {flag['why']}"
            style = "red" if flag["verdict"] == "masked" else "yellow"
            console.print(text, style=style, markup=False, highlight=False)


def _attack_tables(evaluation: Evaluation, summaries: Sequence[Summary]) -> list[Table]:
    """One table per model; for many models one table with accuracies only (table.md and table.csv have the rest)."""
    name = f"{FIRST}, on all images" if evaluation.sampled else evaluation.attacks().label
    scope = f"{name}, n = {evaluation.n}"
    if len(summaries) <= MOST_IN_FULL:
        tables = []
        for summary in summaries:
            tables.append(_rich(DETAIL[1:], title=f"{summary['model']}: {scope}"))
            for row in details(evaluation, [summary]):
                tables[-1].add_row(*row[1:])
        return tables
    names = list(dict.fromkeys(name for summary in summaries for name in summary["per_attack"]))
    table = _rich(["model", *names], title=f"Accuracy in %: {scope}")
    for summary in summaries:
        found = summary["per_attack"]  # a model that could not win any more met fewer attacks
        accuracies = [f"{100 * found[name]:.1f}" if name in found else "-" for name in names]
        table.add_row(escape(str(summary["model"])), *accuracies)
    return [table]


def headline_title(evaluation: Evaluation) -> str:
    """The title over the models' numbers."""
    if evaluation.sampled:
        return sampled_report.title(evaluation)
    return f"Worst case over {evaluation.attacks().label}"


def headline_table(evaluation: Evaluation, summaries: Sequence[Summary]) -> tuple[Sequence[str], list[list[str]]]:
    """The columns and rows of the models' numbers: worst cases, or intervals if images were drawn.

    If every number is verified, there is no column for those that are not.
    """
    if evaluation.sampled:
        return sampled_report.columns(evaluation), sampled_report.rows(evaluation, summaries)
    rows, at = headlines(summaries), HEADLINE.index(UNVERIFIED_HEAD)
    if any(row[at] for row in rows):
        return HEADLINE, rows
    return [*HEADLINE[:at], *HEADLINE[at + 1 :]], [[*row[:at], *row[at + 1 :]] for row in rows]


def captions(evaluation: Evaluation, summaries: Sequence[Summary]) -> list[str]:
    """What the numbers are: how exact, what was decided, what an audit found."""
    lines = [sampled_report.note(evaluation) if evaluation.sampled else exactness(evaluation.attacks())]
    if evaluation.sampled and evaluation.stops:
        lines += [sampled_report.sentence(evaluation, one) for one in summaries]
    if evaluation.candidates:
        lines.append(best_in_words(evaluation, summaries))
    if few := flags_from_few(evaluation, summaries):
        lines.append(few)
    return lines + [f"{one['model']}, audit: {audit_in_words(one['audit'])}" for one in summaries if "audit" in one]


def flags_from_few(evaluation: Evaluation, summaries: Sequence[Summary]) -> str:
    """That red flags rest on fewer images than the checks' limits are meant for; empty if none does."""
    if evaluation.n >= IMAGES or not any(one["flags"] for one in summaries):
        return ""
    few, seen = counted(math.ceil(LOWEST_SHARE * evaluation.n), "image"), counted(evaluation.n, "image")
    return f"The checks for masked gradients saw {seen} instead of {IMAGES}: {few} can be enough for a flag."


def settings(evaluation: Evaluation) -> str:
    """The settings that all numbers of an evaluation share."""
    amount = f"{evaluation.eps:.5g}"
    if evaluation.norm == LINF:
        amount += f" ({evaluation.eps_in_pixels:g} px of {evaluation.pixel * 255:g}/255)"
    return (
        f"{evaluation.dataset} {evaluation.split}, n = {evaluation.n}, {TITLES[evaluation.norm]} eps = {amount},"
        f" seed {evaluation.seed}, 95 % Wilson intervals; on: all images, or the"
        " remaining ones, which are still correct after the attacks above"
    )


def headlines(summaries: Sequence[Summary]) -> list[list[str]]:
    """One row per model: clean accuracy, worst case over the suite, its interval, masking status."""
    return [
        [
            str(one["model"]),
            percent(one["clean_acc"]),
            *_robust(one),
            percent_range(*one["robust_acc_interval"]),
            _verdict(one),
        ]
        for one in summaries
    ]


def details(evaluation: Evaluation, summaries: Sequence[Summary]) -> list[list[str]]:
    """One row per model and attack."""
    return [
        [
            str(one["model"]),
            line["name"],
            percent(line["acc"]),
            percent_range(*line["interval"]),
            _steps(line),
            "" if line["step_size"] is None else evaluation.unit.amount(line["step_size"]),
            str(line["restarts"]),
            "all" if line["alone"] else "remaining",
        ]
        for one in summaries
        for line in one["attacks"]
    ]


def markdown(evaluation: Evaluation, summaries: Sequence[Summary]) -> str:
    """Both tables as Markdown, for table.md."""
    scope = f"{headline_title(evaluation)}; {settings(evaluation)}."
    parts = [scope, pipe_table(*headline_table(evaluation, summaries))]
    if evaluation.entries():
        parts.append(pipe_table(DETAIL, details(evaluation, summaries)))
    parts += captions(evaluation, summaries)
    flags = [f"- {one['model']}: {flag['name']}: {flag['says']}" for one in summaries for flag in one["flags"]]
    beside = [f"- {one['model']}: {one['published']}" for one in summaries if "published" in one]
    return document([*parts, "\n".join([*beside, *flags])])


def as_csv(evaluation: Evaluation, summaries: Sequence[Summary]) -> str:
    """One line per model and attack, and one for the worst case or, if images were drawn, the interval. In [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    norm = [] if evaluation.norm == LINF else [evaluation.norm]
    head = ["model", "dataset", "n", "eps", "seed", "attack", "acc", "low", "high", "suite", "verdict"]
    writer.writerow([*head, *(["norm"] if norm else [])])
    for one in summaries:
        shared = [one["model"], evaluation.dataset, one["n"], evaluation.eps, evaluation.seed]
        said = [one["suite"], status_in_words(one["verdict"], one["robust_acc"]), *norm]
        lines = [("clean", one["clean_acc"], one["clean_acc_interval"])]
        lines += [(line["name"], line["acc"], line["interval"]) for line in one["attacks"]]
        if evaluation.sampled:
            sample = one["sampled"]
            lines += [(sampled_report.CSV_NAME, None, (sample["low"], sample["high"]))]
        else:
            worst = "worst case" if is_verified(str(one["suite"])) else "worst case, not verified"
            lines += [(worst, one["robust_acc"], one["robust_acc_interval"])]
        for name, acc, (low, high) in lines:
            number = "" if acc is None else round(acc, 6)
            writer.writerow([*shared, name, number, round(low, 6), round(high, 6), *said])
    return text.getvalue()


def _rich(columns: Sequence[str], *, title: str) -> Table:
    table = Table(title=title, title_justify="left", highlight=False)
    for column in columns:
        words = column in {"model", "attack", "checks", "on"}
        table.add_column(column, justify="left" if words else "right", no_wrap=column != "model")
    return table


def _verdict(one: Summary) -> str:
    """The masking status; for a masked model also that its robustness is not verified."""
    said = status_in_words(str(one["verdict"]), one["robust_acc"])
    return f"{said}, not verified" if str(one["suite"]).endswith(": masked") else said


def _robust(one: Summary) -> tuple[str, str]:
    """The robust accuracy, in the column of its kind: verified, or not."""
    number = f"{'<= ' if was_left(one) else ''}{percent(one['robust_acc'])}"
    return (number, "") if is_verified(str(one["suite"])) else ("", f"{UNVERIFIED_MARK}{number}")


def _styled(words: str) -> str:
    masking_status, comma, rest = words.partition(",")
    return f"{masking_style(masking_status)}{comma}{rest}" if masking_status in MASKING_STYLES else words


def _steps(line: Mapping[str, Any]) -> str:
    if line["steps"] is None:
        return ""
    return f"{line['searches']} x {line['steps']}" if line["searches"] > 1 else str(line["steps"])
