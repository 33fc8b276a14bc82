"""The group of processes that train one model together, as seen by one of them."""

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

S = TypeVar("S", Tensor, list[int])


@dataclass(frozen=True)
class Workers:
    """This process is `rank` of `size`. With more than one, they communicate by torch's default process group."""

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> "Workers":
        """The current process group of torch.distributed; a single worker if it is not initialised."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def share(self, batch: S) -> S:
        """This worker's examples: every size-th one, starting at rank."""
        return batch[self.rank :: self.size]

    def sum(self, counts: Tensor) -> Tensor:
        """Sum counts over the workers, in place."""
        if self.size > 1:
            dist.all_reduce(counts)
        return counts

    def any(self, mine: bool, device: torch.device) -> bool:
        """Whether `mine` is true on at least one worker."""
        if self.size == 1:
            return mine
        return bool(self.sum(torch.tensor(int(mine), device=device)))

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module for the update step; it averages gradients over the workers."""
        if self.size == 1:
            return model
        # Each worker has its own batch norm statistics during an epoch; `average_buffers` combines them at its end.
        return DistributedDataParallel(model, broadcast_buffers=False)

    def average_buffers(self, model: nn.Module) -> None:
        """Average floating-point buffers (batch norm's running statistics) over the workers."""
        if self.size == 1:
            return
        for buffer in model.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(self.size)
