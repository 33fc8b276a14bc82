"""Tensors on a device: how they get there, how often a search waits for it, and whether it can still be used."""

import torch
from torch import Tensor

# Steps of a search on a GPU between two reads, each of which waits for the GPU.
DROP_EVERY = 10  # of which examples are broken: rarer reads attack broken examples for longer
CHECK_EVERY = 50  # of whether all points were in their balls

CUDA_ERRORS = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "NCCL error")  # in the text of errors without a type


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor` on `device`. A copy to a GPU goes through page-locked memory, and the CPU does not wait for it."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def is_read(step: int, device: torch.device, *, every: int) -> bool:
    """Whether a search reads a result after `step` (0, 1, ...): after each step on a CPU, where nothing waits."""
    return device.type == "cpu" or (step + 1) % every == 0


def has_lost_context(error: BaseException) -> bool:
    """Whether `error` is one of CUDA's, after which its process cannot use the GPU again. Short memory is not."""
    if isinstance(error, torch.OutOfMemoryError):
        return False
    known = isinstance(error, torch.AcceleratorError) or any(name in str(error) for name in CUDA_ERRORS)
    cause = error.__cause__ or error.__context__
    return known or (cause is not None and has_lost_context(cause))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch might help: an out-of-memory error of CUDA, Python or torch's CPU allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error)
