"""The largest batch an attack can use, from the free memory and the memory of an input gradient."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from bat_core.adapter.adapted import device_of
from bat_core.data import Images, to_unit
from bat_core.forward import eval_without_tf32

SAMPLE = 2  # images in the forward pass that measures memory
OVERHEAD = 2.0  # memory of an attack step relative to saved activations (a PGD step on a CPU measures 1.5)
SHARE = 0.7  # share of the free memory to use
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def max_batch_size(model: nn.Module, images: Images, *, most: int, processes: int = 1) -> int:
    """The number of images like `images` that can be attacked at once in the memory that is free now.

    Args:
        model: measured in evaluation mode, on its own device.
        images: (N, C, H, W) uint8, or float in [0, 1], or in files; the first two are used.
        most: upper limit.  processes: the number of processes that share the memory.
    Returns:
        1 to `most`; below `most` it is rounded down to a power of two.
    """
    device = device_of(model) or torch.device("cpu")
    x = to_unit(images[:SAMPLE].to(device))
    bytes_per_image = OVERHEAD * activation_bytes(model, x) / len(x)
    fits = int(SHARE * free_memory(device) / processes / max(bytes_per_image, 1))
    return most if fits >= most else 1 << (max(fits, 1).bit_length() - 1)


def gpu_batch_size(model: nn.Module, images: Images, *, most: int, gpus: float) -> int | None:
    """`max_batch_size` in a process that has `gpus` of a GPU to itself; None if it has none, where nothing is measured.

    A process measures its own GPU: the driver may run on a machine without one.
    """
    return max_batch_size(model, images, most=most, processes=max(round(1 / gpus), 1)) if gpus else None


def activation_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass of x (B, C, H, W) saves for the gradient with respect to x, without the weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = x.detach().requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with eval_without_tf32(model), torch.enable_grad(), hooks:
        logits = model(x)  # keeps the graph and its saved tensors alive while they are counted
        total = sum(kept.values())
    del logits
    return total + x.untyped_storage().nbytes()


def free_memory(device: torch.device) -> int:
    """Free bytes on a GPU, or on this machine within the limit of its container."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return min([_available(), *_cgroup_free()])


def _available() -> int:
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: assume a quarter of the physical memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _cgroup_free() -> list[int]:
    """Bytes left under the container's limit, as a list of one; empty without a limit."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return []
    return [] if limit == "max" else [int(limit) - int(used)]
