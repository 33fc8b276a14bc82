"""Finds the logits in what a model returns: a tensor, a tuple, a mapping or an object with attributes."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

DEPTH = 3  # how deep a model may nest its outputs


def parts(output: Any, *, prefix: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) for every tensor in an output. The key of a nested tensor joins the keys by dots: `heads.0`."""
    if isinstance(output, Tensor):
        yield prefix, output
    elif depth:
        for key, value in _items(output):
            yield from parts(value, prefix=f"{prefix}.{key}" if prefix else key, depth=depth - 1)


def pick(output: Any, key: str) -> Any:
    """The part of an output at `key`, as `parts` names it; the output itself if the key is empty.

    Raises:
        KeyError: there is no such part; the message names those that there are.
    """
    for step in key.split(".") if key else ():
        found = dict(_items(output))
        if step not in found and hasattr(output, step) and not isinstance(output, Tensor | list | tuple):
            found[step] = getattr(output, step)
        if step not in found:
            given = f"it returns {', '.join(found)}" if found else f"it returns a {type(output).__name__}"
            raise KeyError(f"the model returns no {key!r}: {given}")
        output = found[step]
    return output


def logits_shaped(tensor: Any, *, count: int, classes: int | None = None) -> bool:
    """Whether a tensor may hold logits of `count` images: (count, K), or (count, K, 1, 1), of floating-point numbers.

    `classes` is K; None stands for any K of at least 2.
    """
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.ndim < 2:
        return False
    fits = tensor.shape[1] == classes if classes is not None else tensor.shape[1] >= 2
    return fits and tensor.shape[0] == count and all(size == 1 for size in tensor.shape[2:])


def candidates(output: Any, *, count: int, classes: int) -> list[str]:
    """The keys of the tensors that may be the logits of `count` images. One tensor under two keys counts once."""
    found: dict[int, str] = {}
    for key, tensor in parts(output):
        if logits_shaped(tensor, count=count, classes=classes):
            found.setdefault(id(tensor), key)
    return list(found.values())


def describe_output(output: Any) -> str:
    """What a model returned, in words: "a tuple of 0: 128x10, 1: 128x512"."""
    if isinstance(output, Tensor):
        return f"{tuple(output.shape)} {output.dtype}"
    kind = type(output).__name__
    shapes = [f"{key}: {'x'.join(map(str, tensor.shape)) or 'scalar'}" for key, tensor in parts(output)][:8]
    return f"a {kind} of {', '.join(shapes)}" if shapes else kind


def _items(output: Any) -> list[tuple[str, Any]]:
    if isinstance(output, Mapping):
        return [(str(key), value) for key, value in output.items()]
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return list(zip(output._fields, output, strict=True))
    if isinstance(output, list | tuple):
        return [(str(number), value) for number, value in enumerate(output)]
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    if isinstance(output, Tensor):
        return []
    held = dict(getattr(output, "__dict__", {}))
    if not any(isinstance(value, Tensor) for value in held.values()) and hasattr(output, "logits"):
        held["logits"] = output.logits  # a property
    return [(name, value) for name, value in held.items() if not name.startswith("_")]
