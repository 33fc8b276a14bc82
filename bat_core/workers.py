"""The processes that train one model together, seen from one of them."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

S = TypeVar("S", Tensor, list[int])


@dataclass(frozen=True)
class Workers:
    """This process is number `rank` of `size`; with more than one, torch's default process group links them."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Workers":
        """As torch.distributed has it; one worker where it is not initialised."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, batch: S) -> S:
        """Every size-th example from rank on."""
        return batch[self.rank :: self.size]

    def sum(self, counts: Tensor) -> Tensor:
        """Counts added up over the workers (in place)."""
        if self.size > 1:
            dist.all_reduce(counts)
        return counts

    def any(self, mine: bool, device: torch.device) -> bool:
        """Whether it holds for one of the workers at least."""
        if self.size == 1:
            return mine
        return bool(self.sum(torch.tensor(int(mine), device=device)))

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to run the update through: it averages gradients over the workers."""
        if self.size == 1:
            return model
        # Batch norm's statistics are each worker's own during an epoch; `average_buffers` joins them at its end.
        return DistributedDataParallel(model, broadcast_buffers=False)

    def average_buffers(self, model: nn.Module) -> None:
        """Average floating-point buffers (batch norm's running statistics) over the workers."""
        if self.size == 1:
            return
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(self.size)
