"""Searches that repeat themselves: fixed signed steps run into a cycle, after which every later point is known."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bat_core.device import to_device

SMALLEST_PASS = 16  # images; kernels for a handful of images add up in another order, so such passes are filled up
READ_EVERY = 20  # steps between two reads, on a GPU, of which searches have ended
DIGEST_SEED = 20190612


@dataclass(frozen=True)
class Passes:
    """How a search passes its images through the network.

    With `cycles`, an example whose search repeats itself bit for bit leaves the search. Each pass then takes at most
    `batch` images of all that remain, and at least 16 as long as the search began with as many. `cycles` must be
    off where the network's result for an image is random or depends on the rest of its batch.
    """

    batch: int | None = None
    cycles: bool = False

    def split(self, count: int, began_with: int, device: torch.device) -> Iterator[tuple[Tensor | slice, int]]:
        """The positions of each pass's images among `count`, and how many of them count: the rest fills up."""
        size = self.batch or count
        least = min(SMALLEST_PASS, began_with, size)
        for first in range(0, count, size):
            number = min(size, count - first)
            if number >= least:
                yield slice(first, first + number), number
            else:
                yield first + torch.arange(least, device=device) % number, number

    def logits(self, logits_fn: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """logits_fn(x) (M, K), computed in one or several passes."""
        parts = self.split(len(x), len(x), x.device)
        return torch.cat([logits_fn(x[part])[:number] for part, number in parts])


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
        generator = torch.Generator().manual_seed(DIGEST_SEED)
        weights = torch.randint(-(2**62), 2**62, (x[0].numel(),), generator=generator) * 2 + 1
        self._weights = to_device(weights, x.device)
        self._digests = torch.empty(len(x), num_steps + 1, dtype=torch.int64, device=x.device)
        self._kept = x.clone()
        self._due = torch.full((len(x),), -1, device=x.device)  # the step at which the kept point must come again
        self._period = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self._over = torch.zeros(len(x), dtype=torch.bool, device=x.device)

    def observe(self, step: int, x: Tensor) -> Cycle:
        """Take note of the points x (M, ...) at `step` (0, 1, ...)."""
        digest = (_bits(x).long() * self._weights).sum(1)
        same = self._digests[:, :step] == digest[:, None]
        ago = 1 + same.flip(1).to(torch.uint8).argmax(1) if step else self._period
        met = (_bits(x) == _bits(self._kept)).all(1)
        before = self._digests.gather(1, (step - self._period).clamp(min=0)[:, None]).squeeze(1)
        refuted = (digest != before) | ((self._due == step) & ~met)
        self._due = torch.where((self._due >= step) & refuted, -1, self._due)
        found = same.any(1) & (self._due < 0)
        self._kept = torch.where(_like(found, x), x, self._kept)
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


def _bits(x: Tensor) -> Tensor:
    """(M, P): the images' values, read as integers of the same size."""
    same_size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.contiguous().flatten(1).view(same_size)


def _like(mask: Tensor, x: Tensor) -> Tensor:
    """A mask (M,) in a shape that applies to images (M, ...)."""
    return mask.view(-1, *[1] * (x.ndim - 1))


@torch.enable_grad()
def why_no_cycles(logits_fn: Callable[[Tensor], Tensor], x: Tensor) -> str | None:
    """Why cycles cannot be used with this network; None if they can, as far as a few passes over x (B, ...) show.

    The same images must give the same bits: a second time, among fewer other images, and without gradients. They must
    draw no random numbers. Torch's random state is restored.
    """
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        before = torch.get_rng_state()
        logits, gradient = _logits_and_gradient(logits_fn, x)
        if not torch.equal(before, torch.get_rng_state()):
            return "the model draws random numbers"
        if not _same(_logits_and_gradient(logits_fn, x), (logits, gradient)):
            return "two passes over the same images differ"
        few = torch.arange(len(x) - 1, -1, -1, device=x.device)[: max(SMALLEST_PASS, len(x) // 3)]
        if not _same(_logits_and_gradient(logits_fn, x[few]), (logits[few], gradient[few])):
            return "the result for an image depends on the other images of its batch"
        with torch.no_grad():
            if not torch.equal(logits_fn(x), logits):
                return "logits differ when no gradient is taken"
    return None


def _logits_and_gradient(logits_fn: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    logits = logits_fn(x)
    if not logits.requires_grad:
        return logits, torch.zeros_like(x)
    weights = torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype, device=logits.device)
    (gradient,) = torch.autograd.grad((logits * weights).sum(), x, allow_unused=True)
    return logits.detach(), torch.zeros_like(x) if gradient is None else gradient


def _same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    """Whether logits and gradients are equal bit for bit."""
    return all(torch.equal(_bits(a), _bits(b)) for a, b in zip(found, expected, strict=True))
