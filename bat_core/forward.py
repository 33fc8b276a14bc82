"""How a forward pass is run: in which mode, in which precision, in which layout."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Batch norm on its running statistics while crafting and judging; each module's mode is restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def eval_without_tf32(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and float32 that is float32: cuDNN would otherwise round convolutions to TF32."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with evaluation_mode(model):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Run convolutions and matrix products in `precision`; a no-op for float32."""
    return torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The type that "auto" | "float32" | "bfloat16" stands for on a device.

    "auto" is bfloat16 on GPUs that have it in hardware and float32 elsewhere.
    """
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        name = "bfloat16" if native else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def resolve_compile(choice: str) -> str | None:
    """The mode of torch.compile that "auto" | "on" | "graphs" | "off" stands for, None for none. Automatically none.

    "graphs" records CUDA graphs and replays them, which spares the launching of kernels; elsewhere it is "on".
    On a CPU compiling was measured not to pay (docs/performance.md); on a GPU it has not been measured.
    """
    return {"on": "default", "graphs": "reduce-overhead"}.get(choice)


def compiled(model: nn.Module, mode: str | None) -> nn.Module:
    """`model` through torch.compile, unless `mode` is None. Models of one shape share what was compiled."""
    return model if mode is None else cast(nn.Module, torch.compile(model, mode=mode))


def resolve_layout(choice: str) -> torch.memory_format:
    """What "auto" | "on" | "off" says of channels-last layout. Automatically it is on, as it always was."""
    return torch.contiguous_format if choice == "off" else torch.channels_last


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Weights take no gradient in the body: a compiled backward pass would compute it, whoever asks for it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class _ChannelsLast(torch.autograd.Function):
    """Images in channels-last layout; their gradient comes back as plain NCHW, which attacks may `.view`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0].contiguous()


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) in the layout that convolutions are fastest in, same numbers, differentiable."""
    return cast(Tensor, _ChannelsLast.apply(x))
