"""Whether a network gives the same result for an image in every pass, so that repeating searches may end."""

from collections.abc import Callable

import torch
from torch import Tensor

from bat_core.attacks.cycles import SMALLEST_PASS, words
from bat_core.attacks.gradient import input_gradient


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
            if not _same((logits_fn(x),), (logits,)):
                return "logits differ when no gradient is taken"
    return None


def _logits_and_gradient(logits_fn: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    logits = logits_fn(x)
    weights = torch.linspace(-1, 1, logits.shape[1], dtype=logits.dtype, device=logits.device)
    return logits.detach(), input_gradient((logits * weights).sum(1), x)


def _same(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(words(one), words(other)) for one, other in zip(found, expected, strict=True))
