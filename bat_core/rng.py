"""Randomness from named seeds, drawn so that neither batch size nor sharding changes what is drawn."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


def named_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed from a sweep's seed and a path of names, so that adding one name shifts no other."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def named_generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded with `named_seed(seed, *names)` on `device`."""
    return torch.Generator(device).manual_seed(named_seed(seed, *names))


@dataclass(frozen=True)
class BatchRNG:
    """Random numbers for a batch, drawn for the whole global batch and sliced to this worker's share.

    Worker `rank` of `size` holds examples rank, rank + size, ... of the global batch. Drawing for all
    and keeping its own makes N workers see exactly what one worker with the same global batch sees.
    `generator=None` is torch's global generator.
    """

    generator: torch.Generator | None = None
    rank: int = 0
    size: int = 1

    def uniform(self, like: Tensor) -> Tensor:
        """Uniform [0, 1), of the shape, type and device of `like` (B, ...)."""
        shape = (like.shape[0] * self.size, *like.shape[1:])
        return self._share(
            torch.rand(shape, generator=self.generator, device=self._device(like), dtype=like.dtype), like
        )

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal, of the shape, type and device of `like` (B, ...)."""
        return torch.special.ndtri(self.uniform(like).clamp(torch.finfo(like.dtype).tiny, 1 - 2**-24))

    def integers(self, high: int, like: Tensor) -> Tensor:
        """Integers in [0, high), one for each row of `like`: (B,) int64."""
        shape = (like.shape[0] * self.size,)
        return self._share(torch.randint(high, shape, generator=self.generator, device=self._device(like)), like)

    def restart(self, number: int) -> "BatchRNG":  # noqa: ARG002
        """What restart `number` of an attack draws from: a generator simply goes on."""
        return self

    def take(self, rows: Tensor) -> "BatchRNG":  # noqa: ARG002
        """What some examples of the batch draw from: a generator knows no examples."""
        return self

    def _device(self, like: Tensor) -> torch.device:
        return like.device if self.generator is None else self.generator.device

    def _share(self, drawn: Tensor, like: Tensor) -> Tensor:
        return drawn[self.rank :: self.size].to(like.device)


@dataclass(frozen=True)
class PerExampleRNG(BatchRNG):
    """Random numbers that belong to an example, whatever batch, shard or order it is met in.

    Each example has a generator of its own, named by (seed, *names, its index), so that a verdict
    does not depend on the batch size nor on how many workers share the test set. Asked twice, it
    answers the same: a restart takes another name.
    """

    seed: int = 0
    names: tuple[str | int, ...] = ()
    indices: Sequence[int] = ()

    def uniform(self, like: Tensor) -> Tensor:
        rows = [torch.rand(like.shape[1:], generator=self._generator(i), dtype=like.dtype) for i in self.indices]
        return torch.stack(rows).to(like.device)

    def integers(self, high: int, like: Tensor) -> Tensor:
        rows = [torch.randint(high, (), generator=self._generator("integers", i)) for i in self.indices]
        return torch.stack(rows).to(like.device)

    def restart(self, number: int) -> "PerExampleRNG":
        return replace(self, names=(*self.names, "restart", number)) if number else self

    def take(self, rows: Tensor) -> "PerExampleRNG":
        return replace(self, indices=[self.indices[row] for row in rows.tolist()])

    def _generator(self, *place: str | int) -> torch.Generator:
        return named_generator(self.seed, *self.names, *place)


def as_rng(generator: torch.Generator | BatchRNG | None) -> BatchRNG:
    """What attacks accept as `generator=`: a torch generator, ready-made draws, or None."""
    return generator if isinstance(generator, BatchRNG) else BatchRNG(generator)
