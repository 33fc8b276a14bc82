"""What a trial's process does after an error of CUDA, and how workers that share a GPU communicate."""

import pytest
import torch

from bat_core.device import has_lost_context
from sweeps.engine.ray_backend.trainables import FAILURE, TrialTrainable, communication_backend
from sweeps.engine.sweep.spec import Resources

LOST = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def wrapped(error):
    try:
        try:
            raise error
        except Exception as inner:
            raise ValueError("while attacking") from inner
    except ValueError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (LOST, True),
        (wrapped(LOST), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.OutOfMemoryError("CUDA out of memory."), False),
        (RuntimeError("CUDA error: out of memory"), True),
        (FloatingPointError("the training loss is nan"), False),
        (RuntimeError("the attack left its ball"), False),
    ],
)
def test_an_error_of_cuda_ends_the_use_of_the_process_and_short_memory_does_not(error, lost):
    assert has_lost_context(error) is lost


class Control:
    """Notes whether the trial was given up."""

    def __init__(self):
        self.given_up = False

    def abandoned(self):
        return self.given_up

    stop_requested = abandoned

    def abandon(self):
        self.given_up = True


def failing(error):
    """A trial's process whose trial raises `error`, without Ray."""

    def epochs():
        raise error
        yield

    process = object.__new__(TrialTrainable)
    vars(process).update(_control=Control(), _epochs=epochs(), _started=False, _in_step=False)
    return process


def test_the_process_of_a_trial_that_lost_its_gpu_is_not_used_again_and_the_trial_not_repeated():
    process = failing(LOST)
    with pytest.raises(torch.AcceleratorError):  # Ray ends a process whose step raises
        TrialTrainable.step(process)
    assert TrialTrainable.step(process) == {"done": True}  # what Ray's retry comes to


def test_the_process_of_a_trial_that_failed_otherwise_goes_on():
    process = failing(FloatingPointError("nan"))
    assert TrialTrainable.step(process) == {"done": True, FAILURE: "FloatingPointError: nan"}
    assert not process._control.given_up


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (0.5, "gloo"), (0.25, "gloo"), (1, "nccl"), (2, "nccl")])
def test_workers_that_share_a_gpu_do_not_use_nccl(gpus, backend):
    assert communication_backend(Resources(num_workers=2, gpus_per_worker=gpus)) == backend
