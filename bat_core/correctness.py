"""What counts as a valid answer and as a correct one. Every accuracy and every verdict uses these functions."""

from torch import Tensor

NO_ANSWER = -1  # among predicted classes


def is_finite(logits: Tensor) -> Tensor:
    """(B,): whether all logits (B, K) of an image are finite. Only then has the model given an answer."""
    return logits.isfinite().all(1)


def is_correct(logits: Tensor, y: Tensor) -> Tensor:
    """(B,): whether the model answers y: all logits are finite and the largest is that of y.

    An image with a NaN or infinite logit is misclassified, whichever class its argmax names.

    Args:
        logits: (B, K).  y: (B,) int64.
    """
    return (logits.argmax(1) == y) & is_finite(logits)


def predicted_class(logits: Tensor) -> Tensor:
    """(B,): the class with the largest logit; NO_ANSWER where a logit is not finite."""
    return logits.argmax(1).where(is_finite(logits), NO_ANSWER)
