"""Puts the tensors of a checkpoint back into an optimiser and into an unfinished epoch, on any device."""

from collections.abc import Mapping

import torch
from torch import Tensor

from bat_core.fit import PartialEpoch

OTHER_DEVICE = "is in the middle of an epoch that began on another kind of device, whose random numbers differ"


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load an optimiser's state: `tensors` are named `number of the parameter.name`."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = _with_strides_of(parameters[int(number)], tensor)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _with_strides_of(parameter: Tensor, tensor: Tensor) -> Tensor:
    """`tensor` on the parameter's device and, if it has the parameter's shape, with its strides.

    Files hold contiguous tensors. A fused optimiser takes for granted that its buffers have the strides of their
    parameters: on a GPU it refuses others, on a CPU it mixes up their values.
    """
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device)
    return torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)


def restore_partial(batches: int, tensors: Mapping[str, Tensor], device: torch.device) -> PartialEpoch:
    """An unfinished epoch after `batches` batches, with its totals and its source of randomness on `device`."""
    generator = torch.Generator(device)
    generator.set_state(tensors["generator"])
    return PartialEpoch(batches=batches, totals=tensors["totals"].to(device), generator=generator)


def continues_on(device: torch.device, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a generator on `device` can take over the stored state: each kind of device has a size of its own."""
    return tensors["generator"].numel() == torch.Generator(device).get_state().numel()
