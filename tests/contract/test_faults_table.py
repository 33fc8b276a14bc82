"""The table of faults in the documentation is that of the benchmark, and its tests are there."""

import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    return runpy.run_path(str(ROOT / "benchmarks" / "faults.py"))


def test_the_documentation_has_the_benchmarks_table(faults) -> None:
    assert faults["markdown"]() in (ROOT / "docs" / "reliability.md").read_text()


def test_every_row_names_tests_that_exist(faults) -> None:
    for row in faults["ROWS"]:
        for test in row.tests:
            file, _, name = test.partition("::")
            source = (ROOT / "tests" / file).read_text()
            assert not name or re.search(rf"^def {name}\(", source, re.MULTILINE), test
