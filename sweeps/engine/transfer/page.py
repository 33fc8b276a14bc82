"""The page of a transfer matrix: one matrix an attack, and the red flag."""

from collections.abc import Sequence

from sweeps.engine.cli.text import percent, percent_range
from sweeps.engine.pages.document import Cell, Heat, Page, Section, Table, commands
from sweeps.engine.transfer.craft import Matrix
from sweeps.engine.transfer.matrix import NOT_VERIFIED, TransferCell, alarm
from sweeps.engine.transfer.report import attacks_of, settings


def transfer_page(matrix: Matrix, cells: Sequence[TransferCell]) -> Page:
    """The page, from all cells of all attacks."""
    sections: list[Section] = [_heat(matrix, cells, attack) for attack in attacks_of(cells)]
    sections += [_leaderboard(matrix, cells), commands("transfer", matrix.command)]
    return Page(
        title=f"Transfer matrix of {len(matrix.names)} models on {matrix.dataset}",
        question="Do images that were crafted on one model fool another more than its own do?",
        answer=f"{alarm(cells).description} {settings(matrix, cells)}",
        sections=sections,
        version=f"bat-sweeps {matrix.version}: made from transfer matrix {matrix.id}, created {matrix.created}.",
    )


def _heat(matrix: Matrix, cells: Sequence[TransferCell], attack: str) -> Heat:
    of = {(cell.target, cell.source): cell for cell in cells if cell.attack == attack}
    rows = [
        (target, [(one.acc, _shown(one)) for one in (of[target, source] for source in matrix.names)])
        for target in matrix.names
    ]
    return Heat(
        heading=f"{attack}: accuracy in %, {NOT_VERIFIED}",
        corner="evaluated on ↓ crafted on →",
        columns=list(matrix.names),
        rows=rows,
        note="[ ]: white-box; !: a black box that beats the model's own white box.",
    )


def _shown(cell: TransferCell) -> str:
    text = f"{100 * cell.acc:.1f}"
    return f"[{text}]" if cell.white_box else f"{text}!" if cell.beats_white_box else text


def _leaderboard(matrix: Matrix, cells: Sequence[TransferCell]) -> Table:
    rows: list[list[Cell | str]] = []
    for target in matrix.names:
        mine = [cell for cell in cells if cell.target == target]
        worst = min(mine, key=lambda cell: cell.acc)
        clean = mine[0].clean / mine[0].n
        low, high = worst.interval
        rows.append(
            [
                Cell(target, look="name"),
                Cell(percent(clean), clean),
                Cell(percent(worst.acc), worst.acc, "unverified"),
                Cell(percent_range(low, high), low, "unverified"),
                f"{worst.attack} from {worst.source}",
            ]
        )
    columns = ("model", "clean", "lowest, not verified", "95 %", "by")
    note = "The lowest accuracy in each model's row: its robust accuracy is at most that."
    return Table(heading="Leaderboard", columns=columns, rows=rows, note=note)
