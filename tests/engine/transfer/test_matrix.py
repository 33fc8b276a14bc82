"""What a transfer matrix shows: numbers, tables, pictures, and whether a black box beats a white box."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import binomtest

from bat_core.stats import wilson
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.evaluation.model_sources import ModelSource
from sweeps.engine.evaluation.spec import ModelRecord
from sweeps.engine.transfer.craft import TransferVerdicts
from sweeps.engine.transfer.matrix import alarm, as_csv, cells_of, sign_test
from sweeps.engine.transfer.plot import draw_matrix
from sweeps.engine.transfer.report import markdown, show
from tests.engine.transfer.matrices import N, matrix_of


def random_cells(count, *, name="eps8-seed"):
    """A matrix of `count` models under made-up verdicts."""
    draw = np.random.default_rng(0)
    names = [f"{name}{number}" for number in range(count)]
    models = tuple(ModelRecord(source=ModelSource(name=one), fingerprint=one) for one in names)
    judged = [
        TransferVerdicts(
            clean=draw.random(N) < 0.9, adversarial={a: draw.random((count, N)) < 0.6 for a in ("FGSM", "CE20")}
        )
        for _ in names
    ]
    return replace(matrix_of(()), models=models), cells_of(names, judged)


@pytest.fixture
def made():
    return random_cells(3)


def test_the_csv_has_a_line_a_cell(made):
    _, found = made
    rows = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert list(rows[0]) == ["source", "target", "attack", "n", "acc", "low", "high", "clean_acc_of_target"]
    assert len(rows) == len(found) == 2 * 3 * 3
    for row, cell in zip(rows, found, strict=True):
        assert (row["source"], row["target"], row["attack"]) == (cell.source, cell.target, cell.attack)
        numbers = [float(row[name]) for name in ("acc", "low", "high", "clean_acc_of_target")]
        assert numbers == pytest.approx([cell.correct / N, *wilson(cell.correct, N), cell.clean / N], abs=1e-6)


def stands(*counts, n=100):
    """(targets, n): the first so many images stand, for each target."""
    return np.array([np.arange(n) < count for count in counts])


def two(black, *, white=50, n=100):
    """Two models; on the first, the second's images leave `black` standing and its own `white`."""
    clean = np.ones(n, dtype=np.bool_)
    return cells_of(
        ["a", "b"],
        [
            TransferVerdicts(clean=clean, adversarial={"CE20": stands(white, 90, n=n)}),
            TransferVerdicts(clean=clean, adversarial={"CE20": stands(black, 40, n=n)}),
        ],
    )


def test_a_black_box_that_beats_the_white_box_is_a_red_flag_and_is_named():
    found = alarm(two(30))
    assert (found.red, len(found.cells)) == (True, 1)
    assert found.description.startswith("Red flag")
    assert (
        "a has 30.0% under CE20 crafted on b and 50.0% under its white-box, a difference of 20 of 100 images, p < 0.001"
        in found.description
    )


def test_a_black_box_that_beats_it_by_chance_is_named_and_no_red_flag():
    found = alarm(two(48))
    assert (found.red, len(found.cells)) == (False, 1)
    assert found.description.startswith(
        "No red flag: black box beats white box, but not significantly, in 1 of 2 cells"
    )
    assert "a has 48.0% under CE20 crafted on b" in found.description
    assert "p = 0.5 " in found.description


@pytest.mark.parametrize("black", [50, 51, 90])
def test_a_black_box_that_is_no_stronger_is_none(black):
    found = alarm(two(black))
    assert (found.red, found.cells) == (False, ())
    assert found.description == "No red flag: none of the 2 black-box cells beats the target's own white-box."


def test_many_are_counted_and_the_strongest_evidence_is_named():
    n, clean = 100, np.ones(100, dtype=np.bool_)
    names = [f"m{number}" for number in range(5)]
    judged = [
        TransferVerdicts(clean=clean, adversarial={"FGSM": stands(*(50 if s == t else 40 - s for t in range(5)), n=n)})
        for s in range(5)
    ]
    found = alarm(cells_of(names, judged))
    assert [cell.source for cell in found.cells[:4]] == ["m4"] * 4
    assert "in 20 of 20 cells" in found.description
    assert "and 17 more" in found.description


@pytest.mark.parametrize(("more", "fewer"), [(0, 0), (1, 0), (2, 1), (3, 9), (40, 25), (700, 640)])
def test_the_sign_test(more, fewer):
    expected = binomtest(more, more + fewer, alternative="greater").pvalue if more + fewer else 1.0
    assert sign_test(more, fewer) == pytest.approx(expected, rel=1e-9)


def shown(matrix, found, width=80):
    console = Console(width=width, file=io.StringIO(), record=True)
    show(console, matrix, found)
    return console.export_text()


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_the_printed_table_fits_eighty_columns_with_every_cell(count):
    matrix, found = random_cells(count, name="undefended-seed")
    text = shown(matrix, found)
    assert max(map(len, text.splitlines())) <= 80
    for cell in found:
        assert f"{100 * cell.acc:.1f}" in text
    lines = [line for line in text.splitlines() if line.startswith("│")]
    assert len(lines) == 2 * count
    for number, line in enumerate(lines):
        target, attack = matrix.names[number % count], ("FGSM", "CE20")[number // count]
        assert target in line
        (own,) = [cell for cell in found if cell.white_box and cell.target == target and cell.attack == attack]
        assert line.count(f"[{100 * own.acc:.1f}]") == 1
        row = [one.strip(" │[]!") for one in line.split("│")[3:-1]]
        assert row == [f"{100 * c.acc:.1f}" for c in found if c.target == target and c.attack == attack]


def test_of_many_models_the_strongest_black_box_is_printed():
    matrix, found = random_cells(18)
    text = shown(matrix, found)
    assert max(map(len, text.splitlines())) <= 80
    lines = [line for line in text.splitlines() if line.startswith("│")]
    assert len(lines) == 18
    for number, line in enumerate(lines):
        for attack, columns in (("FGSM", (3, 4, 5)), ("CE20", (6, 7, 8))):
            own, other, source = (line.split("│")[column].strip(" []!") for column in columns)
            row = [cell for cell in found if (cell.target, cell.attack) == (matrix.names[number], attack)]
            black = {cell.source: cell.acc for cell in row if not cell.white_box}
            assert own == f"{100 * row[number].acc:.1f}"
            assert other == f"{100 * min(black.values()):.1f}"
            assert black[matrix.names[int(source) - 1]] == min(black.values())


def test_not_verified_stands_with_the_numbers(made):
    matrix, found = made
    for text in (shown(matrix, found), markdown(matrix, found)):
        assert "not verified" in text.splitlines()[0]
        assert "no verifying suite" in text
    figure = draw_matrix(matrix, found)
    assert "not verified" in figure.get_suptitle()
    assert "no verifying suite" in figure.get_supxlabel()


def test_the_picture_shows_every_number_where_it_belongs_and_is_the_same_each_time(made, tmp_path):
    matrix, found = made
    figure = draw_matrix(matrix, found)
    fgsm, ce, _ = figure.axes
    for axes, attack in ((fgsm, "FGSM"), (ce, "CE20")):
        at = {(cell.source, cell.target): cell for cell in found if cell.attack == attack}
        values = axes.images[0].get_array()
        texts = {text.get_position(): text.get_text() for text in axes.texts}
        for x, source in enumerate(matrix.names):
            for y, target in enumerate(matrix.names):
                assert values[y, x] == at[source, target].acc
                assert texts[x, y - 0.1].rstrip("▼") == f"{100 * at[source, target].acc:.1f}"
        assert sorted(box.get_xy() for box in axes.patches) == [(i - 0.45, i - 0.45) for i in range(3)]
        assert (axes.get_title(), axes.get_xlabel()) == (attack, "crafted on")
    assert fgsm.get_ylabel() == "evaluated on"
    assert f"digits test, n = {N}, eps = 15.3 px" in figure.get_suptitle()
    once, twice = (save_figure(draw_matrix(matrix, found), tmp_path / name / "t") for name in folders(tmp_path))
    for a, b in zip(once, twice, strict=True):
        assert a.read_bytes() == b.read_bytes()


def folders(path):
    for name in ("once", "twice"):
        (path / name).mkdir()
        yield name
