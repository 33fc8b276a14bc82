import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bat_core.data import load_dataset
from bat_core.errors import InputError
from bat_core.suites import get_suite

pytestmark = pytest.mark.slow

pytest.importorskip("foolbox")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = ("agreement", "evaluate", "ladder", "masking")
TINY = {"network": "small_cnn_8", "epochs": 2, "train_size": 640, "n": 12, "threads": 1}


@pytest.fixture
def script(monkeypatch):
    """Imports a module of the benchmarks as they are run: from their own folder."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module
    for name in [name for name in sys.modules if name in SCRIPTS or name.partition(".")[0] == "support"]:
        del sys.modules[name]
    torch.set_num_threads(threads)
    torch.set_rng_state(state)


def test_evaluate_measures_every_part(script, tmp_path):
    evaluate = script("evaluate")
    output = tmp_path / "evaluate.json"
    few = {"steps": (1, 2, 3), "suites": ("quick",), "verifying": ("fast", "quick")}
    options = evaluate.Options(**TINY, **few, cache=tmp_path, repeats=1, output=output)
    report = evaluate.main(options)
    assert list(report["parts"]) == ["a", "b", "c", "d", "e", "f"]
    assert json.loads(output.read_text())["parts"].keys() == report["parts"].keys()
    for part in report["parts"].values():
        assert all(line["speedup"]["median"] > 0 and line["speedup"]["pairs"] == 1 for line in part["comparisons"])
    assert [suite["differ"] for suite in report["parts"]["b"]["verdicts"].values()] == [0]
    assert report["parts"]["e"]["differ"] == 0
    assert set(report["machine"]["versions"]) >= {"torch", "foolbox", "pyautoattack"}


def test_curves_of_a_given_model_at_another_budget_in_one_precision(script, tmp_path, monkeypatch):
    evaluate, common = script("evaluate"), script("support.common")
    options = evaluate.Options(**TINY, cache=tmp_path)
    folder = options.trained(load_dataset("digits"), "R-MC-LA")
    monkeypatch.setattr(common, "fit", pytest.fail)
    settings = {"parts": ("a",), "steps": (1, 2), "precisions": ("float32",), "repeats": 1, "batch_size": 5}
    report = evaluate.main(evaluate.Options(**{**TINY, "n": 12}, **settings, model=str(folder), pixels=4))
    part = report["parts"]["a"]
    assert not [line["what"] for line in part["comparisons"] if "bfloat16" in line["what"]]
    assert set(part["accuracies"]) >= {"ours ce", "foolbox cw"}
    assert all(len(shares) == 2 for shares in part["accuracies"].values())
    with pytest.raises(InputError, match="unknown --precisions 'float16'"):
        evaluate.main(evaluate.Options(**TINY, precisions=("float16",)))


def test_from_one_start_our_attacks_and_theirs_leave_the_same_images(script, tmp_path):
    agreement = script("agreement")
    attacks = ("pgd-20-shared", "apgd-ce-shared", "apgd-ce")
    options = agreement.Options(**{**TINY, "n": 60}, cache=tmp_path, recipes=("R-MC-LA",), attacks=attacks, seeds=(3,))
    report = agreement.main(options)
    assert [run["attack"] for run in report["runs"]] == list(attacks)
    for run, tolerated in zip(report["runs"], (1, 1, 8), strict=True):
        ours, theirs = (np.array(list(run[whose])) for whose in ("ours", "theirs"))
        assert len(ours) == 60
        assert (ours != theirs).sum() <= tolerated
        assert len(set(ours)) == 2  # or the agreement would say nothing


def test_agreement_goes_on_where_it_stopped(script, tmp_path, monkeypatch):
    agreement = script("agreement")
    settings = {**TINY, "cache": tmp_path, "recipes": ("R-MC-LA",), "output": tmp_path / "agreement.json"}
    first = agreement.main(agreement.Options(**settings, attacks=("pgd-20",), seeds=(0,)))
    with monkeypatch.context() as patched:
        patched.setattr(agreement, "_compare", pytest.fail)
        again = agreement.main(agreement.Options(**settings, attacks=("pgd-20",), seeds=(0,)))
    assert again["runs"] == first["runs"]
    more = agreement.main(agreement.Options(**settings, attacks=("pgd-20", "pgd-20-shared"), seeds=(0, 1)))
    assert [(run["attack"], run["seed"]) for run in more["runs"]] == [
        ("pgd-20", 0),
        ("pgd-20-shared", 0),
        ("pgd-20", 1),
    ]
    with pytest.raises(InputError, match="other settings"):
        agreement.main(agreement.Options(**{**settings, "n": 10}))


def test_what_chance_allows_is_what_chance_does(script):
    generator = np.random.default_rng(0)
    share = generator.uniform(size=200)
    differences, allowed = [], []
    for _ in range(400):
        flags = generator.uniform(size=(6, 200)) < share
        differences.append(100 * abs(flags[:3].mean() - flags[3:].mean()))
        allowed.append(script("support.pairs")._by_chance(flags))
    assert 0.92 < np.mean(np.array(differences) <= allowed) < 0.98


def test_contenders_take_turns_and_each_begins_once(script):
    timing = script("support.timing")
    order = []
    contenders = {name: lambda block, name=name: order.append((name, block)) for name in "abc"}
    measured = timing.interleaved(contenders, ["x", "y"], repeats=2)
    assert [name for name, _ in order] == [*"abc", *"bca", *"cab", *"abc"]
    assert [block for _, block in order[::3]] == ["x", "y", "x", "y"]
    assert {name: len(times) for name, times in measured.seconds.items()} == {"a": 4, "b": 4, "c": 4}
    assert {name: len(found) for name, found in measured.results.items()} == {"a": 2, "b": 2, "c": 2}


def test_a_speedup_is_the_median_of_each_turns_ratio(script):
    speedup = script("support.timing").Speedup.of([1.0, 2.0, 4.0], [3.0, 2.0, 20.0])
    assert (speedup.median, speedup.least, speedup.most) == (3.0, 1.0, 5.0)


def test_pairs_that_differ_are_counted_and_signed(script):
    common = script("support.common")
    one = np.array([1, 1, 1, 1, 1, 0, 0, 1], dtype=bool)
    other = np.array([0, 0, 0, 0, 0, 1, 0, 1], dtype=bool)
    only_one, only_other, p = common.discordant(one, other)
    assert (only_one, only_other) == (5, 1)
    assert p == pytest.approx(2 * (1 + 6) / 2**6)
    assert common.points(one, other) == pytest.approx(50)
    assert common.discordant(one, one) == (0, 0, 1.0)


def test_the_ladder_is_measured_on_models_that_are_not_in_the_report_yet(script, tmp_path, monkeypatch):
    ladder = script("ladder")
    short = {"fast": "fast", "quick": "paper", "standard": "fast"}
    monkeypatch.setattr(ladder, "get_suite", lambda name, eps: get_suite(short[name], eps=eps))
    settings = {"network": "small_cnn_8", "epochs": 1, "n": 12, "cache": tmp_path, "output": tmp_path / "ladder.json"}
    first = ladder.main(ladder.Options(**settings, sets=("recipes",), only=("Madry",)))
    (model,) = first["models"]
    assert (model["name"], model["group"], model["n"]) == ("Madry", "recipes", 12)
    assert model["compared"]["fast with standard"] == {"missed": 0, "gained": 0}
    pair = model["compared"]["fast with quick"]
    assert pair["missed"] - pair["gained"] == model["standing"]["fast"] - model["standing"]["quick"]
    assert all(model["passes"][name] > 12 and len(model["cpu_seconds"][name]) == 1 for name in ladder.SUITES)
    with monkeypatch.context() as patched:
        patched.setattr(ladder, "measure", pytest.fail)
        again = ladder.main(ladder.Options(**settings, sets=("recipes",), only=("Madry",)))
    assert again["models"] == json.loads((tmp_path / "ladder.json").read_text())["models"]
    names = [(case.group, case.name) for case in ladder.cases(ladder.Options(sets=("recipes", "deep")))]
    assert {("recipes", "TRADES"), ("recipes", "R-MC-LA"), ("deep", "R-MC-LA")} < set(names)
    assert ("recipes", "BAT") not in names  # which is R-MC-LA under another name
    with pytest.raises(InputError, match="unknown --sets 'x'"):
        ladder.main(ladder.Options(sets=("x",)))


@pytest.mark.parametrize(("missed", "gained", "n"), [(0, 0, 100), (3, 1, 500), (0, 12, 397)])
def test_the_interval_of_paired_counts_surrounds_their_difference(script, missed, gained, n):
    interval = script("ladder").paired_interval
    low, high = interval(missed, gained, n)
    assert low < (missed - gained) / n < high
    assert interval(gained, missed, n) == pytest.approx((-high, -low))
    assert interval(10 * missed, 10 * gained, 10 * n).high - interval(10 * missed, 10 * gained, 10 * n).low < high - low


def test_a_part_that_is_not_there_is_said_before_any_work(script):
    evaluate = script("evaluate")
    with pytest.raises(InputError, match="unknown --parts 'x'"):
        evaluate.main(evaluate.Options(parts=("x",)))
