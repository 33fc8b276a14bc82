"""The full-size reproduction, in the form that a CPU runs in seconds."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from bat_core.suites import get_suite
from sweeps.engine.paper.reported import PAPER

pytestmark = pytest.mark.slow

TINY = ("--dataset", "digits", "--train-size", "256", "--model", "small_cnn_8", "--epochs", "1", "--n", "12")


@pytest.fixture
def reproduce(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    yield importlib.import_module("reproduce")
    for name in [name for name in sys.modules if name == "reproduce" or name.partition(".")[0] == "support"]:
        del sys.modules[name]


def test_both_budgets_are_trained_and_judged_by_both_suites(reproduce, tmp_path):
    path = tmp_path / "report.json"
    report = reproduce.main([*TINY, "--batch", "5", "--suites", "paper", "quick", "--output", str(path)])
    assert [one["eps_x"] for one in report["models"]] == [8, 4]
    names = {name for entry in get_suite("paper", eps=0.1).entries for name, _ in entry.readings()}
    for one in report["models"]:
        assert set(one["ours"]) == {"clean", *names, "worst case of paper+quick"}
        assert one["ours"]["worst case of paper+quick"] <= min(one["ours"].values())
        assert one["n"] == 12
        assert len(one["epoch_seconds"]) == 1
    assert report["models"][0]["config"]["recipe"]["params"]["eps"] == pytest.approx(40 / 255)
    assert json.loads(path.read_text())["models"][1]["eps_x"] == 4


def test_its_numbers_of_the_paper_are_the_tables(reproduce):
    for pixels, numbers in reproduce.PAPER.items():
        for column, number in numbers.items():
            assert PAPER[6].cell(f"R-MC-LA (eps_x = {pixels})", column) == number
