"""Inspects a user's model for common mistakes: does it take images in [0, 1] and return logits?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bat_core.correctness import is_correct, is_finite
from bat_core.data import Images, to_unit
from bat_core.evaluate import is_out_of_memory
from bat_core.forward import eval_without_tf32
from bat_core.losses import cross_entropy
from bat_core.masking.checks import largest_class_share
from bat_core.masking.flags import ONE_CLASS

IMAGES = 128  # the number of images that the inspection uses
RANGE_MARGIN = 0.10  # an accuracy gain on another input range that shows the model expects that range
NO_GRADIENT = "the logits are not differentiable with respect to the image: no gradient attack works"
PASS_TOLERANCE = 1e-3  # largest difference between two passes, as a share of the logits' spread


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A problem with a model that affects its evaluation.

    An "error" makes the numbers meaningless. A "warning" is needed to interpret them.
    """

    name: str
    severity: Literal["error", "warning"]
    description: str


def inspect(model: nn.Module, images: Images, labels: Tensor, *, num_classes: int) -> tuple[Finding, ...]:
    """Check that a model meets the assumptions of an evaluation.

    Args:
        model: the user's model, in any mode.
        images: (N, C, H, W) uint8, or float in [0, 1]; the first 128 are used.  labels: (N,) int64.
        num_classes: the number of classes of the data set.
    Returns:
        All problems, errors first; empty if there are none.
    """
    training = model.training
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    x, y = to_unit(images[:IMAGES].to(device)), labels[:IMAGES].to(device)
    found = [_training_mode()] if training else []
    while True:
        try:
            return _findings(model, x, y, found, num_classes)
        except (MemoryError, RuntimeError) as error:
            if len(x) == 1 or not is_out_of_memory(error):
                raise
            x, y = x[: len(x) // 2], y[: len(y) // 2]


def _findings(model: nn.Module, x: Tensor, y: Tensor, found: list[Finding], num_classes: int) -> tuple[Finding, ...]:
    with eval_without_tf32(model):
        logits, broken = _forward(model, x, num_classes)
        if logits is None:
            return (broken,) if broken else ()
        if not logits.isfinite().all(1).any():
            return (_error("not_finite", "the model returns NaN or infinity for every image"),)
        for check in (_finite, _probabilities):
            found = found + check(logits)
        found = (
            found
            + _one_class(logits, y)
            + _range(model, x, y, logits)
            + _passes(model, x, logits)
            + _gradient(model, x, y)
        )
    return tuple(sorted(found, key=lambda finding: finding.severity != "error"))


def _error(name: str, description: str) -> Finding:
    return Finding(name=name, severity="error", description=description)


def _warning(name: str, description: str) -> Finding:
    return Finding(name=name, severity="warning", description=description)


def _training_mode() -> Finding:
    return _warning(
        "training_mode", "the model is in training mode (dropout, batch norm); it is evaluated in evaluation mode"
    )


def _forward(model: nn.Module, x: Tensor, num_classes: int) -> tuple[Tensor | None, Finding | None]:
    try:
        with torch.no_grad():
            logits = model(x)
    except (RuntimeError, ValueError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        shape = "x".join(map(str, x.shape[1:]))
        return None, _error("forward", f"the model does not accept {shape} images: {str(error).splitlines()[0][:160]}")
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        given = f"{tuple(logits.shape)} {logits.dtype}" if isinstance(logits, Tensor) else type(logits).__name__
        return None, _error("output", f"the model returns {given}: it must return floating-point logits (N, classes)")
    if logits.shape[1] != num_classes:
        return None, _error(
            "classes", f"the model has {logits.shape[1]} classes and the data set has {num_classes}: they must match"
        )
    return logits, None


def _finite(logits: Tensor) -> list[Finding]:
    broken = int((~logits.isfinite().all(1)).sum())
    description = f"the model returns NaN or infinity for {broken} of {len(logits)} images: they count as misclassified"
    return [_warning("not_finite", description)] if broken else []


def _probabilities(logits: Tensor) -> list[Finding]:
    sound = logits[logits.isfinite().all(1)].double()
    if bool((sound >= -1e-6).all() and (sound <= 1 + 1e-6).all() and ((sound.sum(1) - 1).abs() < 1e-3).all()):
        description = "the model returns probabilities: a softmax hides the gradient, so return the logits instead"
        return [_error("probabilities", description)]
    return []


def _one_class(logits: Tensor, y: Tensor) -> list[Finding]:
    """A constant prediction: no attack can change it, so its accuracy is not robustness."""
    finite = is_finite(logits)
    given = logits[finite].argmax(1)
    if largest_class_share(given, y[finite]) != 1:
        return []
    description = (
        f"the model predicts class {int(given[0])} for all {len(given)} images: its robust accuracy is meaningless"
    )
    return [_warning(ONE_CLASS, description)]


def _range(model: nn.Module, x: Tensor, y: Tensor, logits: Tensor) -> list[Finding]:
    answered = is_finite(logits)  # an image without an answer says nothing of the range that the model expects
    own = _accuracy(logits[answered], y[answered])
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True) + 1e-6
    others: dict[str, Callable[[Tensor], Tensor]] = {
        "[0, 255]": lambda z: z * 255,
        "[-1, 1]": lambda z: 2 * z - 1,
        "standardised images (zero mean, unit deviation)": lambda z: (z - mean) / std,
    }
    with torch.no_grad():
        accuracies = {name: _accuracy(model(rescale(x))[answered], y[answered]) for name, rescale in others.items()}
    best = max(accuracies, key=lambda name: accuracies[name])
    if accuracies[best] < own + max(RANGE_MARGIN, 2 / len(y) ** 0.5):  # more than chance on few images
        return []
    return [
        _error(
            "range",
            f"the model seems to expect {best}: its accuracy is {accuracies[best]:.0%} there and {own:.0%} on images"
            " in [0, 1]; put the normalisation inside the model",
        )
    ]


def _passes(model: nn.Module, x: Tensor, logits: Tensor) -> list[Finding]:
    spread = float((logits.amax(1) - logits.amin(1)).nan_to_num().mean()) + 1e-12
    with torch.no_grad():
        again = model(x)
        alone = torch.cat([model(one) for one in x[:8].split(1)])
    if (apart := float((again - logits).abs().nan_to_num().mean()) / spread) > PASS_TOLERANCE:
        description = (
            f"two passes over the same images differ by {apart:.1%} of the logits' spread: the model is randomised"
        )
        return [_warning("random", description)]
    if (apart := float((alone - logits[:8]).abs().nan_to_num().mean()) / spread) > PASS_TOLERANCE:
        description = f"an image's logits depend on the other images in its batch (by {apart:.1%} of their spread)"
        return [_warning("batch_dependent", description)]
    return []


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> list[Finding]:
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        if not logits.requires_grad:
            return [_error("no_gradient", NO_GRADIENT)]
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(cross_entropy(logits, y).sum(), x, allow_unused=True)
    gradient = gradients[0]
    if gradient is None:
        return [_error("no_gradient", NO_GRADIENT)]
    broken = int((~gradient.flatten(1).isfinite().all(1)).sum())
    if broken:
        description = f"the gradient is not finite for {broken} of {len(x)} images: attacks cannot move them"
        return [_warning("gradient_not_finite", description)]
    return []


def _accuracy(logits: Tensor, y: Tensor) -> float:
    return float(is_correct(logits, y).double().mean())
