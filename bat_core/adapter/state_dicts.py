"""Reads weights as they lie around: nested, prefixed, in half precision; and says what does not fit."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bat_core.adapter.importing import user_code
from bat_core.errors import InputError

DEPTH = 3  # how deep a file may nest its state_dicts
TOP = "top"  # the label of names without a prefix, beside others with one
ANCHORS = 3  # names of the model by which prefixes in a file are found
WRAPPERS = ("_orig_mod.", "module.")  # torch.compile and DataParallel put these anywhere in a name
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.", "classifier.")
OPTIONAL = ("num_batches_tracked", "_extra_state")  # missing ones keep the value of the model
IGNORED = ("num_batches_tracked", "total_ops", "total_params", "n_averaged")  # nothing is lost without these


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How the tensors under one key of a file fit a model.

    `label` names the choice, as --weights-key takes it. `tensors` have the model's names.
    """

    label: str
    prefix: str
    tensors: Mapping[str, Any]
    missing: Sequence[str]
    unexpected: Sequence[str]
    misshaped: Sequence[str]
    ignored: Sequence[str] = field(default=())

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unexpected or self.misshaped)


def load_weights(model: nn.Module, path: Path, *, key: str = "") -> str:
    """Load the weights in a file into a model.

    The file is read without running code. State dicts may be nested under other names, and their names may have
    prefixes that wrappers add, such as `module.` or `model.`.

    Args:
        key: chooses between several state dicts in the file: a key, or a prefix of its names.
    Returns:
        What was chosen, in words; empty if the file is a plain state_dict with the model's own names.
    Raises:
        InputError: the file cannot be read, or no state_dict in it fits, or several do.
    """
    if not path.exists():
        raise InputError(f"--weights {str(path)!r}: No such file")
    if not path.is_file():
        raise InputError(f"--weights {str(path)!r} is a folder: name the file in it")
    content = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    with user_code(f"--weights {str(path)!r}: the model's state_dict() failed"):
        own = dict(model.state_dict())
    fit = _choose(own, content, path, key)
    with user_code(f"--weights {str(path)!r} does not fit the model"):
        model.load_state_dict({**_kept(own, fit.tensors), **fit.tensors})
    return _chosen(fit)


def _chosen(fit: Fit) -> str:
    said = f"uses {fit.label!r}" if fit.label else ""
    if fit.prefix:
        said += f"{' and' if said else ''} removes the prefix {fit.prefix!r} from the names"
    if fit.ignored:
        more = f" and {len(fit.ignored) - 1} more" if len(fit.ignored) > 1 else ""
        said += f"{', ' if said else ''}ignores {fit.ignored[0]!r}{more}"
    return said


def _kept(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What the model keeps of its own state: optional entries, and names that share a tensor with a given one."""
    return {name: value for name, value in own.items() if name not in given}


def _choose(own: Mapping[str, Any], content: Any, path: Path, key: str) -> Fit:
    fits = [fit for label, state in _state_dicts(content) for fit in _fits(own, state, label)]
    if not fits:
        raise InputError(
            f"--weights {str(path)!r} is not a state_dict (names and tensors): save one with torch.save(state_dict)"
        )
    if key:
        chosen = [fit for fit in fits if key in (fit.label, fit.label.rpartition(".")[2])] or [
            fit for fit in fits if fit.label.startswith(f"{key}.")
        ]
        if not chosen:
            labels = ", ".join(dict.fromkeys(repr(fit.label) for fit in fits if fit.label)) or "one unnamed state_dict"
            raise InputError(f"--weights-key={key!r} is not in {str(path)!r}: it holds {labels}")
        fits = chosen
    whole = _different([fit for fit in fits if fit.fits])
    if len(whole) > 1:
        labels = ", ".join(repr(fit.label) for fit in whole)
        first = next(fit.label for fit in whole if fit.label)
        raise InputError(
            f"--weights {str(path)!r} holds {len(whole)} state dicts that fit the model, {labels}: choose one with"
            f" --weights-key, such as --weights-key {first}"
        )
    if whole:
        return whole[0]
    raise _misfit(own, min(fits, key=_distance), path)


def _different(fits: Sequence[Fit]) -> list[Fit]:
    """The fits whose tensors differ: the same weights under two keys are one choice."""
    found: list[Fit] = []
    for fit in fits:
        if not any(_same(fit.tensors, other.tensors) for other in found):
            found.append(fit)
    return found


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    names = [name for name in one.keys() | other.keys() if not name.endswith(OPTIONAL)]
    return all(
        name in one and name in other and one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])
        for name in names
    )


def _distance(fit: Fit) -> tuple[int, int]:
    return len(fit.missing) + len(fit.misshaped), len(fit.unexpected)


def _misfit(own: Mapping[str, Any], fit: Fit, path: Path) -> InputError:
    def first(names: Sequence[str], shown: str) -> str:
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{shown}{more}"

    told = []
    if fit.missing:
        told.append(f"it lacks {first(fit.missing, repr(fit.missing[0]))}")
    if fit.unexpected:
        told.append(f"the model has no {first(fit.unexpected, repr(fit.unexpected[0]))}")
    if fit.misshaped:
        name = fit.misshaped[0]
        shapes = f"{_shape(fit.tensors[name])} in the file and {_shape(own[name])} in the model"
        told.append(first(fit.misshaped, f"{name!r} is {shapes}"))
    where = f" ({fit.label!r})" if fit.label else ""
    same_net = not fit.missing and not fit.unexpected
    remedy = (
        "build the model with the sizes of the file, such as its number of classes"
        if same_net
        else "build the architecture that these weights were saved from"
    )
    return InputError(f"--weights {str(path)!r}{where} does not fit the model: {'; '.join(told)}; {remedy}")


def _shape(tensor: Any) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _state_dicts(content: Any, label: str = "", depth: int = DEPTH) -> Iterator[tuple[str, dict[str, Any]]]:
    """(label, state) for every mapping with tensors in a file's content, the outer ones first."""
    if not isinstance(content, Mapping):
        return
    state = {name: value for name, value in content.items() if isinstance(name, str) and _belongs(name, value)}
    if any(isinstance(value, Tensor) and value.ndim > 0 for value in state.values()):
        yield label, state
    if depth:
        for name, value in content.items():
            yield from _state_dicts(value, f"{label}.{name}" if label else str(name), depth - 1)


def _belongs(name: str, value: Any) -> bool:
    return isinstance(value, Tensor) or name.endswith("_extra_state")


def _fits(own: Mapping[str, Any], state: Mapping[str, Any], label: str) -> Iterator[Fit]:
    """The ways in which a state_dict may fit a model, one for each prefix that its names may have."""
    first: list[Fit] = []
    for removed, renamed in _renamed(own, state):
        prefixes = _prefixes(own, renamed)
        found = [_fit(own, renamed, label, prefix, prefixes) for prefix in prefixes]
        whole = [replace(fit, prefix=removed + fit.prefix) for fit in found if fit.fits]
        first = first or found
        if whole:
            yield from whole
            return
    yield from first
    for prefix in PREFIXES:  # the model is wrapped, the file is not
        if own and all(name.startswith(prefix) for name in own):
            fit = _fit(own, {prefix + name: value for name, value in state.items()}, label, "", [])
            if fit.fits:
                yield fit


def _renamed(own: Mapping[str, Any], state: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The state as it is, then without what wrappers put in the middle of its names; each with what was removed."""
    yield "", state
    removed = ""
    for wrapper in WRAPPERS:
        if any(wrapper in name for name in state) and not any(wrapper in name for name in own):
            removed += wrapper
            state = {name.replace(wrapper, ""): value for name, value in state.items()}
    if removed:
        yield removed, state


def _prefixes(own: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Prefixes that turn a name in the file into one of the model; always with the empty one."""
    found = {"": None}
    for anchor in sorted(own, key=len, reverse=True)[:ANCHORS]:
        ends = [name[: -len(anchor)] for name in state if name.endswith(anchor)]
        found |= {prefix: None for prefix in ends if prefix.endswith(".")}
    return list(found)


def _fit(own: Mapping[str, Any], state: Mapping[str, Any], label: str, prefix: str, prefixes: Sequence[str]) -> Fit:
    tensors = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    shared = _shared(own)
    missing = [
        name
        for name, value in own.items()
        if name not in tensors and not name.endswith(OPTIONAL) and not (shared.get(name, set()) & tensors.keys())
    ]
    known = {name: value for name, value in tensors.items() if name in own}
    extra = [name for name in tensors if name not in own]
    misshaped = [
        name for name, value in known.items() if isinstance(value, Tensor) and _shape_differs(value, own[name])
    ]
    others = tuple(one for one in prefixes if one and one != prefix and not prefix.startswith(one))
    if not prefix and not missing:  # a second network beside this one
        extra = [name for name in extra if not (others and name.startswith(others))]
    if prefix:
        outside = [name for name in state if not name.startswith(prefix)]
    else:
        outside = [name for name in tensors if name not in own and name not in extra]
    steps = [step for step in (label, (prefix.rstrip(".") or TOP) if outside else "") if step]
    return Fit(
        label=".".join(steps),
        prefix=prefix,
        tensors=known,
        missing=missing,
        unexpected=[name for name in extra if not name.endswith(IGNORED)],
        misshaped=misshaped,
        ignored=[name for name in outside if not name.endswith(IGNORED)],
    )


def _shape_differs(given: Tensor, own: Any) -> bool:
    shape = getattr(own, "shape", given.shape)
    return given.shape != shape and not (given.numel() == 1 and own.numel() == 1)


def _shared(own: Mapping[str, Any]) -> dict[str, set[str]]:
    """For each name, the other names of the same tensor (tied weights): files may hold only one of them."""
    groups: dict[tuple[Any, ...], set[str]] = {}
    for name, value in own.items():
        if isinstance(value, Tensor) and value.layout == torch.strided and value.numel():
            place = (value.data_ptr(), tuple(value.shape), value.stride())
            groups.setdefault(place, set()).add(name)
    return {name: group - {name} for group in groups.values() for name in group if len(group) > 1}


def _is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors, by its name or by its first bytes: a length and a JSON header."""
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError  # noqa: PLC0415 (the core runs without it)
    from safetensors.torch import load_file  # noqa: PLC0415

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"--weights {str(path)!r} is not a safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    """Read what torch.save wrote. `weights_only` loads tensors and runs no code."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        said = str(error)
        if "TorchScript" in said:
            remedy = "is a TorchScript archive: load it in a factory with torch.jit.load"
        elif found := re.search(r"(?:GLOBAL|global) ([\w.]+)", said):
            remedy = (
                f"holds more than tensors ({found[1]}), which could run code: where you trust it, load it, and save its"
                " state_dict alone with torch.save(state_dict)"
            )
        else:
            remedy = "is not a plain state_dict: save one as safetensors or with torch.save(state_dict)"
        raise InputError(f"--weights {str(path)!r} {remedy}") from error
