"""The benchmarks of speed, in the form that a CPU runs in seconds: what they report is what they measured."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from bat_core.recipes import get_recipe
from bat_core.rng import BatchRNG

pytestmark = pytest.mark.slow

SCRIPTS = ("gpu", "reproduce", "speed", "speedrun", "training", "growth")


@pytest.fixture
def script(monkeypatch):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    benchmark = torch.backends.cudnn.benchmark
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    yield importlib.import_module
    for name in [name for name in sys.modules if name in SCRIPTS or name.partition(".")[0] == "support"]:
        del sys.modules[name]
    torch.set_num_threads(threads)
    torch.set_rng_state(state)
    torch.backends.cudnn.benchmark = benchmark


SHORT = ("--model", "small_cnn_8", "--batch-size", "16", "--image-size", "8", "--images", "160")
QUICK = ("--turns", "2", "--steps", "1", "--threads", "1")


def test_steps_are_timed_in_turns_and_counted(script, tmp_path):
    speed = script("speed")
    report = speed.main(
        [*SHORT, *QUICK, "--variants", "float32", "bfloat16", "--passes", "--output", str(tmp_path / "r")]
    )
    assert set(report["variants"]) == {"float32", "bfloat16"}
    for measured in report["variants"].values():
        assert measured["counted"] == {recipe: passes / 3 for recipe, passes in speed.PASSES.items()}
        assert measured["over_plain"]["Undefended"] == {"median": 1.0, "least": 1.0, "most": 1.0, "n": 2}
        assert measured["madry_over_bat"]["n"] == 2
        assert measured["passes"]["over_forward"]["forward"]["median"] == 1.0
    assert (tmp_path / "r").exists()


@pytest.mark.parametrize("recipe", ["Undefended", "R-MC-LA", "R-MC-LA-5F", "Madry"])
def test_the_passes_that_are_counted_are_those_that_are_made(script, recipe):
    """Forward passes count F; each of an attack is followed by a backward pass to the images, about F."""
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)).eval()
    forward = {"all": 0, "with_gradient": 0}

    def count(module, inputs, output):
        forward["all"] += 1
        forward["with_gradient"] += inputs[0].requires_grad

    model.register_forward_hook(count)
    x, y = torch.rand(5, 3, 2, 2), torch.arange(5) % 4
    get_recipe(recipe).craft(model, x, y, BatchRNG())
    crafting = forward["all"] + forward["with_gradient"]
    assert crafting + 3 == script("speed").PASSES[recipe]


def test_a_speedrun_trains_verifies_and_says_how_many_reached_each_bar(script, capsys):
    speedrun = script("speedrun")
    tiny = ("--dataset", "digits", "--train-size", "256", "--network", "small_cnn_8", "--epochs", "2")
    report = speedrun.main([*tiny, "--batch-size", "64", "--runs", "2", "--n", "10", "--suite", "quick"])
    assert [run["seed"] for run in report["runs"]] == [0, 1]
    assert all(run["suite"] == "quick" and run["n"] == 10 for run in report["runs"])
    assert all(run["seconds"] <= run["total"] for run in report["runs"])
    assert "0 of 2 runs reach 43.2%" in capsys.readouterr().out


def test_a_bar_is_reached_by_both_numbers(script):
    runs = [{"robust_acc": 0.49, "clean_acc": 0.85}, {"robust_acc": 0.49, "clean_acc": 0.7}]
    assert [row["reached"] for row in script("speedrun").rows(runs)] == [1, 1, 0]


def test_images_grow_to_full_size(script):
    speedrun = script("speedrun")
    options = speedrun._options(["--small", "0.75", "--small-until", "0.4"])
    sizes = [speedrun._size(32, share, options) for share in (0.0, 0.2, 0.39, 0.4, 1.0)]
    assert sizes == [24, 28, 32, 32, 32]


def test_each_image_is_mirrored_in_every_other_epoch(script):
    speedrun = script("speedrun")
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None] * 10 + torch.arange(2, dtype=torch.uint8)
    seen = {}
    for epoch in range(4):
        for batch in speedrun._epoch(images, torch.arange(4), epoch, 2, 2, flip=True):
            for image, label in zip(batch.images, batch.y.tolist(), strict=True):
                seen.setdefault(label, []).append(bool(image[0, 0, 0] > image[0, 0, 1]))
    assert all(turns in ([True, False] * 2, [False, True] * 2) for turns in seen.values())
    assert {turns[0] for turns in seen.values()} == {True, False}


def test_peers_train_the_same_network(script):
    pytest.importorskip("foolbox")
    training = script("training")
    options = training.Options(network="small_cnn_8", batch_size=4, image_size=8, steps=1, turns=1, threads=1)
    report = training.main(options)
    for recipe in ("Madry", "R-MC-LA"):
        measured = report["recipes"][recipe]
        assert {"bat-sweeps", "foolbox"} <= set(measured["seconds"])
        assert measured["over_ours"]["bat-sweeps"]["median"] == 1.0


def test_an_exponent_is_the_slope_of_the_logarithms(script):
    growth = script("growth")
    found = growth._exponent([1, 10, 100, 1000], [2.0, 20.0, 200.0, 2000.0])
    assert found["exponent"] == pytest.approx(1.0)
    assert found["low"] <= 1.0 <= found["high"]
    assert growth._exponent([1, 10, 100], [3.0, 3.0, 3.0])["exponent"] == pytest.approx(0.0)


def test_all_that_a_gpu_is_wanted_for_runs_on_a_cpu(script, tmp_path):
    tiny = "--train-size 128 --epochs 1 --n 6"
    small = "--network small_cnn_8 --wide small_cnn_8 --batch 16 --wide-batch 16 --image-size 8 --images 160"
    quick = "--batches 16 --pgd-steps 2 --turns 1 --steps 1 --variants float32 --dataset digits --device cpu"
    fast = f"--speedrun=--network small_cnn_8 --batch-size 64 --runs 1 --suite quick {tiny}"
    paper = f"--reproduce=--model small_cnn_8 --suites paper --eps-x 8 {tiny}"
    output = tmp_path / "results.json"
    report = script("gpu").main([*small.split(), *quick.split(), fast, paper, "--output", str(output)])
    assert len(report["sections"]) == 6
    assert not [name for name, found in report["sections"].items() if "failed" in found]
    references = report["sections"]["references"]
    assert references["logits"] < 1e-5 * max(references["logits_size"], 1)
    assert references["labels"] < 1e-5
    assert references["same_step"] > 0.99
    assert references["farthest"] <= 8 / 255
    assert references["gradients"] < 1e-5
    assert output.exists()


def test_a_section_that_fails_does_not_stop_the_others(script):
    small = "--device cpu --network small_cnn_8 --image-size 8 --dataset nonesuch"
    report = script("gpu").main(["--sections", "speedrun", "references", *small.split()])
    assert "nonesuch" in report["sections"]["speedrun"]["failed"]
    assert "failed" not in report["sections"]["references"]


def test_all_bookkeeping_that_growth_measures_runs(script):
    bookkeeping = script("support.bookkeeping")
    measured = {name: operation(3) for name, operation in (bookkeeping.TRIALS | bookkeeping.EPOCHS).items()}
    assert all(found["cpu"] >= 0 for found in measured.values())
