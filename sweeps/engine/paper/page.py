"""What a table's page says: our numbers next to the paper's, claims, and the verified robustness of each row."""

from sweeps.engine.pages.charts import Accuracies, Chart, accuracies_chart
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
    models = [
        Accuracies(
            name=one.row.name,
            clean=one.clean.mean,
            robust=one.robust.mean,
            interval=one.robust.interval,
            suite=one.suite,
            verdict=one.masking_status,
        )
        for one in result.robustness.values()
    ]
    return accuracies_chart("accuracy on test images, means over seeds", models)


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
        [Cell(one.word, look=looks.get(one.word, "suspect")), Cell(said(one), look="prose")]
        for one in result.claim_results
    ]
    return Table(heading="The paper's claims", columns=["our numbers", "claim"], rows=rows)
