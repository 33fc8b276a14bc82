"""What a table's page says: our numbers next to the paper's, claims, and the verified robustness of each row."""

from bat_core.suites import is_verified
from sweeps.engine.cli.text import percent, percent_range
from sweeps.engine.pages.charts import Chart, Mark, Series, rows_chart
from sweeps.engine.pages.document import Cell, Section, Table
from sweeps.engine.pages.sweep_page import Story
from sweeps.engine.paper.report import notes, said, settings, title
from sweeps.engine.paper.results import Line, Number, Result


def story(result: Result, sentence: str) -> Story:
    """The page's own parts, with the sentence that sums the table up."""
    sections: list[Section] = [_numbers(result)]
    if result.claim_results:
        sections.append(_claims(result))
    return Story(
        title=title(result),
        question=f"What do our models say of the paper's table? {settings(result)}",
        answer=sentence,
        subcommand=f"table {result.table.number}",
        charts=[_chart(result)] if result.robustness else [],
        sections=sections,
    )


def _chart(result: Result) -> Chart:
    rows = list(result.robustness.values())
    clean = [Mark(one.clean.mean, row, f"{one.row.name}: {percent(one.clean.mean)}") for row, one in enumerate(rows)]
    kinds: dict[bool, list[Mark]] = {True: [], False: []}
    for row, one in enumerate(rows):
        low, high = one.robust.interval
        robust = f"{percent(one.robust.mean)} ({percent_range(low, high)}) under {one.suite}"
        mark = Mark(one.robust.mean, row, f"{one.row.name}: {robust}, {one.masking_status}", max(low, 0), min(high, 1))
        kinds[is_verified(one.suite)].append(mark)
    series = [Series(name="clean", marks=clean), Series(name="robust, verified", marks=kinds[True])]
    series.append(Series(name="robust, not verified", marks=kinds[False], hollow=True))
    return rows_chart(
        "Clean and robust accuracy",
        "accuracy on test images, means over seeds",
        [one for one in series if one.marks],
        [one.row.name for one in rows],
    )


def _numbers(result: Result) -> Table:
    columns = [*result.table.columns]
    heads = [head for name in columns for head in (f"{name}: ours", f"{name}: paper")]
    rows: list[list[Cell | str]] = [
        [line.name, *(cell for name in columns for cell in _cells(line, name, result))] for line in result.lines
    ]
    return Table(
        heading="Next to the paper's numbers",
        columns=["row", *heads],
        rows=rows,
        note=" ".join([*notes(result), "These numbers are of the paper's own attacks: not verified."]),
    )


def _cells(line: Line, column: str, result: Result) -> tuple[Cell, Cell]:
    paper, ours = line.paper.get(column), line.ours.get(column)
    return _ours(ours, percents=result.table.unit == "%"), Cell("-") if paper is None else Cell(f"{paper:g}", paper)


def _ours(number: Number | None, *, percents: bool) -> Cell:
    if number is None:
        return Cell("-")
    low, high = number.interval
    if percents:
        return Cell(f"{100 * number.mean:.1f} ({100 * low:.1f} to {100 * high:.1f})", number.mean)
    return Cell(f"{number.mean:.3g} ({low:.3g} to {high:.3g})", number.mean)


def _claims(result: Result) -> Table:
    looks = {"shows": "clear", "does not show": "masked"}
    rows: list[list[Cell | str]] = [
        [Cell(one.word, look=looks.get(one.word, "suspect")), said(one)] for one in result.claim_results
    ]
    return Table(heading="The paper's claims", columns=["our numbers", "claim"], rows=rows)
