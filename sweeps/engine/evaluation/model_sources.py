"""Find the models named on the command line: folders, sweeps, MLflow URIs or the user's own factories."""

import hashlib
import importlib
import itertools
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bat_core.adapter.importing import allow
from bat_core.checkpoint import load_model
from bat_core.errors import InputError
from sweeps.engine.storage.marks import marked_code
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import SPEC

MLFLOW_SCHEMES = ("models:/", "runs:/", "mlflow-artifacts:/")
FACTORY = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<factory>[A-Za-z_]\w*)")


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model comes from: a folder that `load_model` reads, or a factory with or without weights.

    `name` is its name in tables. `sweep_id` and `trial_id`, or `run_id`, identify its MLflow run; all are empty for a
    model from elsewhere. Training held out `val_size` images and used images of `image_size`, from `image_column` and
    `label_column` of Parquet files; None is the default.
    """

    name: str
    folder: str | None = None
    factory: str | None = None
    weights: str | None = None
    dataset: str | None = None
    data_dir: str | None = None
    sweep_id: str = ""
    trial_id: str = ""
    run_id: str = ""
    val_size: int | None = None
    image_size: int | None = None
    image_column: str | None = None
    label_column: str | None = None

    def load(self, device: torch.device | str = "cpu") -> nn.Module:
        """Load the module. Its training or evaluation mode is left as it is.

        Raises:
            InputError: the model cannot be loaded or built.
        """
        if self.folder is not None:
            model = load_model(self.folder)[0]
        else:
            assert self.factory is not None
            model = _make(self.factory)
            if self.weights is not None:
                _load_weights(model, Path(self.weights))
        return model.to(device).requires_grad_(False)


def find_models(names: Sequence[str], *, weights: Path | None, downloads: Path) -> list[ModelSource]:
    """All models that `names` refer to, each with a unique name.

    Args:
        names: model, checkpoint, trial or sweep folders, MLflow URIs, or package.module:factory.
        weights: a state_dict for the one factory among them.
        downloads: folder for models that MLflow stores remotely.
    Raises:
        InputError: a name refers to no model, or weights are given without a single factory.
    """
    if weights is not None and [bool(FACTORY.fullmatch(name)) for name in names] != [True]:
        raise InputError("--weights applies to one package.module:factory: name that model only")
    found: list[ModelSource] = []
    for name in names:
        found += _find(name, weights, downloads)
    return _with_unique_names(found)


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _find(name: str, weights: Path | None, downloads: Path) -> list[ModelSource]:
    if name.startswith(MLFLOW_SCHEMES):
        from sweeps.engine.tracking.artifacts import download_model

        folder, run_id, run_name = download_model(name, downloads)
        return [_saved_model(folder, name=run_name, run_id=run_id)]
    path = Path(name)
    if (path / SPEC).exists():
        return _sweep_models(SweepFolder(path.resolve()))
    if path.exists():
        return [_saved_model(path.resolve())]
    if match := FACTORY.fullmatch(name):
        _make(name)
        return [
            ModelSource(
                name=f"{match['module']}.{match['factory']}",
                factory=name,
                weights=str(weights.resolve()) if weights else None,
            )
        ]
    raise InputError(
        f"model {name!r} is not a folder, an MLflow URI (models:/..., runs:/...) or package.module:factory"
    )


def _sweep_models(folder: SweepFolder) -> list[ModelSource]:
    sweep = folder.load()
    finished = [trial for trial in folder.trials(sweep) if read_status(folder.trial(trial)).phase == "finished"]
    if not finished:
        raise InputError(f"sweep {str(folder.path)!r} has no finished trial yet: finish it with --resume")
    return [_saved_model(folder.trial(trial)) for trial in finished]


def _saved_model(folder: Path, *, name: str | None = None, run_id: str = "") -> ModelSource:
    trial_folder = folder.parent if folder.name == "model" or folder.parent.name == "checkpoints" else folder
    trial_folder = trial_folder.parent if trial_folder.name == "checkpoints" else trial_folder
    sweep_folder = trial_folder.parent.parent
    sweep = SweepFolder(sweep_folder).load() if (sweep_folder / SPEC).exists() else None
    if sweep:
        allow(marked_code(sweep_folder, sweep.id))
    _, config = load_model(folder)
    return ModelSource(
        name=name or trial_folder.name,
        folder=str(folder),
        dataset=config.data.name,
        data_dir=sweep.data_dir if sweep else None,
        sweep_id=sweep.id if sweep else "",
        trial_id=trial_folder.name if sweep else "",
        run_id=run_id,
        val_size=config.data.val_size,
        image_size=config.data.image_size,
        image_column=config.data.image_column,
        label_column=config.data.label_column,
    )


def _with_unique_names(sources: list[ModelSource]) -> list[ModelSource]:
    """Give each source a unique name that is safe as a folder name: a second `x` becomes `x-2`."""
    named: list[ModelSource] = []
    taken: set[str] = set()
    for source in sources:
        words = re.sub(r"[^\w.+-]+", "-", source.name).lstrip("_.+-")
        base = words.encode()[:150].decode(errors="ignore") or "model"
        numbered = itertools.chain([base], (f"{base}-{number}" for number in itertools.count(2)))
        name = next(candidate for candidate in numbered if candidate not in taken)
        taken.add(name)
        named.append(replace(source, name=name))
    return named


def _make(factory: str) -> nn.Module:
    """Call `package.module:factory`. The working folder is added to the import path first."""
    module_name, _, name = factory.partition(":")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 (sys.path holds strings)
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(module_name), name)()
    except ImportError as error:
        raise InputError(f"model {factory!r}: module {module_name!r} cannot be imported: {error}") from error
    except AttributeError as error:
        raise InputError(f"model {factory!r}: {error}") from error
    except TypeError as error:
        raise InputError(f"model {factory!r}: the factory must be callable without arguments: {error}") from error
    if not isinstance(made, nn.Module):
        raise InputError(f"model {factory!r} returns {type(made).__name__}: it must return a torch.nn.Module")
    return made


def _load_weights(model: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise InputError(f"--weights {str(path)!r}: No such file")
    tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_state_dict(path)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:300]
        raise InputError(f"--weights {str(path)!r} does not fit the model: {said}") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"--weights {str(path)!r} is not a safetensors file: {error}") from error


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a state_dict that torch.save wrote. `weights_only` loads tensors and runs no code."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"--weights {str(path)!r} is not a plain state_dict: save one as safetensors or with torch.save(state_dict)"
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(
            f"--weights {str(path)!r} is not a state_dict (names and tensors): save one with torch.save(state_dict)"
        )
    return content
