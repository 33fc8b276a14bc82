"""A driver whose machine has no GPU, and workers that have one: `evaluate` and `transfer` from a cluster's head."""

import contextlib
import json

import pytest
import torch

from bat_core.errors import InputError
from bat_core.models import build_model
from sweeps.engine.evaluation import run as evaluate_command
from sweeps.engine.evaluation import workers
from sweeps.engine.evaluation.job import Job
from sweeps.engine.evaluation.options import EvaluateOptions, JobOptions, TransferOptions
from sweeps.engine.transfer import run as transfer_command
from tests.simulated.device import OnGPU, simulated_gpu


def made(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model("small_cnn_8", num_classes=10, image_shape=(1, 8, 8))


def first():
    return made(0)


def second():
    return made(1)


@pytest.fixture
def devices(monkeypatch, tmp_path):
    """The devices that workers worked on. Only their functions see a (simulated) GPU."""
    seen = set()

    @contextlib.contextmanager
    def on_workers(options, shared):
        assert not options.alone()

        def run(function, calls):
            for call in calls:
                with pytest.MonkeyPatch.context() as patch, simulated_gpu(patch):
                    function(*shared, *call)

        yield run

    forward = torch.nn.Conv2d.forward

    def noted(self, x):
        seen.add(type(x) is OnGPU)
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", noted)
    monkeypatch.setattr(Job, "_log", lambda self: None)
    for command in (evaluate_command, transfer_command):
        monkeypatch.setattr(command, "spread", on_workers)
    workers._LOADED.clear()
    monkeypatch.chdir(tmp_path)
    yield seen
    workers._LOADED.clear()
    transfer_command._CACHES.clear()


HERE = __name__
CLUSTER = {"address": "127.0.0.1:6379", "gpus_per_worker": 0.5, "dataset": "digits", "n": 12, "batch_size": None}


def test_an_evaluation_runs_on_the_workers_gpus(devices, tmp_path):
    options = EvaluateOptions(**CLUSTER, suite="fast", checks="cheap", output=tmp_path / "out", workers=1)
    assert evaluate_command.run_evaluation([f"{HERE}:first"], options) == 0
    assert devices == {True, False}
    (summary,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob("*/summary.json"))
    assert summary["n"] == 12
    again = EvaluateOptions(**{"gpus_per_worker": 0.5, "address": "127.0.0.1:6379"}, resume=str(tmp_path / "out"))
    assert evaluate_command.run_evaluation([], again) == 0


def test_a_matrix_is_made_on_the_workers_gpus(devices, tmp_path):
    options = TransferOptions(**CLUSTER, output=tmp_path / "out")
    assert transfer_command.run_transfer([f"{HERE}:first", f"{HERE}:second"], options) == 0
    assert devices == {True, False}


@pytest.mark.parametrize("address", [None, "local"])
def test_gpus_that_no_machine_can_have_are_refused(address, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    options = JobOptions(gpus_per_worker=1, address=address)
    for check in (options.check, lambda: options.refuse_with_resume([], "evaluation")):
        with pytest.raises(InputError, match="--gpus-per-worker=1: this machine has no GPU: leave it out, or name"):
            check()


@pytest.mark.parametrize("gpus", [-1, float("nan")])
def test_a_share_of_a_gpu_is_a_number(gpus):
    with pytest.raises(InputError, match="--gpus-per-worker"):
        JobOptions(gpus_per_worker=gpus, address="127.0.0.1:6379").check()


def test_one_worker_with_a_gpu_is_not_this_process_if_it_has_none():
    assert not JobOptions(gpus_per_worker=1, workers=1, address="127.0.0.1:6379").alone()
    assert JobOptions(workers=1, address="127.0.0.1:6379").alone()
