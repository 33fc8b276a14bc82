"""Per-example losses. All of them are large when the image is not seen as its label.

An untargeted attack therefore ascends the loss to the true label, a targeted one descends the loss
to the target (section 4.2).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bat_core.errors import unknown_name

Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of each example, in float32 or better.

    Args:
        logits: (B, K).  label: (B,) int64, or (B, K) rows of a distribution.
    Returns:
        (B,) non-negative.
    Source: paper, eq. 1.
    """
    return F.cross_entropy(_at_least_float32(logits), label, reduction="none")


def cw_margin(logits: Tensor, label: Tensor) -> Tensor:
    """Largest other logit less the label's: positive exactly when the label is not predicted.

    Args:
        logits: (B, K).  label: (B,) int64.
    Returns:
        (B,) in logits' unit, float32 or better.
    Source: Carlini and Wagner 2017, arXiv:1608.04644, loss f6 without its floor.
    """
    logits = _at_least_float32(logits)
    own = logits.gather(1, label[:, None]).squeeze(1)
    return largest_other(logits, label).values - own


def largest_other(logits: Tensor, label: Tensor) -> torch.return_types.max:
    """Largest logit and its class among the classes that are not `label`: values (B,), indices (B,)."""
    return logits.scatter(1, label[:, None], -torch.inf).max(dim=1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "cw": cw_margin}


def get_loss(name: str) -> Loss:
    """The per-example loss called `name`.

    Raises:
        ValueError: unknown name.
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    return LOSSES[name]
