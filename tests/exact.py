"""Training in float64: two ways of computing the same differ by rounding that turns no sign of a gradient."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bat_core.config import TrialConfig
from bat_core.data import Dataset
from bat_core.fit import TrainState, initial_state
from bat_core.workers import Workers


class Double(nn.Module):
    """A network in float64 that takes images in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.double())


def exact_state(config: TrialConfig, dataset: Dataset) -> TrainState:
    """As `initial_state`, in float64: the optimiser keeps the parameters that it has."""
    state = initial_state(config, dataset, torch.device("cpu"))
    state.model = Double(state.model)
    return state


def linked(rank: int, folder: str) -> Workers:
    """One of two workers, linked by gloo; both are told the same empty folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    return Workers.current()
