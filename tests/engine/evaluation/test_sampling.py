"""Images that are drawn: what is attacked, what is said of all images, when it stops, and how it goes on."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from bat_core.errors import InputError
from bat_core.sequential import FEW, count_bounds
from bat_core.verdicts import Verdicts
from sweeps.engine.evaluation import sampling
from sweeps.engine.evaluation.attack import EvaluationFolder, joined
from sweeps.engine.evaluation.job import Job
from sweeps.engine.evaluation.leaderboard import collect
from sweeps.engine.evaluation.sampling import sample_of
from tests.engine.evaluation.evaluations import (
    contents,
    evaluated,
    killed_after,
    model_folder,
    nowhere,
    resume,
    shorten_suites,
    verdicts_of,
    written,
)

N = 40
pytestmark = pytest.mark.usefixtures("alone", "made")


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch):
    monkeypatch.setattr(sampling, "AT_A_TIME", 8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, made):
    """The verdicts of `fast` and `quick` on all images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        patch.setattr(Job, "_log", nowhere)
        shorten_suites(patch)
        return verdicts_of(evaluated(suite="fast+quick", n=N, batch_size=N))


def summary_of(folder):
    return json.loads((model_folder(folder) / "summary.json").read_text())


def sampled(**changes):
    return evaluated(**{"suite": "quick", "n": N, "batch_size": 16, **changes})


def test_some_survivors_of_fast_meet_the_suite(whole, capsys):
    folder = sampled(survivors=10)
    summary, place = summary_of(folder), model_folder(folder)
    fast = whole.clean_correct & whole.outcomes["ladder"].robust
    drawn = json.loads((place / "drawn.json").read_text())
    assert drawn["population"] == fast.sum() > 10
    assert len(set(drawn["rows"])) == 10
    assert set(drawn["rows"]) <= set(whole.rows[fast].tolist())
    attacked = Verdicts.read(place / "drawn.parquet")
    assert attacked.rows.tolist() == sorted(drawn["rows"])
    assert Verdicts.read(place / "verdicts.parquet").robust_correct.tolist() == fast.tolist()
    sample = summary["sampled"]
    fallen = int((~attacked.robust_correct).sum())
    assert (sample["drawn"], sample["fallen"], sample["population"]) == (10, fallen, fast.sum())
    bounds = count_bounds([(10, fallen)], int(fast.sum()), FEW)
    assert (sample["low"], sample["high"]) == ((fast.sum() - bounds.high) / N, (fast.sum() - bounds.low) / N)
    assert sample["low"] <= whole.robust_acc <= sample["high"]
    printed = capsys.readouterr().out
    for text in (printed, (folder / "table.md").read_text(), (folder / "report.html").read_text()):
        assert "fast and quick would leave" in text
        assert f"{sample['low']:.2%}-{sample['high']:.2%}" in text


def test_the_interval_has_a_name_of_its_own():
    folder = sampled(survivors=5)
    summary = summary_of(folder)
    assert summary["suite"] == "quick, sampled, not verified: at most"
    assert summary["verified_by"] is None
    assert summary["robust_acc"] == summary["sampled"]["high"]
    assert list(summary["per_attack"]) == ["LADDER"]
    lines = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [(line["attack"], line["acc"] == "") for line in lines] == [
        ("clean", False),
        ("LADDER", False),
        ("sampled", True),
    ]
    (entry,) = collect([folder])
    assert not entry.verified


def test_with_every_survivor_drawn_the_number_is_that_of_both_suites(whole):
    summary = summary_of(sampled(survivors=N))
    assert summary["sampled"]["exact"]
    assert summary["suite"] == "fast+quick"
    assert summary["robust_acc"] == whole.robust_acc == summary["sampled"]["low"]


@pytest.mark.parametrize(("question", "answer"), [({"stop_below": 0.99}, "below"), ({"stop_above": 0.05}, "at least")])
def test_it_stops_once_it_is_decided(question, answer, whole, capsys):
    folder = sampled(**question)
    sample = summary_of(folder)["sampled"]
    assert sample["answer"] == answer
    assert sample["drawn"] < sample["population"] == whole.clean_correct.sum()
    assert sample["low"] <= whole.robust_acc + 1e-9
    assert "stopped early" in capsys.readouterr().out
    assert not list(folder.rglob("shards/*/00-*"))  # of all images only clean ones were classified


def test_what_is_not_decided_is_exact():
    """It is not below itself, and every image is needed to know."""
    quick = verdicts_of(evaluated(suite="quick", n=N, output=Path("all"), batch_size=N)).robust_acc
    summary = summary_of(sampled(stop_below=quick))
    assert (summary["sampled"]["answer"], summary["sampled"]["exact"]) == ("undecided", True)
    assert (summary["robust_acc"], summary["suite"]) == (quick, "quick")


def test_a_question_can_end_the_draw_among_survivors():
    sample = summary_of(sampled(survivors=N, stop_below=0.99))["sampled"]
    assert (sample["answer"], sample["drawn"]) == ("below", 0)  # fast alone leaves less


@pytest.mark.parametrize("settings", [{"survivors": 20}, {"stop_below": 0.3, "stop_above": 0.9}])
@pytest.mark.parametrize("attacks", [1, 3])
def test_it_goes_on_where_it_was_killed(attacks, settings):
    expected = sampled(**settings, output=Path("undisturbed"))
    with killed_after(attacks):
        sampled(**settings)
    before = written(Path("out"))
    assert resume(Path("out")) == 0
    after = written(Path("out"))
    assert before.items() <= {path: after.get(path) for path in before}.items()
    mine, theirs = (
        {path: content for path, content in contents(one.resolve()).items() if path.suffix in {".parquet", ".csv"}}
        for one in (Path("out"), expected)
    )
    assert mine == theirs
    assert summary_of(Path("out"))["sampled"] == summary_of(expected)["sampled"]


def test_a_damaged_batch_of_drawn_images_is_attacked_again():
    folder = sampled(survivors=20)
    before, place = contents(folder), model_folder(folder) / "drawn"
    file = place / "000000" / "01-apgd-t.parquet"
    file.write_bytes(file.read_bytes()[:50])
    assert resume(folder) == 0
    assert contents(folder) == before


def test_a_draw_of_other_images_is_refused():
    folder = sampled(survivors=5)
    path = model_folder(folder) / "drawn.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"population": 3}))
    with pytest.raises(InputError, match="is of other images than those that stand"):
        resume(folder)


def test_the_interval_so_far_looks_at_whole_batches_in_order(whole):
    folder = sampled(stop_above=0.99)
    job, place = EvaluationFolder(folder).load(), model_folder(folder)
    for path in (place / "drawn").glob("000016/*"):
        path.unlink()
    sample = sample_of(job, place)
    assert sample.drawn == 16
    assert np.array_equal(joined(job, place).clean_correct, whole.clean_correct)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"survivors": 5, "suite": "paper"}, "has attacks on all images: use fast, quick or standard"),
        ({"survivors": 5, "suite": "fast+quick"}, "leave it out of --suite fast"),
        ({"survivors": 0}, "--survivors"),
        ({"stop_below": 0.5, "gallery": 3}, "--gallery needs all images: leave out --stop-below"),
        ({"stop_below": 0.5, "stop_above": 0.4}, "both would hold"),
        ({"survivors": 5, "find_best": True}, "--find-best needs exact numbers"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(changes, says):
    with pytest.raises(InputError, match=says):
        sampled(**changes)
    assert not Path("out").exists()
