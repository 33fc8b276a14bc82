"""A SHA-256 of all that a model computes with, as far as it can be seen: weights, buffers, extra state, constants."""

import dataclasses
import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bat_core.adapter.importing import user_code

ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers, by name, of its extra state and of frozen TorchScript's constants.

    Tensors count by their bytes, in any memory layout and on any device. Other extra state counts by its value;
    an object that only says where it lies in memory counts by its type.

    Raises:
        InputError: the model's `state_dict()` fails.
    """
    with user_code("the model's state_dict() failed"):
        state = dict(model.state_dict())
        digest = hashlib.sha256()
        for name, value in sorted(state.items()):
            digest.update(name.encode())
            for part in _bytes_of(value):
                digest.update(part)
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule) and not list(module.parameters()):
                for tensor in constants(module):
                    for part in _tensor_bytes(tensor):
                        digest.update(part)
    return digest.hexdigest()


def _bytes_of(value: Any) -> Iterator[bytes]:
    if isinstance(value, Tensor):
        yield from _tensor_bytes(value.detach())
    elif isinstance(value, bytes | bytearray):
        yield bytes(value)
    elif isinstance(value, io.BytesIO):
        yield value.getvalue()
    elif isinstance(value, Mapping):
        for key, held in sorted(value.items(), key=lambda item: repr(item[0])):
            yield repr(key).encode()
            yield from _bytes_of(held)
    elif isinstance(value, list | tuple):
        for held in value:
            yield b","
            yield from _bytes_of(held)
    elif isinstance(value, set | frozenset):
        yield from sorted(b"".join(_bytes_of(held)) for held in value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield type(value).__qualname__.encode()
        yield from _bytes_of({field.name: getattr(value, field.name) for field in dataclasses.fields(value)})
    else:
        said = repr(value)
        yield (type(value).__qualname__ if ADDRESS.search(said) else said).encode()


def _tensor_bytes(tensor: Tensor) -> Iterator[bytes]:
    if tensor.is_quantized:
        yield repr((tensor.dtype, tensor.qscheme())).encode()
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            yield repr((tensor.q_scale(), tensor.q_zero_point())).encode()
        else:
            yield from _tensor_bytes(tensor.q_per_channel_scales())
        tensor = tensor.int_repr()
    elif tensor.layout != torch.strided:
        yield repr(tuple(tensor.shape)).encode()
        coo = (tensor if tensor.layout == torch.sparse_coo else tensor.to_sparse()).coalesce()
        yield from _tensor_bytes(coo.indices())
        tensor = coo.values()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    yield tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def constants(module: torch.jit.ScriptModule) -> list[Tensor]:
    """The tensors in the code of TorchScript: the weights of a module that torch.jit.freeze made.

    The text of the code does not count: it holds names that differ each time it is built.
    """
    graph: Any = module.inlined_graph  # its nodes live as long as it does
    found, blocks = [], [graph]
    while blocks:
        for node in blocks.pop().nodes():
            blocks += list(node.blocks())
            if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t":
                found.append(node.t("value").detach())
    return found
