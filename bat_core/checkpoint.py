"""Checkpoints as safetensors and JSON, written atomically with checksums. Resuming is bit for bit exact."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor, nn

from bat_core.adapter.importing import user_code
from bat_core.collapse import CollapseDetector
from bat_core.config import TrialConfig, flatten, from_dict, to_dict
from bat_core.data import Dataset
from bat_core.errors import InputError, check_file_name
from bat_core.fit import TrainState, initial_state
from bat_core.forward import resolve_layout
from bat_core.jsontext import read_json
from bat_core.models import ImageShape, build_model
from bat_core.paths import (
    Rooted,
    below,
    make_folder,
    make_private,
    new_folder,
    open_regular,
    read_regular,
    remove,
    sync,
    write_atomically,
)
from bat_core.resuming import OTHER_DEVICE, continues_on, restore_optimizer, restore_partial

FORMAT = 1
DESCRIPTION = "config.json"
CHECKSUMS = "checksums.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
PARTIAL = "begun.safetensors"  # totals and generator state of an unfinished epoch
MAX_DESCRIPTION = 16 << 20  # bytes of a JSON file next to the weights
MAX_WEIGHTS = 16 << 30  # bytes of a file of weights
MAX_CHECKPOINTS = 2  # the newest, and the previous one in case the newest is damaged


@dataclass(frozen=True, kw_only=True)
class Description:
    """The JSON file next to the weights: everything needed to rebuild the model."""

    config: TrialConfig
    num_classes: int
    image_shape: ImageShape
    epoch: int
    class_names: tuple[str, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    collapse_detector: CollapseDetector = field(default_factory=CollapseDetector, metadata={"key": "peak"})
    batches: int = 0  # batches done of the next, unfinished epoch
    format: int = FORMAT


@dataclass(frozen=True)
class Checksums:
    """SHA-256 of each file in the folder, by name."""

    sha256: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in self.sha256:
            check_file_name(CHECKSUMS, name)


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint to resume from, if any, and the names of newer ones that were passed over, with the reasons."""

    folder: Path | None
    description: Description | None
    passed_over: Mapping[str, str]

    def continues_on(self, device: torch.device) -> bool:
        """Whether training can go on from here on `device`."""
        if self.folder is None or self.description is None or not self.description.batches:
            return True
        return continues_on(device, _load_tensors(self.folder / PARTIAL))

    def load(self, dataset: Dataset, device: torch.device) -> TrainState | None:
        """The training state to resume from; None if there is no checkpoint.

        Raises:
            InputError: the checkpoint is in the middle of an epoch that began on another kind of device.
        """
        if self.folder is None or self.description is None:
            return None
        state = initial_state(self.description.config, dataset, device)
        _load_weights(state.model, self.folder)
        restore_optimizer(state.optimizer, _load_tensors(self.folder / OPTIMIZER))
        state.epoch = self.description.epoch
        state.metrics, state.collapse_detector = dict(self.description.metrics), self.description.collapse_detector
        if self.description.batches:
            tensors = _load_tensors(self.folder / PARTIAL)
            if not continues_on(device, tensors):
                raise InputError(f"{self.folder} {OTHER_DEVICE}: resume on a device of that kind")
            state.partial = restore_partial(self.description.batches, tensors, device)
        return state


def save_checkpoint(folder: Rooted, state: TrainState, config: TrialConfig, dataset: Dataset) -> Path:
    """Write `folder/epoch_NNNN`, or `epoch_NNNN_batch_NNNNNN` within an epoch, then delete all but the two newest.

    The write is atomic.

    Returns:
        The folder of the new checkpoint.
    Raises:
        OSError: writing failed; earlier checkpoints are unchanged.
    """
    target = below(folder, f"epoch_{state.epoch:04d}")
    tensors = {MODEL: _model_tensors(state.model), OPTIMIZER: _optimizer_tensors(state.optimizer)}
    if state.partial:
        target = below(folder, f"{target.name}_batch_{state.partial.batches:06d}")
        tensors[PARTIAL] = {"totals": state.partial.totals.cpu(), "generator": state.partial.generator.get_state()}
    _write(target, tensors, config, dataset, state)
    known = checkpoints(folder)
    place = known.index(target)
    # A checkpoint newer than the one just written belongs to another trial or was passed over as damaged.
    for stale in known[: max(place + 1 - MAX_CHECKPOINTS, 0)] + known[place + 1 :]:
        remove(below(folder, stale.name))
    return target


def save_model(folder: Rooted, state: TrainState, config: TrialConfig, dataset: Dataset) -> None:
    """Write a finished model's weights and description into `folder`, atomically.

    Raises:
        OSError: writing failed.
    """
    _write(folder, {MODEL: _model_tensors(state.model)}, config, dataset, state)


def find_resume_point(folder: Path, config: TrialConfig, device: torch.device | None = None) -> ResumePoint:
    """The newest valid checkpoint in `folder`. Damaged ones and those of another config are passed over.

    So are those in the middle of an epoch that began on another kind of device than `device`, if an earlier one is
    between two epochs, or if no epoch was finished yet: the epoch then begins again.
    """
    passed_over: dict[str, str] = {}
    elsewhere: ResumePoint | None = None
    for candidate in reversed(checkpoints(folder)):
        try:
            description = read_description(candidate)
        except InputError as error:
            passed_over[candidate.name] = str(error)
            continue
        if description.config == config:
            found = ResumePoint(candidate, description, dict(passed_over))
            if device is None or found.continues_on(device):
                return found
            elsewhere = elsewhere or found
            passed_over[candidate.name] = f"{candidate} {OTHER_DEVICE}: the epoch begins again"
            continue
        passed_over[candidate.name] = f"{candidate} has another config: {_difference(description.config, config)}"
    if elsewhere is not None and elsewhere.description is not None and elsewhere.description.epoch > 0:
        return elsewhere  # loading it says why it cannot be used: finished epochs are not thrown away
    return ResumePoint(None, None, passed_over)


def load_checkpoint(folder: Path, config: TrialConfig, dataset: Dataset, device: torch.device) -> TrainState | None:
    """The state in the newest valid checkpoint in `folder`, or None. See `find_resume_point`."""
    return find_resume_point(folder, config, device).load(dataset, device)


def load_model(path: str | Path) -> tuple[nn.Module, TrialConfig]:
    """A trained model, ready to classify images in [0, 1] and to be attacked.

    Args:
        path: a model folder, a checkpoint, or a trial's folder (its finished model, else its newest checkpoint).
    Returns:
        The module in evaluation mode on the CPU, and the config it was trained with.
    Raises:
        ValueError: there is no model at `path`, or it is damaged.
    """
    folder = _find_model(Path(path))
    description = read_description(folder)
    model = build_model(
        description.config.model, num_classes=description.num_classes, image_shape=description.image_shape
    )
    _load_weights(model, folder)
    if description.image_shape[0] > 1:  # one channel has no layout: other weights would only round differently
        model.to(memory_format=resolve_layout(description.config.train.channels_last))
    return model.eval(), description.config


def read_description(folder: Path) -> Description:
    """The description of the model in `folder`, after verifying the checksums of its files.

    Raises:
        InputError: the folder has no model, or a file is damaged.
    """
    try:
        checksums = _checksums(folder)
        for name in sorted({DESCRIPTION, MODEL, *checksums}):
            if _digest(folder / name) != checksums.get(name):
                raise InputError(f"{name} is damaged: its SHA-256 differs from the one in {CHECKSUMS}")
        return from_dict(Description, read_json(read_regular(folder / DESCRIPTION, limit=MAX_DESCRIPTION)))
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no valid model: {Path(error.filename).name} is missing") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} has no valid model: {error}") from error


def class_names_of(folder: Path) -> tuple[str, ...]:
    """The class names of the model in `folder`; none if it has no readable description. Its weights are not read."""
    try:
        return from_dict(Description, read_json(read_regular(folder / DESCRIPTION, limit=MAX_DESCRIPTION))).class_names
    except (OSError, ValueError):
        return ()


def _checksums(folder: Path) -> Mapping[str, str]:
    try:
        return from_dict(
            Checksums, {"sha256": read_json(read_regular(folder / CHECKSUMS, limit=MAX_DESCRIPTION))}
        ).sha256
    except ValueError as error:
        raise InputError(f"{CHECKSUMS} is damaged: {error}") from error


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("epoch_*"))


def _difference(theirs: TrialConfig, ours: TrialConfig) -> str:
    """The first setting in which two configs differ."""
    there, here = flatten(to_dict(theirs)), flatten(to_dict(ours))
    name = next(name for name in {**there, **here} if there.get(name) != here.get(name))
    return f"{name} is {there.get(name)} there and {here.get(name)} here"


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} is not a safetensors file; no other format is loaded: {error}") from error


def _load_weights(model: nn.Module, folder: Path) -> None:
    try:
        model.load_state_dict(_load_tensors(folder / MODEL))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / MODEL} does not match the model in {DESCRIPTION}: {reason}") from error


def _find_model(path: Path) -> Path:
    candidates = [path, path / "model", *reversed(checkpoints(path / "checkpoints")), *reversed(checkpoints(path))]
    for candidate in candidates:
        if (candidate / MODEL).is_file():
            return candidate
    raise InputError(f"no model in {str(path)!r}: give a trial's folder or a folder with {MODEL}")


def _write(
    target: Rooted,
    files: Mapping[str, Mapping[str, Tensor]],
    config: TrialConfig,
    dataset: Dataset,
    state: TrainState,
) -> None:
    # Never create the parent of its folder: it may be a disk that is temporarily unmounted.
    make_folder(Rooted(target.parent), parents=False)
    description = Description(
        config=config,
        num_classes=dataset.num_classes,
        image_shape=dataset.image_shape,
        epoch=state.epoch,
        class_names=dataset.class_names,
        metrics=state.metrics,
        collapse_detector=state.collapse_detector,
        batches=state.partial.batches if state.partial else 0,
    )
    with new_folder(target) as partial:
        for name, tensors in files.items():
            _save(dict(tensors), below(partial, name))
        write_atomically(below(partial, DESCRIPTION), json.dumps(to_dict(description), indent=2))
        digests = {name: _digest(partial / name) for name in (DESCRIPTION, *files)}
        write_atomically(below(partial, CHECKSUMS), json.dumps(digests, indent=2))


def _save(tensors: dict[str, Tensor], path: Rooted) -> None:
    make_private(path)
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # safetensors wraps the operating system's error
        raise OSError(str(error)) from error
    sync(path)


def check_savable(model: nn.Module, where: str) -> None:
    """Check that a user's network can be saved and loaded again.

    Args:
        where: the subject of the error message, such as "model 'nets:wide'".
    Raises:
        InputError: its state_dict holds something other than tensors, or it does not load its own.
    """
    with user_code(f"{where}, in state_dict()"):
        state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{where}: its state_dict holds {name!r}, of type {type(value).__name__}: a checkpoint holds tensors"
                " only, so keep it in a buffer"
            )
    with user_code(f"{where} cannot be saved and loaded"):
        model.load_state_dict(load(save(_model_tensors(model))))


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state_dict on the CPU. Tensors that share memory are copied: safetensors refuses them."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        saved = tensor.detach().cpu().contiguous()
        if (place := saved.untyped_storage().data_ptr()) in seen and saved.numel():
            saved = saved.clone()
        seen.add(place)
        tensors[name] = saved
    return tensors


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{parameter}.{name}": value.detach().cpu().contiguous()
        for parameter, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > MAX_WEIGHTS:
            raise InputError(f"{path.name} is larger than {MAX_WEIGHTS >> 30} GiB: no model here is")
        return hashlib.file_digest(file, "sha256").hexdigest()
