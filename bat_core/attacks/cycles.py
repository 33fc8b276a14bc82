"""Searches that repeat themselves: fixed signed steps run into a cycle, after which every later point is known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bat_core.device import to_device

SMALLEST_PASS = 16  # images; kernels for a handful of images add up in another order, so such passes are filled up
READ_EVERY = 20  # steps between two reads, on a GPU, of which searches have ended
DIGEST_SEED = 20190612


@dataclass(frozen=True)
class Passes:
    """How a search passes its images through the network.

    Each pass takes at most `batch` images of all that remain, and at least 16 if the search began with as many. With
    `cycles`, an example whose search repeats itself bit for bit leaves it; that must be off where the network's
    result for an image is random or depends on the rest of its batch. With neither, all that remain are one pass.
    """

    batch: int | None = None
    cycles: bool = False

    def split(self, count: int, began_with: int, device: torch.device) -> Iterator[tuple[Tensor | slice, int]]:
        """The positions of each pass's images among `count`, and how many of them count: the rest fills up."""
        if self == ALL_AT_ONCE:
            yield slice(0, count), count
            return
        size = self.batch or count
        least = min(SMALLEST_PASS, began_with, size)
        for first in range(0, count, size):
            number = min(size, count - first)
            if number >= least:
                yield slice(first, first + number), number
            else:
                yield first + torch.arange(least, device=device) % number, number

    def gather(
        self,
        run: Callable[[Tensor | slice], tuple[Tensor, ...]],
        count: int,
        device: torch.device,
        *,
        began_with: int | None = None,
    ) -> tuple[Tensor, ...]:
        """What `run` returns for the positions of each pass, joined for all `count` images."""
        parts = self.split(count, began_with or count, device)
        results = zip(*([one[:number] for one in run(part)] for part, number in parts), strict=True)
        return tuple(torch.cat(found) if len(found) > 1 else found[0] for found in results)

    def logits(self, logits_fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """logits_fn(x) (M, K), computed in one or several passes."""
        (logits,) = self.gather(lambda part: (logits_fn(x[part]),), len(x), x.device)
        return logits


ALL_AT_ONCE = Passes()


@dataclass(frozen=True)
class Cycle:
    """What is known, at one point of a search, about its repetition.

    `suspected` (M,) bool are the examples whose points seem to repeat: they visit one whole period before their search
    can end. `period` (M,) int64 is the confirmed period of the examples whose search is over, 0 for the others. Their
    point is also that of the last step of the search.
    """

    suspected: Tensor
    period: Tensor


class CycleFinder:
    """Finds the examples whose search repeats itself bit for bit.

    A point's digest that was seen before makes a cycle suspected. The point is kept. The cycle is confirmed if the
    digests of one more period are the same and its last point is exactly the one that was kept. An example's search
    is over at the first point from there on that is in phase with step `num_steps`.

    Source: the observation is from arXiv:2503.19347.
    """

    def __init__(self, x: Tensor, num_steps: int) -> None:
        self._num_steps = num_steps
        self._kept = words(x).clone()
        generator = torch.Generator().manual_seed(DIGEST_SEED)
        weights = torch.randint(-(2**62), 2**62, (self._kept.shape[1],), generator=generator) * 2 + 1
        self._weights = to_device(weights, x.device)
        self._digests = torch.empty(len(x), num_steps + 1, dtype=torch.int64, device=x.device)
        self._due = torch.full((len(x),), -1, device=x.device)  # the step at which the kept point must come again
        self._period = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self._over = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def observe(self, step: int, x: Tensor) -> Cycle:
        """Take note of the points x (M, ...) at `step` (0, 1, ...)."""
        point = words(x)
        digest = (point * self._weights).sum(1)
        same = self._digests[:, :step] == digest[:, None]
        ago = 1 + same.flip(1).to(torch.uint8).argmax(1) if step else self._period
        met = (point == self._kept).all(1)
        before = self._digests.gather(1, (step - self._period).clamp(min=0)[:, None]).squeeze(1)
        refuted = (digest != before) | ((self._due == step) & ~met)
        self._due = torch.where((self._due >= step) & refuted, -1, self._due)
        found = same.any(1) & (self._due < 0)
        torch.where(found[:, None], point, self._kept, out=self._kept)
        self._due = torch.where(found, step + ago, self._due)
        self._period = torch.where(found, ago, self._period)
        self._digests[:, step] = digest
        confirmed = (self._due >= 0) & (self._due <= step)
        in_phase = (self._num_steps - step) % self._period.clamp(min=1) == 0
        self._over = self._over | (confirmed & in_phase)
        return Cycle(suspected=self._due >= 0, period=torch.where(self._over, self._period, 0))

    def keep(self, kept: Tensor) -> None:
        """Drop all examples but those at the positions `kept` (K,) int64."""
        for name in ("_digests", "_kept", "_due", "_period", "_over"):
            setattr(self, name, getattr(self, name)[kept])


def words(x: Tensor) -> Tensor:
    """(M, P): the bits of each row of x (M, ...), in 64-bit words: NaN equals NaN. Zeros fill the last word up."""
    rows, size = x.contiguous().flatten(1), 8 // x.element_size()
    missing = -rows.shape[1] % size
    if missing:
        rows = F.pad(rows, (0, missing))
    elif rows.storage_offset() % size:  # a word cannot begin within a word of the storage
        rows = rows.clone()
    return rows.view(torch.int64)
