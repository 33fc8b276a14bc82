"""The leaderboard: models of many folders, by data set and budget, verified and unverified numbers apart."""

import csv
import io

import pytest
from rich.console import Console

from bat_core.errors import InputError
from sweeps.engine.evaluation.leaderboard import as_csv, as_page, run_leaderboard, show
from sweeps.engine.evaluation.leaderboard_entries import Entry, beside, collect, protocol
from tests.engine.pages.test_sweep_page import board, finish  # noqa: F401 (a fixture)


def entry(model, robust, **changes):
    known = {
        "dataset": "digits", "split": "test", "eps": 40 / 255, "eps_pixels": 8.0, "folder": "f", "clean_acc": 0.9,
        "n": 100, "suite": "quick", "verdict": "clear",
    }  # fmt: skip
    return Entry(model=model, robust_acc=robust, **known | changes)


LOUD = {"suite": "PGD-20, not verified"}


@pytest.fixture
def tmp_path(tmp_path):
    """A folder in a folder of its own: pytest's other folders are not beside it."""
    (tmp_path / "sweep").mkdir()
    return tmp_path / "sweep"


def test_models_of_a_sweep_are_found_with_recipe_seed_and_kind(board, tmp_path):  # noqa: F811
    sweep, folder, (good, loud, _) = board("good", "loud", "waiting")
    folder.create(sweep)
    finish(folder, good, robust=2)
    finish(folder, loud, robust=3, verified=False)
    for named in (tmp_path, tmp_path.parent):
        found = {one.model: one for one in collect([named])}
        assert set(found) == {"good", "loud"}
    assert (found["good"].verified, found["loud"].verified) == (True, False)
    assert (found["good"].recipe, found["good"].train_eps_pixels, found["good"].seed) == ("R-MC-LA", 8.0, 0)
    assert len(collect([tmp_path, tmp_path, tmp_path.parent])) == 2


def test_a_number_is_in_the_column_of_its_kind_only():
    rows = {
        row["model"]: row for row in csv.DictReader(io.StringIO(as_csv([entry("a", 0.4), entry("b", 0.8, **LOUD)])))
    }
    assert (rows["a"]["robust_verified"], rows["a"]["robust_not_verified"]) == ("0.4", "")
    assert (rows["b"]["robust_verified"], rows["b"]["robust_not_verified"]) == ("", "0.8")
    page = as_page([entry("a", 0.4), entry("b", 0.8, **LOUD)])
    assert "1 of 2 models are verified" in page
    assert '<td class="unverified number" data-sort="0.8">80.0%</td>' in page


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminals_table_marks_what_is_not_verified_and_fits(width):
    console = Console(width=width, record=True, file=io.StringIO())
    show(console, [entry("a" * 30, 0.4), entry("b", 0.8, **LOUD)])
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert any("~80.0%" in line for line in lines)
    assert not any("~40.0%" in line for line in lines)
    assert any("40.0% (31-50)" in line for line in lines)


def test_where_all_is_verified_nothing_is_said_of_what_is_not():
    console = Console(width=120, record=True, file=io.StringIO())
    show(console, [entry("a", 0.4), entry("b", 0.3)])
    text = console.export_text()
    assert "~" not in text
    assert "30.0% (22-40)" in text
    page = as_page([entry("a", 0.4), entry("b", 0.3)])
    assert "95 % of it" not in page
    assert "The same for all: suite quick, n 100" in page


def test_what_cannot_be_compared_is_not_in_one_table():
    groups = {entry("a", 0.4, **change).group for change in ({}, {"split": "val"}, {"eps": 0.1}, {"dataset": "svhn"})}
    assert len(groups) == 4


def test_names_do_no_harm_in_a_spreadsheet_or_a_page():
    hostile = entry("=cmd()", 0.4, folder="<script>")
    assert "'=cmd()" in as_csv([hostile])
    for shown in ([hostile], [hostile, hostile]):  # alone in a cell, then in the note
        assert "<script>" not in as_page(shown).replace('<script>"use strict"', "", 1)


def test_bad_input_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no folder is given"):
        run_leaderboard([])
    with pytest.raises(InputError, match="has no sweep or evaluation"):
        run_leaderboard([str(tmp_path)])


def test_a_sweep_without_a_finished_model_is_said(board, tmp_path):  # noqa: F811
    sweep, folder, _ = board("waiting")
    folder.create(sweep)
    with pytest.raises(InputError, match="no finished model on 'svhn'"):
        run_leaderboard([str(tmp_path)], dataset="svhn")


def test_published_entries_stand_beside_own_models_of_the_same_budget():
    own = entry("mine", 0.5, dataset="cifar10", eps=8 / 255, n=1000, training_data="trained on 5,000 images")
    other = entry("val", 0.5, dataset="cifar10", eps=8 / 255, split="val")
    theirs = beside([own, other, entry("digits", 0.5)], 3)
    assert [one.robust_acc for one in theirs] == sorted((one.robust_acc for one in theirs), reverse=True)
    assert {(one.group, one.n, one.folder) for one in theirs} == {(own.group, 10_000, "RobustBench")}
    assert len(theirs) == 3
    lines = protocol([*theirs, own])
    assert "AutoAttack on 10,000 test images" in lines[0]
    assert "f/mine differs: quick instead of AutoAttack" in lines[1]
    assert "1,000 images instead of 10,000; trained on 5,000 images" in lines[1]
    page = as_page([*theirs, own])
    assert theirs[0].model in page
    assert "mine of f is first" in page
    assert protocol([own]) == []
    assert beside([own], 0) == []


def test_budgets_of_two_norms_are_two_tables():
    linf = entry("a", 0.5, dataset="cifar10", eps=8 / 255)
    l2 = entry("b", 0.5, dataset="cifar10", eps=0.5, norm="l2")
    assert l2.group == "cifar10, test images, L2 0.5"
    assert linf.group != l2.group
    assert {one.norm for one in beside([linf], 2)} == {"linf"}
    assert {one.norm for one in beside([l2], 2)} == {"l2"}
    assert {row["norm"] for row in csv.DictReader(io.StringIO(as_csv([linf, l2])))} == {"linf", "l2"}
