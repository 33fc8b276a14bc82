"""Checkpoints as safetensors and JSON: written atomically, with checksums, resumable bit for bit."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bat_core.collapse import CollapseDetector
from bat_core.config import TrialConfig, flatten, from_dict, to_dict
from bat_core.data import Dataset
from bat_core.errors import InputError, check_file_name
from bat_core.fit import PartialEpoch, TrainState, initial_state
from bat_core.jsontext import read_json
from bat_core.models import ImageShape, build_model

FORMAT = 1
DESCRIPTION = "config.json"
CHECKSUMS = "checksums.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
PARTIAL = "begun.safetensors"  # an epoch's totals and generator, in a checkpoint between two batches
MAX_CHECKPOINTS = 2  # the newest, and the one before should that be damaged


@dataclass(frozen=True, kw_only=True)
class Description:
    """The JSON beside the weights: all that is needed to rebuild the model."""

    config: TrialConfig
    num_classes: int
    image_shape: ImageShape
    epoch: int
    class_names: tuple[str, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    collapse_detector: CollapseDetector = field(default_factory=CollapseDetector, metadata={"key": "peak"})
    batches: int = 0  # of the epoch after, where it had begun
    format: int = FORMAT


@dataclass(frozen=True)
class Checksums:
    """SHA-256 of each file beside it, by name."""

    sha256: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in self.sha256:
            check_file_name(CHECKSUMS, name)


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint to go on from, if there is one, and why newer ones were passed over, by their names."""

    folder: Path | None
    description: Description | None
    passed_over: Mapping[str, str]

    def load(self, dataset: Dataset, device: torch.device) -> TrainState | None:
        """What training goes on from."""
        if self.folder is None or self.description is None:
            return None
        state = initial_state(self.description.config, dataset, device)
        state.model.load_state_dict(_load_tensors(self.folder / MODEL))
        _restore_optimizer(state.optimizer, _load_tensors(self.folder / OPTIMIZER))
        state.epoch = self.description.epoch
        state.metrics, state.collapse_detector = dict(self.description.metrics), self.description.collapse_detector
        if self.description.batches:
            state.partial = _restore_partial(self.description.batches, _load_tensors(self.folder / PARTIAL), device)
        return state


def save_checkpoint(folder: Path, state: TrainState, config: TrialConfig, dataset: Dataset) -> Path:
    """Write `folder/epoch_NNNN`, or `epoch_NNNN_batch_NNNNNN` between two batches, whole or not at all, then drop all
    but the two newest.

    Returns:
        The checkpoint's own folder.
    Raises:
        OSError: the storage does not take it; what was there before is there still.
    """
    target = folder / f"epoch_{state.epoch:04d}"
    tensors = {MODEL: _model_tensors(state.model), OPTIMIZER: _optimizer_tensors(state.optimizer)}
    if state.partial:
        target = target.with_name(f"{target.name}_batch_{state.partial.batches:06d}")
        tensors[PARTIAL] = {"totals": state.partial.totals.cpu(), "generator": state.partial.generator.get_state()}
    _write(target, tensors, config, dataset, state)
    known = checkpoints(folder)
    place = known.index(target)
    # What is newer than an epoch just trained belongs to another trial, or was passed over as damaged.
    for stale in known[: max(place + 1 - MAX_CHECKPOINTS, 0)] + known[place + 1 :]:
        shutil.rmtree(stale)
    return target


def save_model(folder: Path, state: TrainState, config: TrialConfig, dataset: Dataset) -> None:
    """Write a finished model's weights and description into `folder`, whole or not at all.

    Raises:
        OSError: the storage does not take it.
    """
    _write(folder, {MODEL: _model_tensors(state.model)}, config, dataset, state)


def find_resume_point(folder: Path, config: TrialConfig) -> ResumePoint:
    """The newest sound checkpoint in `folder`; one that is damaged, or of another config, is passed over."""
    passed_over = {}
    for candidate in reversed(checkpoints(folder)):
        try:
            description = read_description(candidate)
        except InputError as error:
            passed_over[candidate.name] = str(error)
            continue
        if description.config == config:
            return ResumePoint(candidate, description, passed_over)
        passed_over[candidate.name] = f"{candidate} is of another config: {_difference(description.config, config)}"
    return ResumePoint(None, None, passed_over)


def load_checkpoint(folder: Path, config: TrialConfig, dataset: Dataset, device: torch.device) -> TrainState | None:
    """The state in the newest sound checkpoint in `folder`, or None. See `find_resume_point`."""
    return find_resume_point(folder, config).load(dataset, device)


def load_model(path: str | Path) -> tuple[nn.Module, TrialConfig]:
    """A trained model, ready to classify images in [0, 1] and to be attacked.

    Args:
        path: a model folder, a checkpoint, or a trial's folder (its finished model, else its newest checkpoint).
    Returns:
        The module in evaluation mode on the CPU, and the config that trained it.
    Raises:
        ValueError: no model there, or a damaged one.
    """
    folder = _find_model(Path(path))
    description = read_description(folder)
    model = build_model(
        description.config.model, num_classes=description.num_classes, image_shape=description.image_shape
    )
    try:
        model.load_state_dict(_load_tensors(folder / MODEL))
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / MODEL} is of another model than {DESCRIPTION} says: {said}") from error
    return model.eval(), description.config


def read_description(folder: Path) -> Description:
    """The description of the model in `folder`, when its files are as they were written.

    Raises:
        InputError: the folder holds no model, or a file of it is damaged.
    """
    try:
        checksums = _checksums(folder)
        for name in sorted({DESCRIPTION, MODEL, *checksums}):
            if _digest(folder / name) != checksums.get(name):
                raise InputError(f"{name} is damaged: its SHA-256 is not the one in {CHECKSUMS}")
        return from_dict(Description, read_json((folder / DESCRIPTION).read_bytes()))
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no sound model: {Path(error.filename).name} is missing") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no sound model: {error}") from error


def _checksums(folder: Path) -> Mapping[str, str]:
    try:
        return from_dict(Checksums, {"sha256": read_json((folder / CHECKSUMS).read_bytes())}).sha256
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
        raise InputError(f"{path} is no safetensors file, and nothing else is loaded: {error}") from error


def _find_model(path: Path) -> Path:
    candidates = [path, path / "model", *reversed(checkpoints(path / "checkpoints")), *reversed(checkpoints(path))]
    for candidate in candidates:
        if (candidate / MODEL).is_file():
            return candidate
    raise InputError(f"no model in {str(path)!r}: name a trial's folder, or one that holds {MODEL}")


def _write(
    target: Path,
    files: Mapping[str, Mapping[str, Tensor]],
    config: TrialConfig,
    dataset: Dataset,
    state: TrainState,
) -> None:
    target.parent.mkdir(exist_ok=True)  # its own parent is not made: it may be a disk that is gone for a while
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name, tensors in files.items():
        _save(dict(tensors), partial / name)
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
    _write_json(partial / DESCRIPTION, to_dict(description))
    _write_json(partial / CHECKSUMS, {name: _digest(partial / name) for name in (DESCRIPTION, *files)})
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)
    sync(target.parent)


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:  # what safetensors makes of the system's error
        raise OSError(str(error)) from error
    sync(path)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))
    sync(path)


def _model_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"{parameter}.{name}": value.detach().cpu().contiguous()
        for parameter, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        parameter, name = key.split(".", 1)
        state.setdefault(int(parameter), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _restore_partial(batches: int, tensors: Mapping[str, Tensor], device: torch.device) -> PartialEpoch:
    generator = torch.Generator(device)
    generator.set_state(tensors["generator"])
    return PartialEpoch(batches=batches, totals=tensors["totals"].to(device), generator=generator)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
