"""A sweep's page: verified and unverified numbers apart, classes and answers from verdicts, reasons as they are."""

from dataclasses import replace

import numpy as np
import pytest

from bat_core.config import AttackConfig, RecipeConfig, TrialConfig
from bat_core.suites import evaluation_suite
from bat_core.verdicts import UNBROKEN, Outcome, Verdicts
from sweeps.engine.pages.document import UNVERIFIED_COLUMNS, Heat, Notes, render
from sweeps.engine.pages.sweep_page import COLUMNS, Story, sweep_page
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import VERDICTS, Record
from sweeps.engine.sweep.spec import Resources, Sweep, Trial

ATTACK = AttackConfig(eps=40 / 255, step_size=10 / 255, steps=(1,), verify=4)
STORY = Story(title="T", question="Q?", answer="A.", subcommand="figure-1")


def finish(folder, trial, *, robust, verified=True, verdict="clear", predicted=True):
    """Give a trial a record and verdicts on four images of two classes, of which `robust` stand."""
    home, suite = folder.trial(trial), evaluation_suite(ATTACK)
    stands = np.arange(4) < robust
    outcome = Outcome(
        broken_at=np.where(stands, UNBROKEN, 1),
        final=np.zeros((4, 0), dtype=np.bool_),
        predicted=np.where(stands, -1, 1) if predicted else None,
    )
    record = Record(home)
    record.append("start", device="cpu", versions={"torch": "2"})
    Verdicts(
        rows=np.arange(4),
        labels=np.array([0, 1, 0, 0]),
        clean_correct=np.ones(4, dtype=np.bool_),
        outcomes={"pgd": outcome},
        clean_predicted=np.array([0, 1, 0, 0]) if predicted else None,
    ).write(home / VERDICTS)
    label = suite.label_for(verdict) if verified else "PGD-1, not verified"
    record.append(
        "finished", suite=label, verdict=verdict, clean_acc=1.0, robust_acc=robust / 4, pgd_acc=robust / 4, n=4,
        robust_n=4, flags=[],
    )  # fmt: skip


@pytest.fixture
def board(tmp_path):
    def make(*ids):
        config = TrialConfig(attack=ATTACK, recipe=RecipeConfig(name="R-MC-LA", params={"eps": 40 / 255}))
        trials = tuple(Trial(id=one, config=config) for one in ids)
        sweep = Sweep(name="s", command="c", data_dir=None, pixel=5 / 255, resources=Resources(), trials=trials)
        return sweep, SweepFolder(tmp_path), trials

    return make


def cells(page, heading="Leaderboard"):
    """The rows of a table, as texts by column, by the first cell."""
    (table,) = [one for one in page.sections if one.heading == heading]
    rows = [dict(zip(table.columns, [getattr(cell, "text", cell) for cell in row], strict=True)) for row in table.rows]
    return {row["model"]: row for row in rows}


def test_the_suite_that_all_models_met_is_said_once(board):
    sweep, folder, (one, other) = board("one", "other")
    for trial in (one, other):
        finish(folder, trial, robust=2)
    page = sweep_page(sweep, folder, STORY)
    (table,) = [section for section in page.sections if section.heading == "Leaderboard"]
    assert not {"n", "suite"} & set(table.columns)
    assert table.note.startswith(f"The same for all: n 4, suite {evaluation_suite(ATTACK).label_for('clear')}. ")


def test_where_no_model_met_a_suite_nothing_is_said_of_one(board):
    sweep, folder, trials = board("one", "other")
    for trial in trials:
        Record(folder.trial(trial)).append("failed", reason="out of memory")
    (table, *_) = [one for one in sweep_page(sweep, folder, STORY).sections if one.heading == "Leaderboard"]
    assert table.note.startswith("Robust: ")


def test_an_unverified_number_is_never_among_the_verified(board):
    sweep, folder, (good, loud, masked, failed) = board("good", "loud", "masked", "failed")
    finish(folder, good, robust=2)
    finish(folder, loud, robust=3, verified=False)
    finish(folder, masked, robust=4, verdict="masked")
    Record(folder.trial(failed)).append("failed", reason="out of memory")
    rows = cells(sweep_page(sweep, folder, STORY))
    assert list(rows) == ["good", "masked", "loud", "failed"]
    assert {name: row["robust, verified"] for name, row in rows.items()} == {
        "good": "50.0%", "masked": "-", "loud": "-", "failed": "-"
    }  # fmt: skip
    assert {name: row["not verified"] for name, row in rows.items()} == {
        "good": "-", "masked": "100.0%", "loud": "75.0%", "failed": "-"
    }  # fmt: skip
    assert rows["failed"]["state"] == "failed: out of memory"
    answer = sweep_page(sweep, folder, STORY).answer
    assert answer == "A. 3 trials of 4 finished, 2 clear, 1 masked, 2 not verified, 1 failed."


def test_classes_and_answers_are_those_of_the_best_verified_model(board):
    sweep, folder, (good, loud) = board("good", "loud")
    finish(folder, good, robust=2)
    finish(folder, loud, robust=4, verified=False)
    page = sweep_page(sweep, folder, STORY)
    by_class, confusion = (one for one in page.sections if isinstance(one, Heat))
    assert [(name, [cell[1] for cell in row]) for name, row in by_class.rows] == [
        ("good", ["33", "100"]),
        ("~loud", ["100", "100"]),
    ]
    assert confusion.heading == "Confusion under attack: good"
    assert [[cell and cell[1] for cell in row] for _, row in confusion.rows] == [["1", "2"], [None, "1"]]


def test_verdicts_without_predictions_say_so(board):
    sweep, folder, (old,) = board("old")
    finish(folder, old, robust=2, predicted=False)
    (notes,) = [one for one in sweep_page(sweep, folder, STORY).sections if isinstance(one, Notes)]
    assert notes.note.startswith("Not kept")


def test_hostile_names_and_reasons_are_shown_as_they_are(board):
    sweep, folder, (trial,) = board("trial")
    Record(folder.trial(trial)).append("failed", reason='</td><script src="//e"></script>')
    story = replace(STORY, title="<script>alert('x')", setting=lambda _: "<img onerror=x>")
    text = render(sweep_page(sweep, folder, story))
    assert text.count("<script") == 1
    assert "<img" not in text
    assert "&lt;script&gt;alert(&#39;x&#39;)" in text
    assert "&lt;/td&gt;&lt;script src=&#34;//e&#34;&gt;" in text


def test_a_damaged_file_of_verdicts_takes_no_page_away(board):
    sweep, folder, (good,) = board("good")
    finish(folder, good, robust=2)
    (folder.trial(good) / VERDICTS).write_bytes(b"no")
    page = sweep_page(sweep, folder, STORY)
    assert list(cells(page)["good"]) == [name for name in COLUMNS if name not in UNVERIFIED_COLUMNS]
    assert not [one for one in page.sections if isinstance(one, Heat)]
