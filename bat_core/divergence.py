"""Divergence: the loss, the weights or the answers of a model in training are no longer finite."""

import itertools
import math

import torch
from torch import nn

REMEDY = "training has diverged: lower lr or eps"


def check_loss(loss: float, epoch: int) -> None:
    """Raises FloatingPointError unless the mean training loss of an epoch is finite."""
    if not math.isfinite(loss):
        raise FloatingPointError(f"the training loss is {loss} in epoch {epoch}: {REMEDY}")


def check_weights(model: nn.Module, epoch: int) -> None:
    """Check what the last update of an epoch left behind; the loss was computed before that update.

    Raises:
        FloatingPointError: a parameter or a buffer, such as a running variance, is NaN or infinite.
    """
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    finite = {name: tensor.detach().isfinite().all() for name, tensor in tensors if tensor.is_floating_point()}
    if not finite or bool(torch.stack(list(finite.values())).all()):
        return
    broken = [name for name, sound in finite.items() if not sound]
    others = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
    raise FloatingPointError(f"{broken[0]}{others} is not finite after epoch {epoch}: {REMEDY}")


def check_answers(answered: float, epoch: int) -> None:
    """Raises FloatingPointError if the model gave finite logits for none of the validation images."""
    if not answered:
        raise FloatingPointError(f"no validation image has finite logits after epoch {epoch}: {REMEDY}")
