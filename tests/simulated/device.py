"""A GPU that exists in name only: tensors in the CPU's memory that say they are on `cuda`, and behave like it.

It refuses to mix devices and generators, has the fused optimiser's check of strides, and counts what the CPU would
wait for. It finds faults of the kind that a machine without a GPU hides; speed and rounding are the CPU's.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
GPU = torch.device("cuda", 0)
MIXED = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"

READS = {  # the size or the value of their result is needed by the CPU
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.equal.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
COPIES = {aten.copy_.default, aten._to_copy.default}
OF_AUTOGRAD = {aten.scatter.src}  # torch 2.11 makes the zeros of a maximum's gradient where this device is not known
FUSED_SGD = {aten._fused_sgd_.default}

waits: Counter[str] = Counter()
_native = torch.Generator  # what `torch.Generator` is outside `simulated_gpu`


class OnGPU(Tensor):
    """A tensor that says it is on the GPU. `held` is its content."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnGPU":
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device="cpu", requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def get_device(self) -> int:
        return 0

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"OnGPU({self.held!r})"

    def __format__(self, spec: str) -> str:
        return format(self.item() if self.ndim == 0 else str(self), spec)

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(held: dict[str, Tensor], *_: Any) -> "OnGPU":
        return OnGPU(held["held"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _check(func, args, kwargs)
        result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        return return_and_correct_aliasing(func, args, kwargs, tree_map(_wrapped, result))


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnGPU) else value


def _wrapped(value: Any) -> Any:
    return OnGPU(value) if isinstance(value, Tensor) and not isinstance(value, OnGPU) else value


def _check(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Count what waits, and refuse what a GPU refuses."""
    if func in READS:
        waits[str(func)] += 1
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, Tensor)]
    if func in INDEXING:
        if not isinstance(args[0], OnGPU):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        for index in args[1]:
            if index is not None and index.dtype in (torch.bool, torch.uint8):
                waits[f"{func} with a mask"] += 1
            elif index is not None and not isinstance(index, OnGPU):
                waits[f"{func} with positions on the CPU"] += 1
        tensors = [args[0], *args[2:3]]
    elif func in OF_AUTOGRAD:
        tensors = [*args[2:]]  # positions and values
    elif func in COPIES:
        tensors = []  # `_Placement` counts those that change the device
        if func is aten.copy_.default and isinstance(args[0], OnGPU) != isinstance(args[1], OnGPU) and args[1].ndim:
            waits["copy_ between devices"] += 1
    if any(one.ndim and not isinstance(one, OnGPU) for one in tensors if isinstance(one, Tensor)):
        raise RuntimeError(f"{MIXED} ({func})")
    if func in FUSED_SGD:
        for parameter, gradient, momentum in zip(args[0], args[1], args[2] or args[1], strict=True):
            if not _strides(parameter) == _strides(gradient) == _strides(momentum):
                raise RuntimeError("`params`, `grads` and `momentum_buffers` must have the same strides")


def _strides(tensor: Tensor) -> list[int]:
    """The strides that matter: those of a dimension of size 1 do not."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1]


class GeneratorOnGPU(_native):  # type: ignore[misc, valid-type]
    """`torch.Generator`, whose state has another size on the GPU."""

    MARK = 16  # bytes that a state of the GPU is longer by

    def __new__(cls, device: Any = "cpu") -> Any:
        if not _is_gpu(device):
            return _native(device)
        return super().__new__(cls)

    def __init__(self, device: Any = "cpu") -> None: ...

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return GPU

    def get_state(self) -> Tensor:
        return torch.cat([super().get_state(), torch.zeros(self.MARK, dtype=torch.uint8)])

    def set_state(self, state: Tensor) -> Any:
        expected = super().get_state().numel() + self.MARK
        if state.numel() != expected:
            raise RuntimeError("RNG state is wrong size")
        return super().set_state(state[: -self.MARK].clone())


def _is_gpu(device: Any) -> bool:
    return device is not None and not isinstance(device, int) and torch.device(device).type == "cuda"


class _Placement(TorchFunctionMode):
    """What creates a tensor on a device, or moves one to it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in MOVES:
            return MOVES[func](*args, **kwargs)
        return (
            self._created(func, args, kwargs) if "device" in kwargs or "generator" in kwargs else func(*args, **kwargs)
        )

    def _created(self, func: Any, args: Any, kwargs: Any) -> Any:
        device, generator = kwargs.get("device"), kwargs.get("generator")
        on_gpu = _is_gpu(device) or (device is None and bool(args) and isinstance(args[0], OnGPU))
        if generator is not None and on_gpu != isinstance(generator, GeneratorOnGPU):
            raise RuntimeError(f"Expected a {GPU if on_gpu else 'cpu'} generator, but found {generator.device}")
        if not _is_gpu(device):
            return func(*args, **kwargs)
        made = func(*args, **{**kwargs, "device": "cpu"})
        return _wrapped(made)


_PINNED = "_simulated_page_lock"


def _pin(self: Tensor) -> Tensor:
    assert not isinstance(self, OnGPU), "only memory of the CPU can be page-locked"
    copy = self.clone()
    setattr(copy, _PINNED, True)
    return copy


def _to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    device, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    copy = kwargs.get("copy", False)
    if args and isinstance(args[0], Tensor):
        device = args[0].device
    cast = {"dtype": dtype or self.dtype, "copy": copy}
    if memory_format is not None:
        cast["memory_format"] = memory_format
    here = isinstance(self, OnGPU)
    there = here if device is None else _is_gpu(device)
    if here == there:
        return _plain_to(self, **cast)
    if there:
        if not (non_blocking and hasattr(self, _PINNED)):
            waits["copy to the GPU"] += 1
        return _Move.apply(_plain_to(self, **cast))
    waits["copy from the GPU"] += 1
    return _plain_to(_Move.apply(self), **cast)


class _Move(torch.autograd.Function):
    """To the other device."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.held.clone() if isinstance(x, OnGPU) else OnGPU(x.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.held.clone() if isinstance(gradient, OnGPU) else OnGPU(gradient.clone())


_plain_to = Tensor.to


def _numpy(self: Tensor, **_: Any) -> Any:
    if isinstance(self, OnGPU):
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
    return _plain_numpy(self)


_plain_numpy = Tensor.numpy


def _tolist(self: Tensor) -> Any:
    return _plain_tolist(_to(self, "cpu"))


_plain_tolist = Tensor.tolist


def _one_hot(self: Tensor, num_classes: int = -1) -> Tensor:
    """torch's own creates a tensor on the CPU, where it takes this one to be."""
    if isinstance(self, OnGPU) and num_classes < 0:
        waits["one_hot without a number of classes"] += 1
    return (
        _wrapped(_plain_one_hot(self.held, num_classes))
        if isinstance(self, OnGPU)
        else _plain_one_hot(self, num_classes)
    )


_plain_one_hot = torch.nn.functional.one_hot
MOVES: dict[Any, Callable[..., Any]] = {
    _plain_one_hot: _one_hot,
    Tensor.to: _to,
    Tensor.cpu: lambda self, **kwargs: _to(self, "cpu", **kwargs),
    Tensor.cuda: lambda self, *_, **kwargs: _to(self, GPU, **kwargs),
    Tensor.numpy: _numpy,
    Tensor.tolist: _tolist,
    Tensor.pin_memory: _pin,
}


@contextlib.contextmanager
def simulated_gpu(patch: Any) -> Iterator[Counter[str]]:
    """A machine with a simulated GPU during the body.

    Args:
        patch: pytest's monkeypatch.
    Yields:
        What the CPU waited for, by operation.
    """
    autocast = torch.autocast
    patch.setattr(torch, "Generator", GeneratorOnGPU)
    patch.setattr(torch, "autocast", lambda device_type, **kwargs: autocast("cpu", **kwargs))
    for name, value in {
        "is_bf16_supported": True, "get_device_name": "simulated", "empty_cache": None, "memory_reserved": 0,
        "memory_allocated": 0, "mem_get_info": (2**33, 2**33), "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None, "manual_seed": None, "manual_seed_all": None,
    }.items():  # fmt: skip
        patch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    waits.clear()
    with _Placement():
        yield waits
