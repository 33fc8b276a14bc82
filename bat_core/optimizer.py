"""The optimiser of a trial."""

import torch
from torch import nn

from bat_core.config import TrainConfig


def sgd(config: TrainConfig, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """SGD with weight decay on convolution and linear weights, not on norms and biases; fused kernels on GPUs."""
    decayed = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = device.type == "cuda"
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
