"""How many images an attack can take at once: what the memory has, and what a gradient to the images needs."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from bat_core.data import Images, to_unit
from bat_core.forward import eval_without_tf32

SAMPLE = 2  # images that the measuring forward pass takes
OVERHEAD = 2.0  # times what a forward pass keeps (a PGD step on a CPU: 1.5), for workspaces and an attack's own tensors
SHARE = 0.7  # of the free memory that is counted on
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def max_batch_size(model: nn.Module, images: Images, *, most: int, processes: int = 1) -> int:
    """How many images like `images` can be attacked at once in the memory that is free now.

    Args:
        model: in evaluation mode meanwhile, on the device that counts.
        images: (N, C, H, W) uint8, or float in [0, 1], or in files; the first two are looked at.
        most: more are never said to fit.  processes: that share the memory.
    Returns:
        1 to `most`, rounded down to a power of two where it is less than `most`.
    """
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    x = to_unit(images[:SAMPLE].to(device))
    each = OVERHEAD * activation_bytes(model, x) / len(x)
    fits = int(SHARE * free_memory(device) / processes / max(each, 1))
    return most if fits >= most else 1 << (max(fits, 1).bit_length() - 1)


def activation_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass of x (B, C, H, W) keeps for the gradient to x, the weights themselves not counted."""
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
        logits = model(x)  # holds the graph, and with it all that is kept, until it has been counted
        total = sum(kept.values())
    del logits
    return total + x.untyped_storage().nbytes()


def free_memory(device: torch.device) -> int:
    """Bytes that can be had on a GPU, or on this machine within its container's limit."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return min([_available(), *_cgroup_free()])


def _available() -> int:
    try:
        lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: a quarter of what there is
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4


def _cgroup_free() -> list[int]:
    """What its limit leaves; nothing where there is none."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return []
    return [] if limit == "max" else [int(limit) - int(used)]
