"""A table's numbers are those of its verdicts, and its claims are judged by their intervals."""

import csv
import io
import math

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from bat_core.stats import wilson
from sweeps.engine.paper.report import as_csv, markdown, said, show
from sweeps.engine.paper.results import Number, student
from sweeps.engine.paper.run import report
from sweeps.engine.paper.table_spec import Clean, Table, White, about, at_most, cited, more, row, times
from tests.engine.paper.made import N, result

MC, LA = row("R-MC"), row("R-MC-LA")
CE20 = White("ce", 20)


def table(*claims) -> Table:
    return Table(number=5, rows=(MC, LA, cited("Madry")), columns={"clean": Clean(), "CE20": CE20}, claims=claims)


def test_ours_stands_beside_the_papers(tmp_path):
    counts = {("R-MC", 0): 10, ("R-MC", 1): 12, ("R-MC", 2): 14}
    made = result(tmp_path, table(), lambda name, seed: {"ce": counts.get((name, seed), 20)})
    mc, la, madry = made.lines
    assert mc.paper == {"clean": 89.9, "CE20": 43.4}
    assert mc.ours["CE20"].values == {0: 10 / N, 1: 12 / N, 2: 14 / N}
    assert mc.ours["CE20"].mean == pytest.approx(12 / N)
    assert la.ours["CE20"].values == dict.fromkeys(range(3), 0.5)
    assert madry.cited
    assert madry.ours == {}
    assert madry.paper["CE20"] == 45.8


def test_the_verified_worst_case_stands_in_every_row(tmp_path):
    made = result(tmp_path, table(), lambda name, seed: {"ce": 20, "apgd-t": 7 + seed}, masking_status="suspect")
    held = made.lines[0].robustness
    assert held.robust.values == {seed: (7 + seed) / N for seed in range(3)}
    assert held.masking_status == "suspect"
    assert f"| {100 * 8 / N:.1f}" in markdown(made).replace("**", "")


def test_masked_models_are_called_unverified(tmp_path):
    made = result(tmp_path, table(), lambda name, seed: {}, masking_status="masked")
    assert "not verified" in made.lines[0].robustness.suite
    assert "masked" in markdown(made)
    assert "| not verified | checks |" in markdown(made)


def test_a_masked_model_among_others_has_a_mark_and_a_column_of_its_own_in_the_csv(tmp_path, capsys):
    made = result(tmp_path, table(), lambda name, seed: {"apgd-t": 4}, masking_status={"R-MC": "masked"})
    show(Console(width=200), made)
    for text in (capsys.readouterr().out, markdown(made).replace("**", "")):
        assert "~10.0 ±" in text
        assert " 10.0 ±" in text
        assert "~: not verified" in text
    rows = {one["row"]: one for one in csv.DictReader(io.StringIO(as_csv(made)))}
    assert (rows["R-MC"]["verified"], rows["R-MC"]["not_verified"]) == ("", "10")
    assert (rows["R-MC-LA"]["verified"], rows["R-MC-LA"]["not_verified"]) == ("10", "")
    assert (rows["R-MC"]["verdict"], rows["R-MC-LA"]["verdict"]) == ("masked", "clear")


def test_a_model_that_holds_nothing_has_nothing_to_mask(tmp_path, capsys):
    made = result(tmp_path, table(), lambda name, seed: {"apgd-t": 0 if seed < 2 else 4})
    show(Console(width=200), made)
    for text in (capsys.readouterr().out, markdown(made), as_csv(made)):
        assert "clear 1, nothing to mask 2" in text


def test_models_that_answer_one_class_alone_are_named_and_do_not_stand_best(tmp_path):
    def active(name, seed):
        return {"ce": 40, "apgd-t": 40, "only": 3} if (name, seed) == ("R-MC", 1) else {"apgd-t": 2}

    about_it, not_about_it = more("MC above LA", (MC, CE20), (LA, CE20)), at_most("LA near zero", (LA, CE20), 0.99)
    made = result(tmp_path, table(about_it, not_about_it), active)
    assert {one.row.name: one.one_class for one in made.robustness.values()} == {"R-MC": 1, "R-MC-LA": 0}
    assert [one.word for one in made.claim_results] == ["says nothing", "shows"]
    assert "* says nothing: MC above LA" in markdown(made)
    assert "our numbers show 1 and do not show 0; 0 are undecided, 1 say nothing." in report(made).sentence
    assert "correct on one class only: R-MC 1. They predict" in markdown(made)
    assert "R-MC-LA is the most robust" in report(made).sentence


def test_a_row_that_was_not_run_says_so(tmp_path):
    made = result(tmp_path, table(), lambda name, seed: {}, rows={"R-MC"})
    assert made.lines[1].ours == {"clean": None, "CE20": None}
    line = next(line for line in markdown(made).splitlines() if line.startswith("| R-MC-LA"))
    assert line.count("not run") == 3


def test_the_interval_is_the_wider_of_seeds_and_images():
    close, apart = Number({0: 0.5, 1: 0.5, 2: 0.5}, 100), Number({0: 0.2, 1: 0.5, 2: 0.8}, 100)
    assert close.interval == wilson(50, 100)
    assert apart.interval == pytest.approx(student([0.2, 0.5, 0.8]))
    assert Number({0: 0.5}, 100).interval == wilson(50, 100)
    assert Number({0: 3.0, 1: 1.0}, 0).interval == (1.0, 3.0)


def test_students_interval_is_scipys():
    values = [0.31, 0.35, 0.29, 0.4]
    assert student(values) == pytest.approx(
        stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values)), abs=1e-12
    )


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ((20, 21, 22), (10, 11, 11), "shows"),
        ((10, 11, 11), (20, 21, 22), "does not show"),
        ((10, 20, 30), (12, 13, 11), "undecided"),
    ],
)
def test_a_difference_is_judged_by_seed(tmp_path, first, second, word):
    claim = more("LA above MC", (LA, CE20), (MC, CE20))
    counts = {"R-MC-LA": first, "R-MC": second}
    made = result(tmp_path, table(claim), lambda name, seed: {"ce": counts[name][seed]})
    (judged,) = made.claim_results
    assert judged.word == word
    differences = [(a - b) / N for a, b in zip(first, second, strict=True)]
    assert judged.mean == pytest.approx(np.mean(differences))
    assert judged.interval == pytest.approx(student(differences))
    assert f"* {word}: LA above MC" in markdown(made)


@pytest.mark.parametrize(("reach", "word"), [(0.5, "shows"), (0.051, "undecided"), (0.001, "undecided")])
def test_about_equal_means_that_the_interval_lies_within(tmp_path, reach, word):
    counts = {"R-MC-LA": (20, 22, 21), "R-MC": (20, 21, 22)}
    claim = about("equal", (LA, CE20), (MC, CE20), within=reach)
    made = result(tmp_path, table(claim), lambda name, seed: {"ce": counts[name][seed]})
    assert made.claim_results[0].word == word


def test_far_apart_is_not_about_equal(tmp_path):
    claim = about("equal", (LA, CE20), (MC, CE20), within=0.03)
    made = result(tmp_path, table(claim), lambda name, seed: {"ce": (30 if name == "R-MC" else 10) + seed % 2})
    assert made.claim_results[0].word == "does not show"


@pytest.mark.parametrize(("counts", "word"), [((0, 1, 0), "shows"), ((20, 21, 20), "does not show")])
def test_near_zero(tmp_path, counts, word):
    made = result(tmp_path, table(at_most("nothing", (MC, CE20), 0.06)), lambda name, seed: {"ce": counts[seed]})
    assert made.claim_results[0].word == word


def test_a_ratio_is_judged_by_its_logarithm(tmp_path):
    counts = {"R-MC-LA": (20, 22, 21), "R-MC": (2, 2, 2)}
    claims = [times(f"{least}", (LA, CE20), (MC, CE20), at_least=least) for least in (5, 10, 20)]
    made = result(tmp_path, table(*claims), lambda name, seed: {"ce": counts[name][seed]})
    assert [one.word for one in made.claim_results] == ["shows", "undecided", "does not show"]
    assert made.claim_results[0].mean == pytest.approx(np.mean([math.log10(a / 2) for a in counts["R-MC-LA"]]))
    assert "10.5 times" in said(made.claim_results[0])


def test_one_seed_decides_nothing(tmp_path):
    claim = more("LA above MC", (LA, CE20), (MC, CE20))
    made = result(tmp_path, table(claim), lambda name, seed: {"ce": 30 if name == "R-MC-LA" else 1}, seeds=(0,))
    assert made.claim_results[0].word == "undecided"
    assert "1 seed" in said(made.claim_results[0])


def test_a_claim_about_rows_that_were_not_run_says_so(tmp_path):
    claim = more("LA above MC", (LA, CE20), (MC, CE20))
    made = result(tmp_path, table(claim), lambda name, seed: {}, rows={"R-MC"})
    assert made.claim_results[0].word == "not run"


def test_the_csv_has_each_cell_with_its_seeds(tmp_path):
    made = result(tmp_path, table(), lambda name, seed: {"ce": 10 + seed, "apgd-t": 4})
    lines = [line.split(",") for line in as_csv(made).splitlines()]
    head, body = lines[0], [dict(zip(lines[0], line, strict=False)) for line in lines[1:]]
    assert len(body) == 6
    cell = next(one for one in body if one["row"] == "R-MC" and one["column"] == "CE20")
    assert (cell["paper"], cell["ours"], cell["difference"]) == ("43.4", "27.5", "-15.9")
    assert cell["by_seed"] == "0:25;1:27.5;2:30"
    assert (cell["verified"], cell["not_verified"], cell["robust_n"], cell["verdict"]) == ("10", "", str(N), "clear")
    cited_cell = next(one for one in body if one["row"] == "Madry" and one["column"] == "CE20")
    assert (cited_cell["paper"], cited_cell["ours"]) == ("45.8", "")
    assert head[0] == "table"
