"""Finds out how a stranger's model has to be called, by calling it on a few images."""

import contextlib
import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from bat_core.adapter.adapted import Adaptation, Adapted, called, device_of
from bat_core.adapter.fingerprint import constants
from bat_core.adapter.made import holder
from bat_core.adapter.normalize import Normalization
from bat_core.adapter.outputs import candidates, logits_shaped, pick
from bat_core.device import is_out_of_memory
from bat_core.forward import channels_last, eval_without_tf32

IMAGES = 32  # the number of images that the detection uses
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 5, 10, 20, 25, 50, 100, 200, 250)  # fixed batch sizes that are tried
ARGUMENTS = ("pixel_values", "images", "image", "img", "imgs", "inputs", "input", "x", "data")
SAME = 1e-3  # largest difference between two memory layouts, as a share of the logits' spread
SAYS = {
    "dtype": "the model computes in {0}: its images are converted to {0}",
    "argument": "the images are passed as the argument {0!r}",
    "part": "the model's own forward pass is not implemented: {0!r} is called instead",
    "batch": "the model takes batches of {0} only: the last batch is filled up and cut",
    "plain_weights": "the model's weights are converted to the default memory format",
}
WRAPPERS = {DataParallel: "module", DistributedDataParallel: "module"}


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user says about a model: the key of its logits, its normalisation, and the batch size of the job."""

    logits_key: str = ""
    normalization: Normalization | None = None
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class Detected:
    """An adaptation, and a sentence for each thing that the user should know of it."""

    adaptation: Adaptation
    said: tuple[str, ...] = ()


def detect(model: nn.Module, x: Tensor, *, num_classes: int, wishes: Wishes = Wishes()) -> Detected:
    """Find the adaptation of a model. A model that cannot be called at all gets the one that comes nearest.

    The global random generators are left as they were.

    Args:
        model: on the device of x, in any mode.
        x: (N, C, H, W) float in [0, 1]; the first images are used.
        num_classes: the number of classes of the data set.
    """
    x = x[:IMAGES]
    while True:
        devices = [x.device] if x.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                return _Detection(model, x, num_classes, wishes).run()
        except (MemoryError, RuntimeError) as error:
            if len(x) == 1 or not is_out_of_memory(error):
                raise
            x = x[: len(x) // 2]


class _Detection:
    def __init__(self, model: nn.Module, x: Tensor, num_classes: int, wishes: Wishes) -> None:
        self.model, self.x, self.classes, self.wishes = model, x, num_classes, wishes
        normalization = wishes.normalization
        self.found = Adaptation(
            part=wrapped_part(model),
            logits_key=wishes.logits_key,
            script=any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()),
            mean=normalization.mean if normalization else (),
            std=normalization.std if normalization else (),
        )
        self.said: list[str] = []
        self.columns = num_classes  # K of the logits

    def run(self) -> Detected:
        with eval_without_tf32(self.model):
            self._stay_where_it_is()
            if self._find_call():
                self._find_output()
                self._find_copy()
                self._find_smallest_batch()
                self._find_layout()
        return Detected(adaptation=self.found, said=tuple(self.said))

    def _stay_where_it_is(self) -> None:
        """Frozen TorchScript holds its weights as constants, which cannot be moved to another device."""
        scripts = [one for one in self.model.modules() if isinstance(one, torch.jit.ScriptModule)]
        frozen = [one for one in scripts if not list(one.parameters())]
        homes = {str(tensor.device) for one in frozen for tensor in constants(one)}
        if homes and homes != {str(self.x.device)} and device_of(self.model) is None:
            (home, *_) = homes
            self.found = replace(self.found, device=home)
            self.said.append(f"the model is frozen TorchScript and stays on {home}: its images are moved there")

    def _find_call(self) -> bool:
        """Find a way to call the model that does not raise. Whether there is one."""
        if self._returns(self.found):
            return True
        for changes in self._ways():
            changed = replace(self.found, **changes)
            if self._returns(changed):
                self.found = changed
                self._say_call(changes)
                return True
        return False

    def _ways(self) -> Iterator[dict[str, Any]]:
        """Changes of the call that mend what is known to go wrong, the smaller ones first."""
        inner = called(self.model, self.found)
        kinds: list[list[dict[str, Any]]] = [
            [{"dtype": name, "half": name == "float16"} for name in _dtypes(inner)],
            [{"argument": name} for name in _arguments(inner)],
            [{"part": f"{self.found.part}.{part}".lstrip(".")} for part in [holder(inner)] if part],
            [{"plain_weights": True}] if not self.found.script else [],
        ]
        sizes = dict.fromkeys(filter(None, (self.wishes.batch_size, *BATCHES)))
        batches: list[dict[str, Any]] = [{"batch": size} for size in sizes]
        singles = [*itertools.chain(*kinds)]
        yield from singles
        yield from batches
        for first, second in itertools.combinations(kinds, 2):
            yield from ({**one, **other} for one in first for other in second)
        for one in singles:
            yield from ({**one, **batch} for batch in batches[:6])

    def _say_call(self, changes: dict[str, Any]) -> None:
        self.said += [SAYS[name].format(value) for name, value in changes.items() if name in SAYS]

    def _returns(self, adaptation: Adaptation) -> bool:
        """Whether a call returns one row per image, of whatever kind."""
        output = self._output(adaptation, self.x.clone())
        if output is None:
            return False
        return _rows(output, adaptation.logits_key, adaptation.batch or len(self.x), self.classes)

    def _output(self, adaptation: Adaptation, x: Tensor) -> Any:
        """The output for x as it comes; None if the model raises. The model may write to x."""
        try:
            with torch.no_grad():
                return Adapted(self.model, adaptation).raw(x)
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            return None

    def _logits(self, x: Tensor, **changes: Any) -> Tensor | None:
        """The logits of an adaptation; None if it raises or returns something else."""
        try:
            with torch.no_grad():
                logits = Adapted(self.model, replace(self.found, **changes))(x.clone())
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            return None
        return logits if isinstance(logits, Tensor) and logits.shape == (len(x), self.columns) else None

    def _find_output(self) -> None:
        output = self._output(self.found, self.x.clone())
        count = self.found.batch or len(self.x)
        if not self.found.logits_key and not isinstance(output, Tensor):
            keys = candidates(output, count=count, classes=self.classes)
            if len(keys) == 1:
                self.found = replace(self.found, logits_key=keys[0])
                self.said.append(
                    f"the model returns a {type(output).__name__}: its logits are {keys[0]!r}, the only part of shape"
                    f" (images, {self.classes})"
                )
        with contextlib.suppress(KeyError):
            output = pick(output, self.found.logits_key)
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        self.columns = output.shape[1] if output.ndim > 1 else self.classes
        half = self.found.half or output.dtype == torch.float16
        self.found = replace(self.found, cast=output.dtype != torch.float32, half=half)
        if output.ndim != 2 and (
            logits_shaped(output, count=count) or (count == 1 and output.shape == (self.classes,))
        ):
            self.found = replace(self.found, reshape=True)
            if output.ndim > 2:
                self.said.append(f"the model returns logits of shape {tuple(output.shape)}: they are flattened")

    def _find_copy(self) -> None:
        """Whether the model writes to its input."""
        given = self.x.clone()
        if self.found.normalization is not None:
            given = self.found.normalization.apply(given)
        if self.found.dtype:
            given = given.to(getattr(torch, self.found.dtype))
        if self.found.batch:
            given = given[torch.arange(self.found.batch, device=given.device) % len(given)]
        before, version = given.clone(), given._version
        if self._output(replace(self.found, mean=(), std=(), dtype="", batch=0), given) is None:
            return
        if given._version != version or not torch.equal(given, before):
            self.found = replace(self.found, copy=True)
            self.said.append("the model writes to its input: it gets a copy")

    def _find_smallest_batch(self) -> None:
        """Whether a batch of one image works; some models lose its first dimension."""
        if self.found.batch or self._logits(self.x[:1]) is not None:
            return
        for changes, sentence in (
            ({"reshape": True}, "the model drops the batch dimension of a single image: it is restored"),
            ({"smallest_batch": 2}, "the model fails on a single image: it is passed twice"),
        ):
            if self._logits(self.x[:1], **changes) is not None:
                self.found = replace(self.found, **changes)
                self.said.append(sentence)
                return

    def _find_layout(self) -> None:
        """Whether images in channels-last layout give the same logits and a gradient."""
        if self.found.contiguous:
            return
        plain = self._logits(self.x)
        if plain is None:
            return
        other = self._logits(channels_last(self.x))
        spread = (plain.amax(1) - plain.amin(1)).nan_to_num(posinf=0, neginf=0).mean() + 1e-12
        same = other is not None and bool((other - plain).abs().nan_to_num(posinf=0).mean() <= SAME * spread)
        again = self._logits(self.x)
        steady = again is not None and bool((again - plain).abs().nan_to_num(posinf=0).mean() <= SAME * spread)
        if (not same and (steady or other is None)) or (
            not self._differentiable(channels_last) and self._differentiable(torch.clone)
        ):
            self.found = replace(self.found, contiguous=True)

    def _differentiable(self, layout: Any) -> bool:
        x = self.x[:2].clone().requires_grad_()
        try:
            with torch.enable_grad():
                logits = Adapted(self.model, self.found)(layout(x))
                torch.autograd.grad(logits.sum(), x, allow_unused=True)
        except (Exception, SystemExit) as error:
            if is_out_of_memory(error):
                raise
            return False
        return True


def wrapped_part(model: nn.Module) -> str:
    """The path of the module inside DataParallel, DistributedDataParallel and torch.compile; empty for others."""
    names: list[str] = []
    while True:
        name = WRAPPERS.get(type(model), "_orig_mod" if hasattr(model, "_orig_mod") else "")
        inner = getattr(model, name, None) if name else None
        if not isinstance(inner, nn.Module):
            return ".".join(names)
        names.append(name)
        model = inner


def _rows(output: Any, key: str, count: int, classes: int) -> bool:
    with contextlib.suppress(KeyError):
        output = pick(output, key)
    if isinstance(output, Tensor):
        one = count == 1 and output.shape == (classes,)
        return output.ndim > 0 and (len(output) == count or one)
    return bool(candidates(output, count=count, classes=classes)) or not isinstance(output, Tensor)


def _dtypes(model: nn.Module) -> list[str]:
    """The floating-point dtypes of a model's weights other than float32, the most frequent first."""
    tensors = [tensor for tensor in (*model.parameters(), *model.buffers()) if tensor.is_floating_point()]
    kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.dtype != torch.float32]
    known = ("float64", "float16", "bfloat16")
    if not tensors:  # a model without weights may hold them as constants
        return list(known)
    return sorted({kind for kind in kinds if kind in known}, key=lambda kind: -kinds.count(kind))


def _arguments(model: nn.Module) -> list[str]:
    """Names of forward's arguments that may take the images, other than its first positional one."""
    try:
        given = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return []
    first = [one.name for one in given[:1] if one.kind is not one.KEYWORD_ONLY]
    named = [one.name for one in given if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    alone = [one.name for one in given if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    return [name for name in dict.fromkeys([*[n for n in ARGUMENTS if n in named], *alone]) if name not in first]
