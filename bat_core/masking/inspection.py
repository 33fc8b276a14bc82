"""Inspects a user's model for common mistakes: does it take images in [0, 1] and return logits?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from bat_core.adapter.adapted import device_of
from bat_core.adapter.importing import describe
from bat_core.adapter.normalize import NORMALIZATIONS, Normalization
from bat_core.adapter.outputs import candidates, describe_output
from bat_core.correctness import is_correct, is_finite
from bat_core.data import Images, to_unit
from bat_core.device import is_out_of_memory
from bat_core.forward import eval_without_tf32
from bat_core.losses import cross_entropy
from bat_core.masking.checks import largest_class_share
from bat_core.masking.flags import ONE_CLASS

IMAGES = 128  # the number of images that the inspection uses
RANGE_MARGIN = 0.10  # an accuracy gain on another input range that shows the model expects that range
STANDARDISED = "standardised images (zero mean, unit deviation)"
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


def inspect(
    model: nn.Module, images: Images, labels: Tensor, *, num_classes: int, batch_size: int | None = None
) -> tuple[Finding, ...]:
    """Check that a model meets the assumptions of an evaluation.

    Args:
        model: the user's model, in any mode.
        images: (N, C, H, W) uint8, or float in [0, 1]; the first 128 are used.  labels: (N,) int64.
        num_classes: the number of classes of the data set.
        batch_size: the most images in one pass; default all 128.
    Returns:
        All problems, errors first; empty if there are none.
    """
    training = model.training if hasattr(model, "training") else False  # frozen TorchScript has no mode
    device = device_of(model) or torch.device("cpu")
    x, y = to_unit(images[:IMAGES].to(device)), labels[:IMAGES].to(device)
    found = [_training_mode()] if training else []
    size = min(batch_size or len(x), len(x))
    while True:
        try:
            return _findings(model, _in_batches(model, size), x, y, found, num_classes)
        except (MemoryError, RuntimeError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size = max(size // 2, 1)
            if batch_size is None:
                x, y = x[:size], y[:size]


LogitsFn: TypeAlias = Callable[[Tensor], Tensor]


def _in_batches(model: nn.Module, size: int) -> LogitsFn:
    """The model on at most `size` images at a time."""

    def logits(x: Tensor) -> Tensor:
        if len(x) <= size:
            return cast(Tensor, model(x))
        return torch.cat([model(part) for part in x.split(size)])

    return logits


def _findings(
    model: nn.Module, logits_fn: LogitsFn, x: Tensor, y: Tensor, found: list[Finding], num_classes: int
) -> tuple[Finding, ...]:
    with eval_without_tf32(model):
        logits, broken = _forward(logits_fn, x, num_classes)
        if logits is None:
            return (broken,) if broken else ()
        if not is_finite(logits).any():
            return (_error("not_finite", "the model returns NaN or infinity for every image"),)
        for check in (_finite, _probabilities):
            found = found + check(logits)
        found = (
            found
            + _one_class(logits, y)
            + _range(logits_fn, x, y, logits)
            + _passes(logits_fn, x, logits)
            + _gradient(logits_fn, x, y)
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


def _forward(model: LogitsFn, x: Tensor, num_classes: int) -> tuple[Tensor | None, Finding | None]:
    try:
        with torch.no_grad():
            logits = model(x)
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        shape = "x".join(map(str, x.shape[1:]))
        return None, _error("forward", f"the model does not accept {shape} images: {describe(error)}")
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        keys = candidates(logits, count=len(x), classes=num_classes)
        remedy = f"; choose the logits with --logits-key, one of {', '.join(keys)}" if keys else ""
        description = (
            f"the model returns {describe_output(logits)}: it must return floating-point logits (N, classes){remedy}"
        )
        return None, _error("output", description)
    if len(logits) != len(x):
        description = (
            f"the model returns {len(logits)} rows of logits for {len(x)} images: it must return one per image"
        )
        return None, _error("output", description)
    if logits.shape[1] != num_classes:
        return None, _error(
            "classes", f"the model has {logits.shape[1]} classes and the data set has {num_classes}: they must match"
        )
    return logits, None


def _finite(logits: Tensor) -> list[Finding]:
    broken = int((~is_finite(logits)).sum())
    description = f"the model returns NaN or infinity for {broken} of {len(logits)} images: they count as misclassified"
    return [_warning("not_finite", description)] if broken else []


def _probabilities(logits: Tensor) -> list[Finding]:
    sound = logits[is_finite(logits)].double()
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


def _range(model: LogitsFn, x: Tensor, y: Tensor, logits: Tensor) -> list[Finding]:
    answered = is_finite(logits)  # an image without an answer says nothing of the range that the model expects
    own = _accuracy(logits[answered], y[answered])
    measured = Normalization(tuple(x.mean((0, 2, 3)).tolist()), tuple((x.std((0, 2, 3)) + 1e-6).tolist()))
    others = {
        "[0, 255]": NORMALIZATIONS["255"],
        "[-1, 1]": NORMALIZATIONS["half"],
        STANDARDISED: measured,
    }
    accuracies = {name: _accuracy_after(model, other, x, y, answered) for name, other in others.items()}
    best = max(accuracies, key=lambda name: accuracies[name])
    if accuracies[best] < own + max(RANGE_MARGIN, 2 / len(y) ** 0.5):  # more than chance on few images
        return []
    remedy = others[best] if best != STANDARDISED else _known(model, x, y, answered, (measured, accuracies[best]))
    return [
        _error(
            "range",
            f"the model seems to expect {best}: its accuracy is {accuracies[best]:.0%} there and {own:.0%} on images"
            f" in [0, 1]; put the normalisation inside the model, or add --normalize {remedy}",
        )
    ]


def _known(
    model: LogitsFn, x: Tensor, y: Tensor, answered: Tensor, measured: tuple[Normalization, float]
) -> Normalization:
    """The normalisation to name: a well-known one with which the model is as accurate, else the measured one."""
    standard = {name: one for name, one in NORMALIZATIONS.items() if name not in ("255", "half")}
    fitting = [one for one in standard.values() if one.fits(x.shape[1])]
    accuracies = {one: _accuracy_after(model, one, x, y, answered) for one in fitting}
    best = max(accuracies, key=lambda one: accuracies[one], default=measured[0])
    return best if accuracies.get(best, 0.0) >= measured[1] - 1 / len(y) else measured[0]


def _accuracy_after(model: LogitsFn, normalization: Normalization, x: Tensor, y: Tensor, answered: Tensor) -> float:
    """The accuracy on normalised images, of those that are `answered` (N,); 0 if the model refuses them."""
    try:
        with torch.no_grad():
            return _accuracy(model(normalization.apply(x))[answered], y[answered])
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        return 0.0


def _passes(model: LogitsFn, x: Tensor, logits: Tensor) -> list[Finding]:
    spread = float((logits.amax(1) - logits.amin(1)).nan_to_num().mean()) + 1e-12
    with torch.no_grad():
        again = model(x)
        try:
            alone = torch.cat([model(one) for one in x[:8].split(1)])
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            return [_error("single", f"the model fails on a single image: {describe(error)}")]
    if alone.shape != logits[:8].shape:
        given = f"{tuple(alone.shape)} for {len(x[:8])} of them"
        return [_error("single", f"the model does not return (1, classes) for a single image, but {given}")]
    if (apart := float((again - logits).abs().nan_to_num().mean()) / spread) > PASS_TOLERANCE:
        description = (
            f"two passes over the same images differ by {apart:.1%} of the logits' spread: the model is randomised"
        )
        return [_warning("random", description)]
    if (apart := float((alone - logits[:8]).abs().nan_to_num().mean()) / spread) > PASS_TOLERANCE:
        description = f"an image's logits depend on the others in its batch (by {apart:.1%} of their spread)"
        return [_warning("batch_dependent", description)]
    return []


def _gradient(model: LogitsFn, x: Tensor, y: Tensor) -> list[Finding]:
    x = x.clone().requires_grad_()
    try:
        with torch.enable_grad():
            logits = model(x)
            if not logits.requires_grad:
                return [_error("no_gradient", NO_GRADIENT)]
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                cross_entropy(logits, y).sum(), x, allow_unused=True
            )
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        return [_error("backward", f"the gradient with respect to the image cannot be computed: {describe(error)}")]
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
