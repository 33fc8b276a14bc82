"""The paper's numbers as we have them are those that its text prints."""

import os
import re
from pathlib import Path

import pytest

from sweeps.engine.paper.reported import PAPER


@pytest.fixture(scope="module")
def printed() -> dict[int, list[list[str]]]:
    """Each table's lines of tab-separated cells, without marks of emphasis, by its number."""
    where = os.environ.get("BAT_SWEEPS_PAPER")
    if where is None:
        pytest.skip("BAT_SWEEPS_PAPER names no file: the paper's text is not compared")
    tables: dict[int, list[list[str]]] = {}
    lines: list[list[str]] = []
    for line in Path(where).read_text().splitlines():
        if "\t" in line:
            lines.append(re.sub(r"</?b>", "", line).split("\t"))
        elif found := re.match(r"Table (\d+):", line):
            tables[int(found[1])], lines = lines, []
    return tables


def row_name(text: str) -> str:
    """As we write it: without citations of the row's own method and without its label's parameters."""
    text = re.sub(r" \[\d+\]$| \( \$\\(?:epsilon_y|beta)\D*= ?[\d.]+\$ \)$", "", text)
    text = re.sub(r" \(\s*\$\\(?:epsilon_y|beta)[^)]*\)$", "", text)
    return re.sub(r"\(\s*\$\\epsilon_x = (\d+)\$\s*\)", r"(eps_x = \1)", text).strip()


def test_every_table_is_there(printed) -> None:
    assert set(printed) == set(PAPER) == set(range(1, 10))


@pytest.mark.parametrize("number", PAPER)
def test_a_tables_rows_are_as_printed(number, printed) -> None:
    table = PAPER[number]
    body = [line for line in printed[number] if re.fullmatch(r"NA|[\d.]+(e-?\d+)?", line[1])]
    found = {row_name(line[0]): tuple(None if cell == "NA" else float(cell) for cell in line[1:]) for line in body}
    assert found == dict(table.rows)
    assert all(len(cells) == len(table.columns) for cells in table.rows.values())
    assert len(body) == len(table.rows)


def test_a_cell_is_found_by_its_names() -> None:
    assert PAPER[6].cell("R-MC-LA+ (eps_x = 4)", "CE100") == 63.7
    assert PAPER[9].cell("[26]-IncepV3", "CE10-nt") is None
