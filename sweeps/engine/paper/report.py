"""Our numbers next to the paper's: on the terminal, as Markdown and as CSV."""

import csv
import io
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from bat_core.suites import verifying_suite_in
from sweeps.engine.cli.live_table import masking_style
from sweeps.engine.cli.markdown import BREAK, Markup, code, document, pipe_table
from sweeps.engine.cli.text import UNVERIFIED_MARK, counted
from sweeps.engine.paper.results import NOT_RUN, ClaimResult, Line, Number, Result, Robustness

CSV_COLUMNS = (
    *("table", "row", "column", "paper", "ours", "difference", "low", "high", "seeds", "by_seed", "n"),
    *("verified", "verified_low", "verified_high"),
    *("not_verified", "not_verified_low", "not_verified_high", "robust_n", "suite", "verdict"),
)
ROBUSTNESS_WORDS = ("model", "checks")
MARKS = {"shows": "green", "does not show": "red", "undecided": "yellow", "says nothing": "yellow", "not run": "dim"}


def title(result: Result) -> str:
    """The title of the table."""
    return f"Table {result.table.number}: {result.table.paper.description}"


def settings(result: Result) -> str:
    """The settings that all our numbers share."""
    config, table, pixel = result.config, result.table, result.sweep.pixel
    networks = list(dict.fromkeys(trial.config.model for trial in result.sweep.trials))
    seeds = len(result.found.seeds)
    epochs = sorted({trial.config.train.epochs for trial in result.sweep.trials})
    images = f" on {config.data.train_size} training images" if config.data.train_size else ""
    accuracies = "the wider of Student's over seeds and Wilson's over test images" if seeds > 1 else "Wilson's"
    if table.unit == "%":
        of = f"{counted(seeds, 'seed')}, ±: 95 % ({accuracies})"
    else:
        of = f"{counted(seeds, 'seed')}: mean, lowest and highest"
    return (
        f"Ours: {config.data.name}, {', '.join(networks)}, {'/'.join(map(str, epochs))} epochs of"
        f" {config.train.schedule}{images}, n = {result.n} test images, {of};"
        f" budget {table.eps:g} px, steps of {table.step:g} px, 1 px = {pixel * 255:g}/255."
    )


def notes(result: Result) -> list[str]:
    """Notes on how to read the table."""
    said = [*result.table.notes]
    robustness = list(result.robustness.values())
    if robustness:
        counts = {one.robust.n for one in robustness}
        n = f" (n = {counts.pop()})" if len(counts) == 1 else ""
        said.append(
            f"{result.robustness_title.capitalize()}: the per-example worst case over all attacks of this table and"
            f" {_verifying(robustness)}{n}; checks: red flags of gradient masking. The paper reports neither."
        )
        if any(result.mark_of(one) for one in robustness):
            said.append(f"{UNVERIFIED_MARK}: not verified, for a model's gradients are masked.")
    if lost := _named({one.row.name: one.collapsed for one in robustness}):
        said.append(f"Models with catastrophic overfitting during training: {lost}.")
    if constant := _named({one.row.name: one.one_class for one in robustness}):
        said.append(
            f"Models that are correct on one class only: {constant}. They predict this class for every image. Their"
            " accuracy is not robustness, and a claim about them says nothing."
        )
    return said


def _named(counts: Mapping[str, int]) -> str:
    """The rows with a count above zero, with their counts."""
    return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def _verifying(robustness: Sequence[Robustness]) -> str:
    suite = next(filter(None, (verifying_suite_in(one.suite) for one in robustness)), None)
    return suite.verified_in_words if suite else "no further attack"


def show(console: Console, result: Result) -> None:
    """Print the table, the robustness of its models, and each claim of the paper."""
    console.print(title(result), highlight=False, markup=False)
    console.print(*_tables(console, result, [*result.table.columns]), sep="\n")
    if not any(line.robustness for line in result.lines):
        console.print(_robustness_table(result))
    for text in (settings(result), *notes(result)):
        console.print(text, highlight=False, markup=False)
    for claim_result in result.claim_results:
        word = f"[{MARKS[claim_result.word]}]{claim_result.word:<13}[/]"
        console.print(f"{word} {escape(said(claim_result))}", highlight=False, soft_wrap=True)


def _tables(console: Console, result: Result, columns: Sequence[str]) -> list[RichTable]:
    """One table, with narrow cells if the terminal is narrow; several if it still does not fit."""
    for narrow in (False, True):
        table = _table(result, columns, narrow=narrow)
        if console.measure(table, options=console.options.update(width=1000, max_width=1000)).maximum <= console.width:
            return [table]
    if len(columns) == 1:
        return [table]
    half = (len(columns) + 1) // 2
    return [*_tables(console, result, columns[:half]), *_tables(console, result, columns[half:])]


def _table(result: Result, columns: Sequence[str], *, narrow: bool) -> RichTable:
    table = RichTable(highlight=False, show_lines=True, padding=(0, 0) if narrow else (0, 1, 0, 0))
    table.add_column("ours ±\npaper\n(difference)" if narrow else "ours ±\npaper (difference)")
    for name in columns:
        table.add_column(escape(name), justify="right", no_wrap=not narrow)
    with_robustness = columns[-1] == [*result.table.columns][-1] and any(line.robustness for line in result.lines)
    if with_robustness:
        table.add_column(result.robustness_title, justify="right", no_wrap=True)
        table.add_column("checks")
    for line in result.lines:
        cells = [_shown(line, column, result, narrow=narrow) for column in columns]
        if with_robustness:
            cells += _shown_robustness(line, result, narrow=narrow)
        table.add_row(escape(line.name), *cells)
    return table


def said(claim_result: ClaimResult) -> str:
    """The claim and our number for it."""
    claim, mean = claim_result.claim, claim_result.mean
    if mean is None:
        return claim.description
    if claim.ratio:
        number = f"{10**mean:.3g} times"
        reach = claim_result.interval and f"{10**claim_result.interval.low:.3g} to {10**claim_result.interval.high:.3g}"
    else:
        number = f"{100 * mean:+.1f} points" if claim.second else f"{100 * mean:.1f} %"
        reach = (
            claim_result.interval
            and f"{100 * claim_result.interval.low:+.1f} to {100 * claim_result.interval.high:+.1f}"
        )
    return f"{claim.description}: {number} ({f'{reach}, ' if reach else ''}{counted(claim_result.seeds, 'seed')})"


def markdown(result: Result) -> str:
    """The table as Markdown: each cell has our number and, below it, the paper's with the difference."""
    columns = [*result.table.columns]
    with_robustness = any(line.robustness for line in result.lines)
    head = [Markup(f"ours{BREAK}paper (difference)"), *columns]
    if with_robustness:
        head += [result.robustness_title, "checks"]
    rows = []
    for line in result.lines:
        cells = [_marked_down(line, column, result) for column in columns]
        if with_robustness:
            cells += (
                [_robust(line.robustness, result), line.robustness.masking_status]
                if line.robustness
                else [_missing(line), ""]
            )
        rows.append([line.name, *cells])
    parts = [f"**{title(result)}**", pipe_table(head, rows, words=(head[0], "checks"))]
    if not with_robustness:
        robustness = [
            [one.row.name, _percent(one.clean), _robust(one, result), one.masking_status]
            for one in result.robustness.values()
        ]
        parts.append(pipe_table(_robustness_columns(result), robustness, words=ROBUSTNESS_WORDS))
    parts += [settings(result), *notes(result), f"Command: {code(result.sweep.command)}"]
    if result.claim_results:
        parts.append("\n".join(f"* {claim_result.word}: {said(claim_result)}" for claim_result in result.claim_results))
    return document(parts)


def as_csv(result: Result) -> str:
    """One line per cell, in the paper's unit: percent, or the plain number."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    scale = 100 if result.table.unit == "%" else 1
    for line in result.lines:
        robustness = _csv_robustness(line.robustness)
        for column, paper in line.paper.items():
            number = line.ours.get(column)
            ours = _csv_number(number, paper, scale)
            writer.writerow(
                [result.table.number, line.name, column, "" if paper is None else paper, *ours, *robustness]
            )
    return text.getvalue()


def _csv_number(number: Number | None, paper: float | None, scale: int) -> list[str]:
    if number is None:
        return [""] * 7
    mean, interval = scale * number.mean, number.interval
    by_seed = ";".join(f"{seed}:{_six(scale * value)}" for seed, value in number.values.items())
    difference = "" if paper is None else _six(mean - paper)
    reach = [_six(scale * interval.low), _six(scale * interval.high)]
    return [_six(mean), difference, *reach, str(len(number.values)), by_seed, str(number.n)]


def _csv_robustness(robustness: Robustness | None) -> list[str]:
    if robustness is None:
        return [""] * 9
    robust, none = robustness.robust, [""] * 3
    found = [_six(100 * value) for value in (robust.mean, robust.interval.low, robust.interval.high)]
    cells = [*found, *none] if robustness.is_verified else [*none, *found]
    return [*cells, str(robust.n), robustness.suite, robustness.masking_status]


def _six(value: float) -> str:
    return f"{value:.6g}"


def _shown(line: Line, column: str, result: Result, *, narrow: bool) -> str:
    value, reach, paper, difference = _parts(line, column, result)
    if narrow:
        return "\n".join([f"[bold]{value}[/]", reach, f"[dim]{paper}[/]", f"[dim]{difference}[/]"])
    return f"[bold]{value}[/] {reach}\n[dim]{paper} {difference and f'({difference})'}[/]".rstrip()


def _marked_down(line: Line, column: str, result: Result) -> str:
    value, reach, paper, difference = _parts(line, column, result)
    above = f"**{value}** {reach}" if line.ours.get(column) else value
    return Markup(f"{above}{BREAK}{paper} {difference and f'({difference})'}".strip())


def _parts(line: Line, column: str, result: Result) -> tuple[str, str, str, str]:
    """Our number, half its interval, the paper's number, and the difference (for gradients, the quotient)."""
    number, paper = line.ours.get(column), line.paper[column]
    percent = result.table.unit == "%"
    printed = "-" if paper is None else f"{paper:.1f}" if percent else f"{paper:.3g}"
    if number is None:
        return ("-" if column not in line.ours and not line.cited else _missing(line)), "", printed, ""
    if percent:
        difference = "" if paper is None else f"{100 * number.mean - paper:+.1f}"
        return f"{100 * number.mean:.1f}", f"±{100 * _half(number):.1f}", printed, difference
    low, high = number.interval
    return (
        f"{number.mean:.3g}",
        f"{low:.2g}..{high:.2g}" if low < high else "",
        printed,
        "" if paper is None else f"x{number.mean / paper:.2g}",
    )


def _missing(line: Line) -> str:
    return "cited" if line.cited else NOT_RUN


def _half(number: Number) -> float:
    return (number.interval.high - number.interval.low) / 2


def _percent(number: Number) -> Markup:
    return Markup(f"**{100 * number.mean:.1f}** ±{100 * _half(number):.1f}")


def _robust(robustness: Robustness, result: Result) -> Markup:
    return Markup(f"{result.mark_of(robustness)}{_percent(robustness.robust)}")


def _shown_robustness(line: Line, result: Result, *, narrow: bool) -> list[str]:
    if line.robustness is None:
        return [_missing(line), ""]
    between = "\n" if narrow else " "
    robust = line.robustness.robust
    return [
        f"[bold]{result.mark_of(line.robustness)}{100 * robust.mean:.1f}[/]{between}±{100 * _half(robust):.1f}",
        _styled(line.robustness),
    ]


def _styled(robustness: Robustness) -> str:
    return ", ".join(f"{masking_style(word)} {count}".strip() for word, count in robustness.masking_statuses)


def _robustness_columns(result: Result) -> tuple[str, ...]:
    return "model", "clean", result.robustness_title, "checks"


def _robustness_table(result: Result) -> RichTable:
    table = RichTable(title="Robustness of these models", title_justify="left", highlight=False)
    for name in _robustness_columns(result):
        table.add_column(name, justify="left" if name in ROBUSTNESS_WORDS else "right")
    for one in result.robustness.values():
        cells = [cell.replace("**", "") for cell in (_percent(one.clean), _robust(one, result))]
        table.add_row(escape(one.row.name), *cells, _styled(one))
    return table
