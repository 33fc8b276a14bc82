"""The worked examples of docs/threats.md run, and what the page says of budgets is what the code has."""

import re
from pathlib import Path

import pytest
import torch

from bat_core.norms import L2_BUDGETS

PAGE = (Path(__file__).parents[2] / "docs" / "threats.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)


def test_there_are_two_examples():
    assert len(EXAMPLES) == 2
    assert all("assert" in example for example in EXAMPLES)


@pytest.mark.parametrize("number", range(2))
def test_an_example_runs(number):
    with torch.random.fork_rng(devices=[]):
        exec(compile(EXAMPLES[number], f"example {number}", "exec"), {})


def test_the_budgets_are_those_of_the_code():
    table = PAGE.partition("| data | budget | from |")[2].partition("## ")[0]
    for name, budget in L2_BUDGETS.items():
        line = next(line for line in table.splitlines() if f"`{name}`" in line)
        names, budgets = (re.split(r", ", cell.strip()) for cell in line.split("|")[1:3])
        said = dict(zip(names, budgets * len(names) if len(budgets) == 1 else budgets, strict=True))
        assert float(said[f"`{name}`"]) == budget
