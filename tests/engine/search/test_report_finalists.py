"""What a search's report says about finalists and the champion."""

from dataclasses import replace

import pytest

from sweeps.engine.search.finalists import chosen_model, finalist_origins
from sweeps.engine.search.report import report_md, sentence
from sweeps.engine.search.results import MASKED
from sweeps.engine.search.text import describe_rule, nothing_to_retrain
from tests.engine.search.reports import rows, section
from tests.engine.search.views import (
    finalist_of,
    score_of,
    search_of,
    view_of,
)


def test_finalists_are_means_on_validation_and_test_is_told_apart(snapshot, report):
    said = section(report, "Finalists and champion")
    validation, test = said.split("On test images:")
    chosen = snapshot.finalists[1]
    (row,) = [row for row in rows(validation, "finalist") if "champion" in row[0]]
    assert row[0] == f"{chosen.origin.id} (champion)"
    robust = [100 * one.robust_acc for one in chosen.members]
    assert row[2] == f"{sum(robust) / 3:.1f}% [{min(robust):.1f}-{max(robust):.1f}]"
    assert row[3:5] == ["200", "clear, clear, clear"]
    table = rows(test, "finalist")
    assert len(table) == 9
    for finalist in snapshot.finalists:
        for tested in finalist.tested:
            low, high = tested.robust_interval
            expected = f"{tested.robust_acc:.1%} ({100 * low:.1f}-{100 * high:.1f})"
            row = [finalist.origin.id, tested.trial, f"{tested.clean_acc:.1%}", expected, "360", "standard", "clear"]
            assert row in table
    assert f"The champion is {snapshot.champion}: {chosen.origin.id}, the most robust of its seeds" in said
    assert f"`knee`: {describe_rule('knee')}." in said
    assert "All choices were made on validation images, which were split from train. Test images were used once" in said


def test_without_finalists_it_says_how_to_get_them(snapshot):
    none = replace(snapshot, finalists=(), champion=None)
    waiting = section(report_md(none), "Finalists and champion")
    assert waiting.strip().startswith(
        "The finalists have not been trained yet. To get them, resume this search with `--finalists K`"
    )
    assert "Test images were not used" in waiting
    asked = section(report_md(replace(none, search=search_of("bat", final=False))), "Finalists and champion")
    assert asked.strip().startswith("This search has no finalists.")


def test_no_champion_is_no_champion(snapshot):
    said = report_md(replace(snapshot, champion=None))
    assert "There is no champion: no finalist satisfies the rule" in said
    assert "Champion:" not in sentence(replace(snapshot, champion=None))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("robust-at-clean>=90%", "the most robust finalist with clean accuracy of at least 90%"),
        ("robust-per-hour", "the highest verified robust accuracy per hour of training"),
        (
            "knee",
            "the finalist farthest above the straight line from the most robust finalist to the most accurate one",
        ),
    ],
)
def test_each_rule_has_its_words(name, words):
    assert describe_rule(name) == words


def test_if_no_trial_met_the_constraint_there_are_no_finalists_and_both_texts_say_why():
    search = search_of("bat", objective="robust-at-clean>=0.95")
    view = view_of(search, [score_of(search, 0, 0.9, 0.4), score_of(search, 1, 0.8, 0.5)])
    assert finalist_origins(view) == []
    why = nothing_to_retrain(view)
    assert why.startswith("No trial has the clean accuracy of at least 95.0% that the objective requires: the cleanest")
    said = section(report_md(view), "Finalists and champion")
    assert f"{why} So there are no finalists: nothing was retrained, and no model was registered." in said
    assert "Test images were not used" in said
    masked = view_of(search_of("bat"), [score_of(search, 0, 0.9, 0.4, masking_status=MASKED)])
    assert finalist_origins(masked) == []
    assert "So there are no finalists" in section(report_md(masked), "Finalists and champion")
    assert nothing_to_retrain(view_of(search)) is None


def test_finalists_are_trials_that_meet_the_constraint():
    search = search_of("bat", objective="robust-at-clean>=0.85")
    met, missed = score_of(search, 0, 0.9, 0.4), score_of(search, 1, 0.8, 0.5)
    assert finalist_origins(view_of(search, [met, missed])) == [met]
    assert nothing_to_retrain(view_of(search, [met, missed])) is None
    both = view_of(search_of("bat"), [met, missed])
    assert {one.id for one in finalist_origins(both)} == {met.id, missed.id}


def test_a_champion_has_the_clean_accuracy_that_the_objective_requires():
    search = search_of("bat", objective="robust-at-clean>=0.85")
    met = finalist_of(search, score_of(search, 0, 0.9, 0.4))
    missed = finalist_of(search, score_of(search, 1, 0.86, 0.7), shift=-0.05)
    assert chosen_model([met, missed], search) == max(met.members, key=lambda one: one.robust_acc)
    assert chosen_model([missed], search) is None
    said = report_md(view_of(search, [met.origin], finalists=(missed,)))
    assert "no finalist satisfies the rule knee and the objective's clean accuracy of at least 85.0%" in said
    assert chosen_model([missed], search_of("bat")) is not None
