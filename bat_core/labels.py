"""Training labels: adversarial (eq. 14 and 18), smooth (eq. 15) and one-hot."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from bat_core.errors import InputError, check_finite


def adversarial_label(logits: Tensor, y: Tensor, *, beta: float, gamma: float = 0.01) -> Tensor:
    """Move probability mass from the true class to the others, most of it to the least likely class.

    The true class keeps exactly `beta` times the mass of the largest other class. No gradient flows
    through the label.

    Args:
        logits: (B, K) of the clean images.  y: (B,) int64.
        beta: above 0; `math.inf` gives the one-hot label.
        gamma: above 0; the share, before normalisation, of the most confusing class.
    Returns:
        (B, K), rows sum to 1; float64 if the logits are, else float32.
    Raises:
        ValueError: beta or gamma not above 0, fewer than two classes.
    Source: paper, eq. 13, 14 and 18.
    """
    check_beta_and_gamma(beta, gamma)
    num_others = _num_others(logits.shape[1])
    logits = logits.detach()
    logits = logits if logits.dtype == torch.float64 else logits.float()
    own = one_hot(y, num_classes=logits.shape[1]).bool()

    # v = -log p (eq. 13) enters only as v_k - v_MC, in which the softmax's normaliser cancels.
    z_mc = logits.masked_fill(own, -math.inf).amax(dim=1, keepdim=True)
    v_above_mc = (z_mc - logits).masked_fill(own, 0)
    v_mean = v_above_mc.sum(dim=1, keepdim=True) / num_others
    share = ((v_above_mc + gamma) / (v_mean + gamma)).masked_fill(own, 0)
    eps_y = 1 / (1 + beta / num_others * share.amax(dim=1, keepdim=True))  # eq. 18
    return torch.where(own, 1 - eps_y, eps_y / num_others * share)  # eq. 14


def smooth_label(y: Tensor, *, num_classes: int, eps_y: float) -> Tensor:
    """Label smoothing: the true class keeps 1 - eps_y, the others share eps_y equally.

    Args:
        y: (B,) int64.  eps_y: in [0, 1).
    Returns:
        (B, K) float32, rows sum to 1.
    Raises:
        ValueError: eps_y outside [0, 1), fewer than two classes.
    Source: paper, eq. 15; Szegedy et al. 2016, arXiv:1512.00567.
    """
    check_eps_y(eps_y)
    num_others = _num_others(num_classes)
    hot = one_hot(y, num_classes=num_classes)
    return torch.where(hot.bool(), 1 - eps_y, eps_y / num_others).to(hot.dtype)


def one_hot(y: Tensor, *, num_classes: int) -> Tensor:
    """(B,) integers -> (B, K) float32 with all mass on y."""
    return F.one_hot(y if y.is_floating_point() else y.long(), num_classes).float()


def check_beta_and_gamma(beta: float, gamma: float) -> None:
    """Raises InputError unless both are above 0; beta may be infinite."""
    check_finite("label.beta", beta, strict=True, allow_inf=True)
    check_finite("label.gamma", gamma, strict=True)


def check_eps_y(eps_y: float) -> None:
    """Raises InputError unless eps_y is in [0, 1)."""
    check_finite("label.eps_y", eps_y)
    if eps_y >= 1:
        raise InputError(f"label.eps_y={eps_y:g} must be below 1: the true class keeps a mass of 1 - eps_y")


def _num_others(num_classes: int) -> int:
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes}: a soft label needs at least 2 classes")
    return num_classes - 1
