"""Per-example losses. Each is large if the image is not classified as its label.

An untargeted attack therefore increases the loss with respect to the true label; a targeted one decreases the loss
with respect to the target (section 4.2).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bat_core.errors import InputError, unknown_name

Loss = Callable[[Tensor, Tensor], Tensor]
AttackLoss = Callable[[Tensor, Tensor, Tensor | None], Tensor]

SATURATED_SPREAD = 10.0  # of logits whose probabilities round to 0 and 1, once they are scaled
TINY = 1e-12  # keeps a ratio of logits finite where they are all equal


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
    """The largest other logit minus the label's: positive exactly when the label is not predicted.

    Args:
        logits: (B, K).  label: (B,) int64.
    Returns:
        (B,) in the unit of the logits, float32 or better.
    Source: Carlini and Wagner 2017, arXiv:1608.04644, loss f6 without its floor.
    """
    logits = _at_least_float32(logits)
    own = logits.gather(1, label[:, None]).squeeze(1)
    return largest_other(logits, label).values - own


def dlr(logits: Tensor, label: Tensor) -> Tensor:
    """Difference of logits ratio: the margin divided by the gap between the largest and third largest logit.

    It is invariant to scaling and shifting the logits, so scaled logits cannot hide its gradient.

    Args:
        logits: (B, K) with K >= 3.  label: (B,) int64.
    Returns:
        (B,) at least -1, float32 or better; above 0 where the label is not predicted.
    Raises:
        ValueError: fewer than three classes.
    Source: Croce and Hein 2020, arXiv:2003.01690, eq. 5.
    """
    logits = _at_least_float32(logits)
    top = _largest(logits, 3, "dlr")
    return cw_margin(logits, label) / (top[:, 0] - top[:, 2] + TINY)


def targeted_dlr(logits: Tensor, label: Tensor, target: Tensor) -> Tensor:
    """The targeted form of `dlr`: large if the logit of `target` exceeds that of `label`.

    Args:
        logits: (B, K) with K >= 4.  label, target: (B,) int64.
    Raises:
        ValueError: fewer than four classes.
    Source: Croce and Hein 2020, arXiv:2003.01690, eq. 6.
    """
    logits = _at_least_float32(logits)
    top = _largest(logits, 4, "targeted dlr")
    gap = (logits.gather(1, target[:, None]) - logits.gather(1, label[:, None])).squeeze(1)
    return gap / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + TINY)


def probability_margin(logits: Tensor, label: Tensor) -> Tensor:
    """The largest other probability minus the label's: positive exactly when the label is not predicted.

    Where the label's probability rounds to 1, there would be no gradient. Logits are scaled to a spread of 10 there,
    through which no gradient is taken, and the result is lowered by 1: it is below that of all other images.

    Args:
        logits: (B, K).  label: (B,) int64.
    Returns:
        (B,) in [-2, 1], float32 or better; at least -1 where the label's probability is below 1.
    Source: arXiv:2411.15210; the scaling is ours.
    """
    logits = _at_least_float32(logits)
    probabilities = logits.softmax(dim=1)
    saturated = probabilities.detach().gather(1, label[:, None]) == 1
    spread = (logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)).detach()
    scaled = (logits * (SATURATED_SPREAD / (spread + TINY))).softmax(dim=1)
    return cw_margin(torch.where(saturated, scaled, probabilities), label) - saturated.squeeze(1).to(logits.dtype)


def scaled_cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of the logits divided by the gap between the two largest, through which no gradient is taken.

    Neither large nor small logits make its gradient vanish in floating point.

    Args:
        logits: (B, K).  label: (B,) int64.
    Returns:
        (B,) non-negative, float32 or better.
    Source: arXiv:2507.22428 (MIFPE, with a gap of 1 after scaling).
    """
    logits = _at_least_float32(logits)
    top = logits.detach().topk(2, dim=1).values
    return cross_entropy(logits / (top[:, :1] - top[:, 1:] + TINY), label)


def largest_other(logits: Tensor, label: Tensor) -> torch.return_types.max:
    """The largest logit and its class among all classes except `label`: values (B,), indices (B,)."""
    return logits.scatter(1, label[:, None], -torch.inf).max(dim=1)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _largest(logits: Tensor, count: int, loss: str) -> Tensor:
    if logits.shape[1] < count:
        raise InputError(f"loss {loss!r} needs {count} classes, the model has {logits.shape[1]}: use loss cw")
    return logits.topk(count, dim=1).values


LOSSES: dict[str, Loss] = {
    "ce": cross_entropy,
    "cw": cw_margin,
    "dlr": dlr,
    "pm": probability_margin,
    "scaled-ce": scaled_cross_entropy,
}


def get_loss(name: str) -> Loss:
    """The per-example loss called `name`.

    Raises:
        ValueError: unknown name.
    """
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    return LOSSES[name]


def min_classes(name: str, *, targeted: bool) -> int:
    """The smallest number of classes for which the (targeted) loss called `name` exists."""
    return 2 if name != "dlr" else 4 if targeted else 3


def objective(name: str) -> AttackLoss:
    """The objective that an attack with loss `name` maximises: (logits, y, target or None) -> (B,).

    Untargeted, it is the loss for the true label y. Targeted, it is minus the loss for the target (section 4.2),
    except for "dlr", which has a targeted form of its own.

    Raises:
        ValueError: unknown name.
    """
    loss = get_loss(name)

    def value(logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
        if target is None:
            return loss(logits, y)
        return targeted_dlr(logits, y, target) if name == "dlr" else -loss(logits, target)

    return value
