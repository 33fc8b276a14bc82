"""What an evaluation prints and leaves as tables is what its summaries say, with suite and n beside it."""

import csv
import io
from dataclasses import replace

import pytest
from rich.console import Console

from sweeps.engine.evaluation.report import MOST_IN_FULL, as_csv, markdown, show
from sweeps.engine.evaluation.summaries import summarise
from tests.engine.evaluation.evaluations import drawn, evaluation

N = 40


@pytest.fixture
def summaries(tmp_path):
    """Makes an evaluation of some models and its summaries; no model has the verdicts of another."""

    def make(*names, suite="paper+quick", **changes):
        made = evaluation(*names, suite=suite, n=N, **changes)
        found = []
        for number, model in enumerate(made.models):
            folder = tmp_path / model.source.name
            folder.mkdir()
            found.append(summarise(made, model, drawn(made.attacks(), N, seed=number), folder))
        return made, found

    return make


def printed(made, found, width=200):
    console = Console(width=width, record=True, file=io.StringIO())
    show(console, made, found)
    return console.export_text()


def tables(text):
    """Each printed table's title and rows."""
    found, before = [], ""
    for line in text.splitlines():
        if line.startswith("┏"):
            found.append((before, []))
        elif line.startswith("│"):
            found[-1][1].append([cell.strip() for cell in line.strip("│").split("│")])
        before = line.strip()
    return found


def markdown_tables(text):
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in block[2:]] for block in blocks]


def percent(share):
    return f"{share:.1%}"


def between(interval):
    return "-".join(map(percent, interval))


def test_the_headline_has_each_models_worst_case_with_its_interval(summaries):
    made, found = summaries("one", "two")
    (_, rows) = tables(printed(made, found))[-1]
    expected = [
        [
            one["model"],
            percent(one["clean_acc"]),
            percent(one["robust_acc"]),
            between(one["robust_acc_interval"]),
        ]
        for one in found
    ]
    assert [row[:4] for row in rows] == expected
    assert expected[0][1:] != expected[1][1:]


def test_every_attack_has_a_line_with_its_settings(summaries):
    made, found = summaries("one")
    title, rows = tables(printed(made, found))[0]
    assert title.startswith("one")
    assert [(row[0], row[1], row[2]) for row in rows] == [
        (line["name"], percent(line["acc"]), between(line["interval"])) for line in found[0]["attacks"]
    ]
    by_name = {row[0]: row[3:] for row in rows}
    assert by_name["FGSM"] == ["1", "", "1", "all"]
    assert by_name["CE20"] == ["20", "2 px", "1", "all"]
    assert by_name["CW200"] == ["200", "2 px", "1", "all"]
    assert by_name["APGD-CE"] == ["100", "", "1", "remaining"]
    assert by_name["APGD-T"] == ["9 x 100", "", "1", "remaining"]


@pytest.mark.parametrize(("suite", "label"), [("paper", "paper, not verified"), ("paper+quick", "paper+quick")])
@pytest.mark.parametrize("count", [1, MOST_IN_FULL + 1])
def test_every_printed_table_names_the_suite_and_n(summaries, suite, label, count):
    made, found = summaries(*[f"m{number}" for number in range(count)], suite=suite)
    shown = tables(printed(made, found))
    assert len(shown) == 2
    for title, _ in shown:
        assert label in title
        assert f"n = {N}" in title
        assert ("not verified" in title) == ("not verified" in label)


def test_of_many_models_one_table_has_the_accuracies(summaries):
    names = [f"m{number}" for number in range(MOST_IN_FULL + 1)]
    made, found = summaries(*names)
    _, rows = tables(printed(made, found))[0]
    expected = [[one["model"], *[f"{100 * acc:.1f}" for acc in one["per_attack"].values()]] for one in found]
    assert rows == expected


def test_what_all_numbers_share_stands_below_the_attacks(summaries):
    made, found = summaries("one", seed=7)
    text = " ".join(printed(made, found).split())
    assert "digits test, n = 40, L-inf eps = 0.15686 (8 px of 5/255), seed 7, 95 % Wilson intervals" in text


def test_markdown_agrees_with_the_summaries(summaries):
    made, found = summaries("one", "two")
    text = markdown(made, found)
    head, lines = markdown_tables(text)
    assert text.startswith("Worst case over paper+quick; digits test, n = 40, ")
    assert [row[:4] for row in head] == [
        [
            one["model"],
            percent(one["clean_acc"]),
            percent(one["robust_acc"]),
            between(one["robust_acc_interval"]),
        ]
        for one in found
    ]
    assert [row[:4] for row in lines] == [
        [one["model"], line["name"], percent(line["acc"]), between(line["interval"])]
        for one in found
        for line in one["attacks"]
    ]


def test_the_csv_agrees_with_the_summaries(summaries):
    made, found = summaries("one", "two", suite="paper")
    rows = list(csv.DictReader(io.StringIO(as_csv(made, found))))
    assert {row["suite"] for row in rows} == {"paper, not verified"}
    assert {(row["dataset"], row["n"], row["seed"], float(row["eps"])) for row in rows} == {
        ("digits", "40", "0", made.eps)
    }
    worst = "worst case, not verified"
    for one in found:
        own = {row["attack"]: row for row in rows if row["model"] == one["model"]}
        assert list(own) == ["clean", *one["per_attack"], worst]
        expected = {"clean": one["clean_acc"], **one["per_attack"], worst: one["robust_acc"]}
        assert {name: float(row["acc"]) for name, row in own.items()} == pytest.approx(expected, abs=1e-6)
        limits = [float(own[worst][name]) for name in ("low", "high")]
        assert limits == pytest.approx(one["robust_acc_interval"], abs=1e-6)
    assert [list(row) for row in rows] == [list(rows[0])] * len(rows)


FLAG = {
    "name": "zero_gradient",
    "verdict": "masked",
    "says": "40.0% have no gradient [at all]",
    "why": "it cannot move",
}


def test_a_flag_and_a_finding_are_said_wherever_the_number_is(summaries):
    made, (summary, other) = summaries("one", "two")
    flagged = summary | {"verdict": "masked", "flags": [FLAG], "findings": ["the model [is] random"]}
    text = printed(made, [flagged, other])
    assert "one is masked (zero_gradient): 40.0% have no gradient [at all]; it cannot move" in text
    assert "one: the model [is] random" in text
    few = "The checks for masked gradients saw 40 images instead of 200: 1 image can be enough for a flag."
    assert few in text
    assert few in markdown(made, [flagged, other])
    assert few not in printed(made, [summary, other])
    assert few not in printed(replace(made, n=200), [flagged, other])
    assert tables(text)[-1][1][0][-1] == "masked"
    assert "- one: zero_gradient: 40.0% have no gradient [at all]" in markdown(made, [flagged, other])
    worst = [
        row for row in csv.DictReader(io.StringIO(as_csv(made, [flagged, other]))) if row["attack"] == "worst case"
    ]
    assert [row["verdict"] for row in worst] == ["masked", "not checked"]


def test_a_masked_models_number_is_said_not_to_be_verified(summaries):
    made, (summary, other) = summaries("one", "two", suite="quick")
    masked = summary | {"verdict": "masked", "suite": "quick, not verified: masked"}
    clear = other | {"verdict": "clear"}
    _, rows = tables(printed(made, [masked, clear]))[-1]
    assert [row[-1] for row in rows] == ["masked, not verified", "clear"]
    accuracies = [percent(one["robust_acc"]) for one in (masked, clear)]
    assert [row[2:4] for row in rows] == [["", f"~{accuracies[0]}"], [accuracies[1], ""]]
    head, _ = markdown_tables(markdown(made, [masked, clear]))
    assert [row[-1] for row in head] == ["masked, not verified", "clear"]
    in_csv = {row["model"]: row["suite"] for row in csv.DictReader(io.StringIO(as_csv(made, [masked, clear])))}
    assert in_csv == {"one": "quick, not verified: masked", "two": "quick"}
