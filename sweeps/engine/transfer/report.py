"""Tables of a transfer matrix: on the terminal and as Markdown."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bat_core.norms import LINF, TITLES
from sweeps.engine.cli.markdown import Markup, document, pipe_table
from sweeps.engine.cli.text import percent, with_interval
from sweeps.engine.transfer.craft import Matrix
from sweeps.engine.transfer.matrix import NOT_VERIFIED, TransferCell, alarm

LAYOUT = "rows: evaluated on, columns: crafted on"
LONGEST_NAME = 28  # longer names are folded on the terminal


def show(console: Console, matrix: Matrix, cells: Sequence[TransferCell]) -> None:
    """Print one table per attack, or a summary if the tables are too wide, followed by the red flag."""
    for numbered in (False, True):
        tables = [_full_table(matrix.names, cells, attack, numbered=numbered) for attack in attacks_of(cells)]
        if all(_width(console, table) <= console.width for table in tables):
            break
    else:
        tables = [_strongest(matrix.names, cells)]
    console.print(*tables, sep="\n")
    console.print(f"[ ]: white-box; !: below it. {settings(matrix, cells)}\n", highlight=False, markup=False)
    found = alarm(cells)
    console.print(found.description, style="red" if found.red else "bold", highlight=False, markup=False)


def attacks_of(cells: Sequence[TransferCell]) -> list[str]:
    """The names of the attacks, in order."""
    return list(dict.fromkeys(cell.attack for cell in cells))


def settings(matrix: Matrix, cells: Sequence[TransferCell]) -> str:
    """The settings that all numbers share, and their limits."""
    amount = f"{TITLES[matrix.norm]} eps = {matrix.eps:.5g}"
    if matrix.norm == LINF:
        amount += f" ({matrix.eps_in_pixels:g} px of {matrix.pixel * 255:g}/255)"
    reach = max(max(cell.acc - cell.interval.low, cell.interval.high - cell.acc) for cell in cells)
    return (
        f"{matrix.dataset} {matrix.split}, n = {matrix.n}, {amount}, seed {matrix.seed}. Accuracy over all n"
        f" adversarial images; 95 % Wilson intervals are at most ±{100 * reach:.1f} points. FGSM: one step of eps, no"
        f" random start. CE{matrix.steps}: {matrix.steps} PGD steps of {matrix.unit.amount(matrix.step_size)} on"
        " cross-entropy from a random start, no restarts, last iterate. Not verified: no verifying suite (Auto-PGD,"
        " AutoAttack) ran, and a model's robustness is at most the lowest number in its row."
    )


def markdown(matrix: Matrix, cells: Sequence[TransferCell]) -> str:
    """The matrix of each attack with intervals, for table.md."""
    parts = [f"Transfer matrix, {NOT_VERIFIED} ({LAYOUT}; white-box in bold). {settings(matrix, cells)}"]
    for attack in attacks_of(cells):
        of = {(cell.target, cell.source): cell for cell in cells if cell.attack == attack}
        head = [f"{attack}: evaluated on", "clean", *[f"crafted on {name}" for name in matrix.names]]
        lines = []
        for target in matrix.names:
            row = [of[target, source] for source in matrix.names]
            lines.append([target, percent(row[0].clean / row[0].n), *[_with_interval(cell) for cell in row]])
        parts.append(pipe_table(head, lines))
    return document([*parts, alarm(cells).description])


def _with_interval(cell: TransferCell) -> str:
    text = with_interval(cell.acc, cell.interval)
    accuracy, _, reach = text.partition(" ")
    return Markup(f"**{accuracy}** {reach}") if cell.white_box else text


def _full_table(names: Sequence[str], cells: Sequence[TransferCell], attack: str, *, numbered: bool) -> Table:
    """All cells of an attack. Columns are labelled with the models' names or, to save room, their numbers."""
    of = {(cell.target, cell.source): cell for cell in cells if cell.attack == attack}
    table = _table(f"{attack}: accuracy in %, {NOT_VERIFIED}", "crafted on →")
    for number, name in enumerate(names):
        table.add_column(f"{number + 1} " if numbered else escape(name), justify="right", no_wrap=True)
    for number, target in enumerate(names):
        row = [of[target, source] for source in names]
        name = f"{number + 1} {target}" if numbered else target
        table.add_row(escape(name), _clean(row[0]), *[_marked(cell) for cell in row])
    return table


def _strongest(names: Sequence[str], cells: Sequence[TransferCell]) -> Table:
    """For each model and attack, the white-box and the strongest black-box with the number of its source."""
    table = _table(f"Accuracy in %, {NOT_VERIFIED}; other: the strongest black-box", "crafted on:")
    for attack in attacks_of(cells):
        for column in (f"{attack}\nitself", "\nother", "\nno."):
            table.add_column(column, justify="right", no_wrap=True)
    for number, target in enumerate(names):
        mine = [cell for cell in cells if cell.target == target]
        row = [f"{number + 1} {escape(target)}", _clean(mine[0])]
        for attack in attacks_of(cells):
            (own,) = [cell for cell in mine if cell.attack == attack and cell.white_box]
            others = [cell for cell in mine if cell.attack == attack and not cell.white_box]
            strongest = min(others, key=lambda cell: cell.correct)
            row += [_marked(own), _marked(strongest), str(names.index(strongest.source) + 1)]
        table.add_row(*row)
    return table


def _table(title: str, across: str) -> Table:
    table = Table(title=title, title_justify="left", highlight=False, padding=(0, 1, 0, 0))
    table.add_column(f"{across:>14}\nevaluated on ↓", max_width=LONGEST_NAME, overflow="fold")
    table.add_column("\nclean", justify="right", no_wrap=True)
    return table


def _clean(cell: TransferCell) -> str:
    return f"{100 * cell.clean / cell.n:.1f}"


def _marked(cell: TransferCell) -> str:
    text = f"{100 * cell.acc:.1f}"
    if cell.white_box:
        return rf"[bold]\[{text}][/]"
    return f"[yellow]{text}![/]" if cell.beats_white_box else f"{text} "


def _width(console: Console, table: Table) -> int:
    return console.measure(table, options=console.options.update(width=1000, max_width=1000)).maximum
