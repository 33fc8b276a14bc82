"""How a forward pass runs: mode, precision, memory layout and compilation."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

backends: Any = torch.backends  # torch's annotations lack the settings
FLOAT32_SETTINGS = (  # of the kinds of operations that torch may compute in less than float32
    backends.cuda.matmul,
    backends.cudnn.conv,
    backends.cudnn.rnn,
    backends.mkldnn.matmul,
    backends.mkldnn.conv,
    backends.mkldnn.rnn,
)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode (batch norm uses running statistics), then restore each module's mode."""
    modes = {module: module.training for module in model.modules() if hasattr(module, "training")}  # frozen: none
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """True float32 convolutions and matrix products in the body: torch may round them to TF32 or bfloat16 otherwise.

    The settings that were found are restored. torch refuses to read its older settings (`allow_tf32`) after its newer
    ones were set, so the newer ones are used throughout.
    """
    found = [setting.fp32_precision for setting in FLOAT32_SETTINGS]
    for setting in FLOAT32_SETTINGS:
        setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, precision in zip(FLOAT32_SETTINGS, found, strict=True):
            setting.fp32_precision = precision


@contextlib.contextmanager
def eval_without_tf32(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, `without_tf32`."""
    with without_tf32(), evaluation_mode(model):
        yield


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager[object]:
    """Run convolutions and matrix products in `precision`; a no-op for float32."""
    return torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype for "auto" | "float32" | "bfloat16" on a device.

    "auto" is bfloat16 on GPUs that support it in hardware, and float32 elsewhere.
    """
    if name == "auto":
        native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        name = "bfloat16" if native else "float32"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def resolve_compile(choice: str) -> str | None:
    """The torch.compile mode for "auto" | "on" | "graphs" | "off"; None means no compilation, as does "auto".

    "graphs" records and replays CUDA graphs, which saves kernel launches; without CUDA it is the same as "on".
    Compilation does not pay off on a CPU (docs/performance.md); it has not been measured on a GPU.
    """
    return {"on": "default", "graphs": "reduce-overhead"}.get(choice)


def compiled(model: nn.Module, mode: str | None) -> nn.Module:
    """`model` through torch.compile, unless `mode` is None. Models of the same shape share compiled code."""
    return model if mode is None else cast(nn.Module, torch.compile(model, mode=mode))


def resolve_layout(choice: str) -> torch.memory_format:
    """The memory format for "auto" | "on" | "off": channels-last unless it is "off"."""
    return torch.contiguous_format if choice == "off" else torch.channels_last


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Disable gradients of the weights in the body: a compiled backward pass would compute them needlessly."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


class _ChannelsLast(torch.autograd.Function):
    """Converts images to channels-last layout; their gradient is contiguous NCHW, so that attacks can `.view` it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0].contiguous()


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) in channels-last layout, in which convolutions are fastest. Values do not change; differentiable."""
    return cast(Tensor, _ChannelsLast.apply(x))
