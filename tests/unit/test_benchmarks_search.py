"""The benchmark of samplers on problems of known truth, in its small form."""

import importlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bat_core.errors import InputError
from search_spaces.base import get_space
from search_spaces.encoding import Encoding
from sweeps.engine.search.spec import read_search
from sweeps.engine.storage.locks import exclusive

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def search(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield importlib.import_module("search")
    for name in [name for name in sys.modules if name == "search" or name.partition(".")[0] == "support"]:
        del sys.modules[name]


def record(folder, count=24):
    """Recorded trials whose accuracies follow from the training budget alone."""
    encoding, rng = Encoding(get_space("bat").at(5 / 255)), np.random.default_rng(0)
    lines = []
    for number in range(count):
        positions = rng.random(len(encoding.choices))
        at = float(positions[3])
        clean, robust = round(300 * (0.95 - 0.3 * at)), round(300 * (0.05 + 0.3 * at))
        curve = [
            {
                "val_clean_acc": clean / 300 * epoch / 10,
                "val_robust_acc": robust / 300 * epoch / 10,
                "cpu": float(epoch),
            }
            for epoch in range(1, 11)
        ]
        lines.append({
            "point": encoding.point(positions), "clean": clean / 300, "pgd": robust / 300 + 0.02,
            "robust": robust / 300, "clean_bits": "1" * 300,
            "verdict": "masked" if number == 5 else "clear", "curve": curve, "cpu": 14.0,
        })  # fmt: skip
    folder.mkdir()
    (folder / "trials.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder


def test_small_contests_and_replays_are_reported(search, tmp_path):
    output = tmp_path / "report.json"
    report = search.main(
        search.Options(
            parts=("surrogate", "replay"), trials=record(tmp_path / "trials"), problems=("forest", "analytic"),
            contenders=("random", "tpe"), searches=3, counts=(3, 6), workers=(1, 4), num_trials=12, output=output,
            cache=tmp_path / "cache",
        )
    )  # fmt: skip
    contests = report["parts"]["surrogate"]
    assert list(contests) == [f"{name}, {count} workers" for name in ("forest", "analytic") for count in (1, 4)]
    for contest in contests.values():
        for name in ("random", "tpe"):
            early, late = (np.array(contest[name]["true"][count]) for count in (3, 6))
            assert early.shape == late.shape == (3,)
            assert 0 < late.min() <= late.max() <= 1e4
        assert 0 <= contest["tpe"]["p"]["random"][6] <= 1
    replayed = report["parts"]["replay"]
    assert replayed["not continued"]["whole"] <= replayed["continued"]["whole"] < 12 == replayed["bound"]["whole"]
    assert replayed["continued"]["lost"] <= replayed["not continued"]["lost"]
    assert replayed["bound"]["most lost"] == 0
    assert json.loads(output.read_text())["parts"].keys() == {"surrogate", "replay"}


def test_a_prior_is_tested_against_the_same_sampler_without_it(search, tmp_path):
    contests = search.main(
        search.Options(
            parts=("surrogate",), trials=record(tmp_path / "trials"), problems=("analytic",),
            contenders=("auto", "auto+budget"), searches=2, counts=(4,), workers=(1,), cache=tmp_path / "cache",
            processes=1,
        )
    )["parts"]["surrogate"]  # fmt: skip
    found = contests["analytic, 1 workers"]
    assert list(found["auto+budget"]["p"]) == ["random", "auto"]
    assert list(found["auto"]["p"]) == ["random"]


def test_a_real_search_starts_from_another_one_in_the_cache(search, tmp_path):
    report = search.main(
        search.Options(
            parts=("a",), contenders=("auto", "auto+digits-random"), num_trials=2, seeds=(3,), model="small_cnn_4",
            epochs=1, train_size=80, val_size=20, processes=1, cache=tmp_path,
        )
    )["parts"]["a"]  # fmt: skip
    assert read_search(tmp_path / "digits-auto+digits-random-3").warm_start == (str(tmp_path / "digits-random-3"),)
    assert list(report["above_alone"]) == ["auto+digits-random"]
    assert list(report["above_random"]) == ["auto", "auto+digits-random"]
    assert {len(each) for by_count in report["hypervolume"].values() for each in by_count.values()} == {1}


def test_earlier_searches_with_other_seeds_are_added(search, tmp_path):
    def outcomes(*volumes):
        def of(volume):
            return SimpleNamespace(volume=lambda after: volume * after / 40 / 1e4)

        return {"random": [of(one) for one in volumes], "auto": [of(one + 10) for one in volumes]}

    first, earlier = search.Options(seeds=(0, 1)), tmp_path / "earlier.json"
    alone = search.samplers(outcomes(100, 300), first)
    assert alone["hypervolume"]["random"][20] == pytest.approx([50, 150])
    assert alone["above_random"]["auto"][40]["difference"] == pytest.approx(10)
    write_report = importlib.import_module("support.common").write_report
    write_report(earlier, {"options": asdict(first), "parts": {"a": alone}})
    both = search.samplers(outcomes(500), search.Options(seeds=(2,), earlier=earlier))
    assert both["hypervolume"]["auto"][20] == pytest.approx([55, 155, 255])
    assert both["hypervolume"]["auto"][40] == pytest.approx([110, 310, 510])
    assert both["bar"] == pytest.approx(300)
    write_report(earlier, {"options": asdict(search.Options(seeds=(2,))), "parts": {"a": both}})
    with pytest.raises(InputError, match=r"--earlier .* it has the same seeds"):  # those of the first report too
        search.samplers(outcomes(500), search.Options(seeds=(1,), earlier=earlier))
    for again in ({"seeds": (1,)}, {"seeds": (2,), "epochs": 4}):
        with pytest.raises(InputError, match=r"--earlier .* must differ in its seeds"):
            search.samplers(outcomes(500), search.Options(**again, earlier=earlier))


def test_a_truth_follows_its_trials_and_what_is_seen_of_it_is_noisy(search, tmp_path):
    truths = sys.modules["support.search_truths"]
    trials = truths.recorded_trials(record(tmp_path / "trials", 60))
    for family in ("gp", "forest"):
        problem = truths.problem(family, trials, 200)
        truth = problem.truth([one.point for one in trials])
        assert np.corrcoef(truth[:, 0], [one.clean for one in trials])[0, 1] > 0.9
        assert (truth[:, 1] <= truth[:, 0]).all()
        rng = np.random.default_rng(0)
        seen = np.array([problem.measure(truth[0], rng) for _ in range(300)])
        assert seen.mean(axis=0) == pytest.approx(truth[0], abs=0.03)
        assert (seen.std(axis=0) > 0.8 * np.sqrt(truth[0] * (1 - truth[0]) / 200)).all()
        assert (seen[:, 1] <= seen[:, 0]).all()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"parts": ("surrogate",)}, "need recorded trials: give --trials"),
        ({"parts": ("surrogat",)}, "unknown --parts 'surrogat'"),
        ({"parts": ("surrogate",), "problems": ("analytic",), "contenders": ("tpee",), "searches": 1, "counts": (1,),
          "workers": (1,)}, "unknown contender 'tpee'"),
        ({"parts": ("surrogate",), "problems": ("analytic",), "contenders": ("auto+budget",)}, "need recorded trials"),
        ({"parts": ("surrogate",), "problems": ("analytic",), "searches": 0}, "--searches must be at least 1"),
    ],
)  # fmt: skip
def test_invalid_options_are_refused(search, given, said):
    with pytest.raises(InputError, match=said):
        search.main(search.Options(**given))


def test_a_folder_without_trials_is_refused(search, tmp_path):
    with pytest.raises(InputError, match="holds 0 finished trials"):
        search.main(search.Options(parts=("replay",), trials=tmp_path))


def test_a_stopped_contest_goes_on_and_runs_nothing_twice(search, tmp_path, monkeypatch):
    options = search.Options(
        parts=("surrogate",), problems=("analytic",), contenders=("random", "tpe"), searches=3, counts=(3,),
        workers=(2,), cache=tmp_path, processes=1,
    )  # fmt: skip
    kept = sys.modules["support.search_kept"]
    monkeypatch.setattr(sys.modules["support.search_contest"], "ROUND", 2)
    first = search.main(options)["parts"]["surrogate"]
    path = tmp_path / kept.RUNS
    lines = path.read_bytes().splitlines(keepends=True)
    order = [json.loads(line)[0].split(", ") for line in lines]
    assert [(about[3], about[-1]) for about in order] == [
        ("random", "seed 0"), ("random", "seed 1"), ("tpe", "seed 0"), ("tpe", "seed 1"), ("random", "seed 2"),
        ("tpe", "seed 2"),
    ]  # fmt: skip
    path.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # killed as it wrote
    ran = []
    simulate = kept.simulate
    monkeypatch.setattr(kept, "simulate", lambda *a, **k: ran.append((a[1], k["seed"])) or simulate(*a, **k))
    again = search.main(options)["parts"]["surrogate"]
    assert ran == [("random", 2), ("tpe", 2)]
    for name in ("random", "tpe"):
        assert again["analytic, 2 workers"][name]["true"] == first["analytic, 2 workers"][name]["true"]
    assert len(path.read_bytes().splitlines()) == 6


def test_searches_that_another_process_runs_are_left_to_it(search, tmp_path):
    kept, truths = sys.modules["support.search_kept"], sys.modules["support.search_truths"]
    mine = kept.KeptRuns(tmp_path, truths.Problems((), 200))
    searches = kept.Searches("analytic", "random", 1, 2, (0, 1))
    with exclusive(tmp_path / searches.lock):
        mine.run(searches, wait=False)
        assert not (tmp_path / kept.RUNS).exists()
    kept.KeptRuns(tmp_path, truths.Problems((), 200)).run(searches, wait=False)
    mine.fill([searches], 1)
    assert len(mine.of(searches)) == 2
    assert len((tmp_path / kept.RUNS).read_bytes().splitlines()) == 2
