"""The audit of the ladder: which images it left early, and whether a longer attack breaks them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bat_core.attacks.ladder import Ladder, left_after_first_stage
from bat_core.data import to_unit
from bat_core.errors import InputError
from bat_core.rng import PerExampleRNG
from bat_core.suites import SUITES, Entry, Suite
from tests.engine.evaluation.evaluations import (
    EPS,
    evaluated,
    model_folder,
    resume,
    verdicts_of,
)

N = 40
pytestmark = pytest.mark.usefixtures("alone", "made")


def early(within):
    """A ladder whose second stage takes images that came within `within` of the boundary."""
    (entry,) = SUITES["fast"](eps=EPS, step_size=EPS / 4).entries
    first, second = entry.attack.stages
    return replace(entry.attack, stages=(first, replace(second, within=within)))


@pytest.mark.parametrize("within", [0.02, 0.1, 0.5])
def test_the_far_images_are_those_that_later_stages_do_not_visit(robust_digits, digits, within):
    part, ladder = digits.test.take(slice(N)), early(within)
    x, y = to_unit(part.images), part.labels
    rng = PerExampleRNG(seed=0, names=("evaluate", "ladder"), indices=part.rows.tolist())
    standing, visited = torch.ones(N, dtype=torch.bool), torch.zeros(N, dtype=torch.bool)
    first = sum(search.steps + 1 for search in ladder.stages[0].searches)
    model = robust_digits.model.eval()
    for iterate in ladder.trajectory(model, x, y, generator=rng, active=standing):
        if iterate.step >= first:
            visited[iterate.rows] = True
        else:
            standing[iterate.rows] &= model(iterate.x).argmax(1) == y[iterate.rows]
            after_first = standing.clone()
    found = left_after_first_stage(ladder, model, x, y, generator=rng)
    assert torch.equal(found, after_first & ~visited)
    assert 0 < found.sum() < N


def weak(monkeypatch, within):
    """The suite fast as a ladder that leaves images early."""
    ladder = early(within)

    def fast(*, eps, step_size=None, norm="linf"):
        return Suite(name="fast", entries=(Entry(name="ladder", attack=replace(ladder, eps=eps), skip_broken=True),))

    monkeypatch.setitem(SUITES, "fast", fast)


def test_what_falls_among_the_far_images_is_reported(monkeypatch, capsys):
    weak(monkeypatch, within=0.001)
    folder = evaluated(suite="fast", n=N, batch_size=16, audit=1.0)
    audit = json.loads((model_folder(folder) / "audit.json").read_text())
    fast = verdicts_of(folder)
    both = verdicts_of(evaluated(suite="fast+quick", n=N, batch_size=16, output=Path("both")))
    fell = set(fast.rows[fast.robust_correct].tolist()) - set(both.rows[both.robust_correct].tolist())
    assert audit["standing"] == audit["drawn"] == fast.robust_correct.sum()
    assert 0 < audit["fallen"] == len(audit["rows"]) <= audit["far"] <= audit["drawn"]
    assert set(audit["rows"]) <= fell
    printed = capsys.readouterr().out
    said = f"quick broke {audit['fallen']} of {audit['far']} drawn images"
    for text in (" ".join(printed.split()), (folder / "table.md").read_text(), (folder / "report.html").read_text()):
        assert said in text
    assert json.loads((model_folder(folder) / "summary.json").read_text())["audit"] == audit
    assert fast.robust_acc == json.loads((model_folder(folder) / "summary.json").read_text())["robust_acc"]


def test_a_share_of_those_that_stand_is_drawn_once():
    folder = evaluated(suite="fast", n=N, batch_size=16, audit=0.3)
    file = model_folder(folder) / "audit.json"
    audit = json.loads(file.read_text())
    assert audit["drawn"] == -(-3 * audit["standing"] // 10)
    before = file.stat().st_mtime_ns
    assert resume(folder) == 0
    assert file.stat().st_mtime_ns == before


def test_an_audit_needs_the_ladder():
    with pytest.raises(InputError, match=r"--suite quick lacks it: write fast\+quick"):
        evaluated(suite="quick", audit=0.02)


def test_a_ladder_is_what_the_suite_fast_has():
    (entry,) = SUITES["fast"](eps=EPS, step_size=EPS / 4).entries
    assert isinstance(entry.attack, Ladder)
