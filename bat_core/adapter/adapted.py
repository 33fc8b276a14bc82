"""The module that stands before a stranger's: it takes images in [0, 1] and returns float32 logits (B, K)."""

import contextlib
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from bat_core.adapter.normalize import Normalization
from bat_core.adapter.outputs import pick


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How a model is called. The default calls it as it is, and changes nothing.

    part: the submodule that is called, for wrappers: `module` of DataParallel, `_orig_mod` of torch.compile.
    argument: the name of forward's argument for the images, if it is not the first one.
    logits_key: the part of the output that holds the logits, such as `logits` or `0`.
    dtype: the dtype of the images that the model takes, such as float16; empty for float32.
    cast: the logits are not float32 and are cast.  half: they are, or come from, float16.
    reshape: the logits come with more or fewer dimensions, (B, K, 1, 1), or (K,) for one image.
    copy: the model writes to its input, and gets a copy.
    contiguous: the model takes contiguous images only.
    plain_weights: its weights are stored in the default memory format (the model fails in the one it came in).
    script: it holds TorchScript, which runs without the profiling executor: all passes run the same code.
    batch: the only batch size that the model takes; 0 for any.  smallest_batch: the smallest one.
    device: where the model has to stay; empty if it can be moved.
    mean, std: the normalisation of its images; empty for images in [0, 1].
    """

    part: str = ""
    argument: str = ""
    logits_key: str = ""
    dtype: str = ""
    cast: bool = False
    half: bool = False
    reshape: bool = False
    copy: bool = False
    contiguous: bool = False
    plain_weights: bool = False
    script: bool = False
    batch: int = 0
    smallest_batch: int = 1
    device: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def normalization(self) -> Normalization | None:
        """The normalisation of the images."""
        return Normalization(self.mean, self.std) if self.mean else None


def adapted(model: nn.Module, adaptation: Adaptation) -> nn.Module:
    """The model behind an adapter; the model itself if it needs none."""
    if adaptation == Adaptation() and device_of(model) is not None:
        return model
    return Adapted(model, adaptation)


def device_of(model: nn.Module) -> torch.device | None:
    """The device of a model's weights or buffers; None if it has none."""
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), None)


class Adapted(nn.Module):
    """Calls a model as its adaptation says. Images in [0, 1] (B, C, H, W) -> logits (B, K) in float32."""

    def __init__(self, model: nn.Module, adaptation: Adaptation) -> None:
        super().__init__()
        self.adaptation = adaptation
        self.inner = called(model, adaptation)
        self.register_buffer("_place", torch.empty(0, device=device_of(model)), persistent=False)
        self.training = getattr(self.inner, "training", False)  # frozen TorchScript has no mode
        if adaptation.plain_weights:
            self.inner.to(memory_format=torch.contiguous_format)

    def forward(self, x: Tensor) -> Tensor:
        given, adaptation = x.device, self.adaptation
        if adaptation.normalization is not None:
            x = adaptation.normalization.apply(x)
        if adaptation.device:
            x = x.to(adaptation.device)
        return self._in_batches(x).to(given)

    def _in_batches(self, x: Tensor) -> Tensor:
        """Call the model on batches of a size that it takes; the last is filled up by repeating its images."""
        count, size = len(x), self.adaptation.batch
        if size:
            whole = [x[start : start + size] for start in range(0, count, size)]
            return torch.cat([self._call(_filled(part, size))[: len(part)] for part in whole])
        if count < self.adaptation.smallest_batch:
            return self._call(_filled(x, self.adaptation.smallest_batch))[:count]
        return self._call(x)

    def _call(self, x: Tensor) -> Tensor:
        adaptation, scale = self.adaptation, _Scale()
        scaled = adaptation.half and torch.is_grad_enabled()
        taken = cast(Tensor, _DivideGradient.apply(x, scale)) if scaled else x
        logits: Tensor = pick(self._output(taken), adaptation.logits_key)
        if adaptation.reshape:
            logits = logits.reshape(len(x), -1)
        if adaptation.cast:
            logits = logits.float()
        return cast(Tensor, _ScaleGradient.apply(logits, scale)) if scaled else logits

    def _output(self, x: Tensor) -> Any:
        adaptation = self.adaptation
        if adaptation.dtype:
            x = x.to(getattr(torch, adaptation.dtype))
        if adaptation.contiguous:
            x = x.contiguous()
        if adaptation.copy:
            x = x.clone()
        with self._mode():
            return self.inner(**{adaptation.argument: x}) if adaptation.argument else self.inner(x)

    def raw(self, x: Tensor) -> Any:
        """The model's own output for one batch that it takes, filled up from x (B, C, H, W)."""
        if self.adaptation.normalization is not None:
            x = self.adaptation.normalization.apply(x)
        if self.adaptation.device:
            x = x.to(self.adaptation.device)
        size = self.adaptation.batch
        return self._output(_filled(x[:size], size) if size else x)

    def _mode(self) -> contextlib.AbstractContextManager[Any]:
        return _plain_script() if self.adaptation.script else contextlib.nullcontext()


def called(model: nn.Module, adaptation: Adaptation) -> nn.Module:
    """The submodule that is called."""
    for name in adaptation.part.split(".") if adaptation.part else ():
        model = getattr(model, name)
    return model


def _plain_script() -> contextlib.AbstractContextManager[Any]:
    return cast(contextlib.AbstractContextManager[Any], getattr(torch.jit, "optimized_execution")(False))  # noqa: B009


def _filled(x: Tensor, size: int) -> Tensor:
    """x (B, ...), repeated until it has `size` images; x itself if it has."""
    return x if len(x) == size else x[torch.arange(size, device=x.device) % len(x)]


class _Scale:
    """The factor of each image's gradient while it runs through float16; set by each backward pass."""

    values: Tensor | None = None


class _ScaleGradient(torch.autograd.Function):
    """The identity. Multiplies each image's gradient by a power of two, so that it does not underflow in float16."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, scale: _Scale) -> Tensor:
        ctx.scale = scale
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        largest = gradients[0].flatten(1).abs().amax(1)
        usable = largest.isfinite() & (largest > 0)
        exponents = -torch.where(usable, largest, 1).log2().floor().clamp(-100, 100)
        ctx.scale.values = torch.exp2(exponents)
        return gradients[0] * ctx.scale.values[:, None], None


class _DivideGradient(torch.autograd.Function):
    """The identity. Divides each image's gradient by the factor that `_ScaleGradient` used."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: _Scale) -> Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        values = ctx.scale.values
        if values is None:
            return gradients[0], None
        return gradients[0] / values.view(-1, *[1] * (gradients[0].ndim - 1)), None
