"""Checks that a user's network and recipe can be trained, on a few random images, before anything is started."""

import torch
from torch import Tensor, nn

from bat_core.adapter.importing import user_code
from bat_core.checkpoint import check_savable
from bat_core.config import TrialConfig
from bat_core.errors import InputError
from bat_core.forward import autocast, evaluation_mode, resolve_layout, resolve_precision
from bat_core.models import ImageShape, build_model
from bat_core.recipes import get_recipe
from bat_core.rng import BatchRNG, named_seed
from bat_core.workers import Workers

MOST_VALUES = 2**19  # of a batch that is passed through the network as large as an update's
CPU = torch.device("cpu")


def is_users(name: str) -> bool:
    """Whether a model's or recipe's name refers to code outside this package: `package.module:factory`, `timm:NAME`."""
    return ":" in name


def check_trainable(config: TrialConfig, *, num_classes: int, image_shape: ImageShape, workers: Workers) -> None:
    """Check that the trial's network, or recipe, from outside this package can be trained, evaluated and saved.

    Networks and recipes of this package need no such check: their tests have made it.

    Raises:
        InputError: the network or the recipe raises an exception, or does not do what training needs.
    """
    if not is_users(config.model) and not is_users(config.recipe.name):
        return
    with torch.random.fork_rng(devices=[]):
        build = _Builder(config, num_classes, image_shape)
        model = build.one()
        if is_users(config.model):
            _check_building(build, model)
            _Network(config, model, num_classes, image_shape).check(workers)
            check_savable(model, f"model {config.model!r}")
            get_recipe(config.recipe.name, **config.recipe.params).check(model, num_classes)
        if is_users(config.recipe.name):
            _check_recipe(config, model, _images(config, image_shape, 4))


class _Builder:
    def __init__(self, config: TrialConfig, num_classes: int, image_shape: ImageShape) -> None:
        self.config, self.num_classes, self.image_shape = config, num_classes, image_shape

    def one(self) -> nn.Module:
        """The network as `initial_state` builds it."""
        torch.manual_seed(named_seed(self.config.seed, "init"))
        model = build_model(self.config.model, num_classes=self.num_classes, image_shape=self.image_shape)
        layout = resolve_layout(self.config.train.channels_last)
        return model.to(CPU, memory_format=layout)  # type: ignore[call-overload]


def _check_building(build: _Builder, model: nn.Module) -> None:
    """Check that each call makes a new network, whose weights the seed decides."""
    where, other = f"model {build.config.model!r}", build.one()
    mine = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) in mine for parameter in other.parameters()):
        raise InputError(
            f"{where} returns the same network twice: make a new one in each call, or each trial would continue the"
            " training of the one before it"
        )
    theirs = dict(other.named_parameters())
    for name, parameter in model.named_parameters():
        if name not in theirs or not torch.equal(parameter, theirs[name]):
            raise InputError(
                f"{where}: two calls with the same seed give different weights in {name!r}: draw them from the global"
                " generators of torch, numpy or random, which follow the trial's seed"
            )


class _Network:
    def __init__(self, config: TrialConfig, model: nn.Module, num_classes: int, image_shape: ImageShape) -> None:
        self.config, self.model, self.num_classes, self.image_shape = config, model, num_classes, image_shape
        self.where = f"model {config.model!r}"

    def check(self, workers: Workers) -> None:
        """Check modes, batch sizes, gradients and types."""
        share = max(self.config.train.batch_size // workers.size, 1)
        if not any(parameter.requires_grad for parameter in self.model.parameters()):
            raise InputError(f"{self.where} has no parameter that requires a gradient: there is nothing to train")
        for name, parameter in self.model.named_parameters():
            if parameter.dtype != torch.float32:
                raise InputError(
                    f"{self.where}: parameter {name!r} is {_dtype(parameter)}: train a float32 network;"
                    " --precision bfloat16 runs it in bfloat16"
                )
        for count in (1, 3):
            self._evaluate(count)
        self._update(2 if share > 1 else 1, workers)
        if share * self.image_shape[0] * self.image_shape[1] * self.image_shape[2] <= MOST_VALUES:
            self.model.train()
            with torch.no_grad():
                self._logits(_images(self.config, self.image_shape, share), "in training mode")

    def _evaluate(self, count: int) -> None:
        """Logits and input gradients in evaluation mode, as attacks need them."""
        x = _images(self.config, self.image_shape, count)
        before = x.clone()
        with evaluation_mode(self.model):
            with torch.no_grad():
                self._logits(x, "in evaluation mode")
            if not torch.equal(x, before):
                raise InputError(f"{self.where} changes its input: use x = (x - mean) / std in place of x.sub_(mean)")
            x.requires_grad_()
            logits = self._logits(x, "in evaluation mode")
            with user_code(f"{self.where}, in the gradient with respect to images {tuple(x.shape)}"):
                gradient = torch.autograd.grad(logits.sum(), x, allow_unused=True)[0] if logits.requires_grad else None
        if gradient is None:
            raise InputError(
                f"{self.where}: its logits have no gradient with respect to the images, which attacks need: remove"
                " detach(), no_grad() and conversions to NumPy from forward"
            )

    def _update(self, count: int, workers: Workers) -> None:
        """One backward pass in training mode."""
        self.model.train()
        x = _images(self.config, self.image_shape, count)
        precision = resolve_precision(self.config.train.precision, CPU)
        with autocast(CPU, precision):
            logits = self._logits(x, "in training mode", exact=precision == torch.float32)
        with user_code(f"{self.where}, in the backward pass"):
            logits.float().square().sum().backward()
        trained = [(name, one) for name, one in self.model.named_parameters() if one.requires_grad]
        without = [name for name, parameter in trained if parameter.grad is None]
        if len(without) == len(trained):
            raise InputError(f"{self.where}: no parameter gets a gradient: forward must use them without detach()")
        if without and workers.size > 1:
            raise InputError(
                f"{self.where}: parameter {without[0]!r} gets no gradient, and several workers wait for that of each"
                " parameter: use --num-workers 1, or set requires_grad to False for it"
            )
        self.model.zero_grad()

    def _logits(self, x: Tensor, mode: str, *, exact: bool = True) -> Tensor:
        with user_code(f"{self.where} {mode} on {_named(x)}"):
            logits = self.model(x)
        expected = (len(x), self.num_classes)
        if not isinstance(logits, Tensor):
            raise InputError(
                f"{self.where} returns {type(logits).__name__} {mode}: training needs a tensor of logits {expected}, so"
                " wrap the network in a module whose forward returns that alone"
            )
        if logits.shape != expected:
            rows_fit = logits.ndim == 2 and len(logits) == len(x)
            rule = "take num_classes in the factory" if rows_fit else "keep one row for each image"
            raise InputError(
                f"{self.where} returns {tuple(logits.shape)} {mode} for {_named(x)}, not {expected}: {rule}"
            )
        if exact and logits.dtype != torch.float32:
            raise InputError(f"{self.where} returns {_dtype(logits)} logits {mode}: they must be float32")
        if not logits.isfinite().all():
            raise InputError(f"{self.where} returns logits that are not finite {mode}: check its initial weights")
        return logits


def _check_recipe(config: TrialConfig, model: nn.Module, x: Tensor) -> None:
    """Check that a recipe crafts images in the ball with labels, and one loss for each of them."""
    where, recipe = f"recipe {config.recipe.name!r}", get_recipe(config.recipe.name, **config.recipe.params)
    model.eval()
    with torch.no_grad():
        y = model(x).argmax(1)
    rng = BatchRNG(torch.Generator().manual_seed(0), 0, 1)
    before = x.clone()
    with evaluation_mode(model), user_code(f"{where}, in craft"):
        x_adv, label = recipe.craft(model, x, y, rng)
    if not torch.equal(x, before):
        raise InputError(f"{where} changes the clean images: make a copy first")
    if x_adv.shape != x.shape or x_adv.dtype != x.dtype or x_adv.requires_grad:
        raise InputError(
            f"{where} crafts {_dtype(x_adv)} images {tuple(x_adv.shape)} from {_dtype(x)} {tuple(x.shape)}: they must"
            " be alike, and detached"
        )
    if not (x_adv.isfinite().all() and x_adv.min() >= 0 and x_adv.max() <= 1):
        raise InputError(f"{where} crafts images outside [0, 1]: clamp them")
    if len(label) != len(y) or label.requires_grad:
        raise InputError(f"{where} gives labels {tuple(label.shape)} for {len(y)} images: it needs one each, detached")
    model.train()
    with user_code(f"{where}, in loss"):
        losses, logits = recipe.loss(model, x, x_adv, label)
        losses.mean().backward()
    if losses.shape != y.shape or logits.shape[:1] != y.shape:
        raise InputError(
            f"{where}: loss returns losses {tuple(losses.shape)} and logits {tuple(logits.shape)} for {len(y)} images:"
            " it must return one loss for each image, and their logits"
        )
    if not losses.isfinite().all():
        raise InputError(f"{where} returns losses that are not finite on random images")
    model.zero_grad()


def _images(config: TrialConfig, image_shape: ImageShape, count: int) -> Tensor:
    x = torch.rand(count, *image_shape, generator=torch.Generator().manual_seed(count))
    return x.contiguous(memory_format=resolve_layout(config.train.channels_last))


def _named(x: Tensor) -> str:
    gray = {1: " gray", 3: " colour"}.get(x.shape[1], "")
    return f"{len(x)}{gray} {'image' if len(x) == 1 else 'images'} {tuple(x.shape)}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
