"""Randomness from named seeds. Neither batch size nor sharding changes the numbers."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bat_core.device import to_device


def named_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed from a sweep's seed and a path of names. Adding a name does not change the seeds of others."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def named_generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded with `named_seed(seed, *names)` on `device`."""
    return torch.Generator(device).manual_seed(named_seed(seed, *names))


@dataclass(frozen=True)
class BatchRNG:
    """Random numbers for a batch: drawn for the global batch, then sliced to this worker's share.

    Worker `rank` of `size` has examples rank, rank + size, ... of the global batch. Each worker draws numbers for
    all examples and keeps its own, so N workers see exactly the numbers of one worker with the same global batch.
    `generator=None` means torch's global generator.
    """

    generator: torch.Generator | None = None
    rank: int = 0
    size: int = 1

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform in [0, 1), with the shape, dtype and device of `like` (B, ...)."""
        shape = (like.shape[0] * self.size, *like.shape[1:])
        return self._share(
            torch.rand(shape, generator=self.generator, device=self._device(like), dtype=like.dtype), like
        )

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, with the shape, dtype and device of `like` (B, ...)."""
        return torch.special.ndtri(self.uniform(like).clamp(torch.finfo(like.dtype).tiny, 1 - 2**-24))

    def integers(self, high: int, like: Tensor) -> Tensor:
        """Integers in [0, high), one for each row of `like`: (B,) int64."""
        shape = (like.shape[0] * self.size,)
        return self._share(torch.randint(high, shape, generator=self.generator, device=self._device(like)), like)

    def restart(self, number: int) -> "BatchRNG":  # noqa: ARG002
        """The source for restart `number` of an attack. A plain generator continues where it is."""
        return self

    def take(self, rows: Tensor) -> "BatchRNG":  # noqa: ARG002
        """The source for some examples of the batch. A plain generator is the same for all examples."""
        return self

    def _device(self, like: Tensor) -> torch.device:
        return like.device if self.generator is None else self.generator.device

    def _share(self, drawn: Tensor, like: Tensor) -> Tensor:
        return to_device(drawn[self.rank :: self.size], like.device)


@dataclass(frozen=True)
class PerExampleRNG(BatchRNG):
    """Random numbers that depend on the example only, not on its batch, shard or order.

    Each example has its own generator, seeded by (seed, *names, index), so a verdict does not depend on the batch
    size or the number of workers. Repeated calls return the same numbers; a restart uses another name.
    """

    seed: int = 0
    names: tuple[str | int, ...] = ()
    indices: Sequence[int] = ()

    def uniform(self, like: Tensor) -> Tensor:
        rows = [torch.rand(like.shape[1:], generator=self._generator(i), dtype=like.dtype) for i in self.indices]
        return to_device(torch.stack(rows), like.device)

    def integers(self, high: int, like: Tensor) -> Tensor:
        rows = [torch.randint(high, (), generator=self._generator("integers", i)) for i in self.indices]
        return to_device(torch.stack(rows), like.device)

    def restart(self, number: int) -> "PerExampleRNG":
        return replace(self, names=(*self.names, "restart", number)) if number else self

    def take(self, rows: Tensor) -> "PerExampleRNG":
        return replace(self, indices=[self.indices[row] for row in rows.tolist()])

    def _generator(self, *place: str | int) -> torch.Generator:
        return named_generator(self.seed, *self.names, *place)


def as_rng(generator: torch.Generator | BatchRNG | None) -> BatchRNG:
    """Convert what attacks accept as `generator=`: a torch generator, a BatchRNG or None."""
    return generator if isinstance(generator, BatchRNG) else BatchRNG(generator)
