"""Find the models named on the command line: folders, sweeps, MLflow URIs, the user's own factories and zoos."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from bat_core.adapter.fingerprint import fingerprint
from bat_core.adapter.importing import allow, user_code
from bat_core.adapter.sources import Built, Target, find_source, source_forms, split_name
from bat_core.adapter.state_dicts import load_weights
from bat_core.checkpoint import load_model, read_description
from bat_core.config import TrialConfig
from bat_core.errors import InputError
from sweeps.engine.storage.marks import marked_code
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import SPEC, Sweep
from sweeps.engine.sweep.trial_sync import MODEL

MLFLOW_SCHEMES = ("models:/", "runs:/", "mlflow-artifacts:/")

__all__ = ["ModelSource", "find_models", "fingerprint"]


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where a model comes from: a folder that `load_model` reads, or a source by name with or without weights.

    `name` is its name in tables. `factory` is its name in its source: package.module:factory, timm:NAME ...
    `sweep_id` and `trial_id`, or `run_id`, identify its MLflow run; all are empty for a model from elsewhere.
    Training held out `val_size` images and used images of `image_size`, from `image_column` and `label_column` of
    Parquet files; None is the default. `num_classes` and `image_shape` (C, H, W) are what an architecture by name is
    built for, if `weights` are loaded into it; `weights_key` chooses among several state dicts in that file.
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
    weights_key: str = ""
    num_classes: int | None = None
    image_shape: tuple[int, ...] = ()
    image_column: str | None = None
    label_column: str | None = None

    def load(self, device: torch.device | str = "cpu") -> nn.Module:
        """Load the module. Its training or evaluation mode is left as it is.

        Raises:
            InputError: the model cannot be loaded or built.
        """
        return self.build(device).module

    def build(self, device: torch.device | str = "cpu") -> Built:
        """Like `load`, with what the source knows of its images, and what was chosen in the file of weights.

        Raises:
            InputError: the model cannot be loaded or built.
        """
        if self.folder is not None:
            return Built(module=_on(load_model(self.folder)[0], device, self.name))
        assert self.factory is not None
        source, name = find_source(self.factory)
        if self.weights is None:
            built = source.load(name, self._target())
            return replace(built, module=_on(built.module, device, self.name))
        built = source.architecture(name, self._target())
        chosen = load_weights(built.module, Path(self.weights), key=self.weights_key)
        said = (f"--weights {chosen}",) if chosen else ()
        return replace(built, module=_on(built.module, device, self.name), said=(*built.said, *said))

    def aimed_at(self, target: Target) -> "ModelSource":
        """The source for models of a data set: its name is complete, and an architecture gets its sizes."""
        if self.factory is None:
            return self
        source, name = find_source(self.factory)
        prefix = self.factory.removesuffix(name)
        named = replace(self, factory=prefix + source.complete(name, target))
        if self.weights is None:
            return named
        return replace(named, num_classes=target.num_classes, image_shape=target.image_shape)

    @property
    def varies(self) -> bool:
        """Whether building it twice may give different weights."""
        return self.factory is not None and not find_source(self.factory)[0].seeded

    def _target(self) -> Target | None:
        if self.num_classes is None:
            return None
        channels, height, width = self.image_shape
        return Target(dataset="", num_classes=self.num_classes, image_shape=(channels, height, width))


def _on(model: nn.Module, device: torch.device | str, name: str) -> nn.Module:
    """The module on a device, without gradients of its weights."""
    with user_code(f"model {name!r} cannot be moved to {device}"):
        model = model.to(device)
        for parameter in model.parameters():  # TorchScript has no requires_grad_ of its own
            parameter.requires_grad_(False)
    return model


def find_models(
    names: Sequence[str], *, weights: Path | None, downloads: Path, weights_key: str = ""
) -> list[ModelSource]:
    """All models that `names` refer to, each with a unique name.

    Args:
        names: model, checkpoint, trial or sweep folders, MLflow URIs, package.module:factory or a name in a zoo.
        weights: a file of weights for the one model among them.  weights_key: chooses within that file.
        downloads: folder for models that MLflow stores remotely.
    Raises:
        InputError: a name refers to no model, or weights are given without a single model that takes them.
    """
    if weights is not None and [_takes_weights(name) for name in names] != [True]:
        raise InputError(
            "--weights applies to one package.module:factory, timm:NAME or torchvision:NAME: name that model only"
        )
    if weights_key and weights is None:
        raise InputError("--weights-key chooses within the file that --weights names: add --weights")
    found: list[ModelSource] = []
    for name in names:
        found += _find(name, weights, downloads, weights_key)
    return _with_unique_names(found)


def _takes_weights(name: str) -> bool:
    return split_name(name) is not None and find_source(name)[0].takes_weights


def _find(name: str, weights: Path | None, downloads: Path, weights_key: str) -> list[ModelSource]:
    if name.startswith(MLFLOW_SCHEMES):
        from sweeps.engine.tracking.artifacts import download_model

        folder, run_id, run_name = download_model(name, downloads)
        return [_saved_model(folder, name=run_name, run_id=run_id)]
    path = Path(name)
    if (path / SPEC).exists():
        return _sweep_models(SweepFolder(path.resolve()))
    if path.exists():
        return [_saved_model(path.resolve())]
    if split_name(name) is not None:
        source, rest = find_source(name)
        prefix, rest = name.removesuffix(rest), source.resolve(rest)
        if not source.seeded:
            source.load(rest, None)  # its faults come before the images are read
        return [
            ModelSource(
                name=source.title(rest),
                factory=f"{prefix}{rest}",
                weights=str(weights.resolve()) if weights else None,
                weights_key=weights_key,
            )
        ]
    raise InputError(
        f"model {name!r} is not a folder, an MLflow URI (models:/..., runs:/...) or package.module:factory, and not"
        f" one of {', '.join(form for form in source_forms() if not form.startswith('package'))}"
    )


def _sweep_models(folder: SweepFolder) -> list[ModelSource]:
    sweep = folder.load()
    finished = [trial for trial, status in folder.statuses(sweep) if status.phase == "finished"]
    if not finished:
        raise InputError(f"sweep {str(folder.path)!r} has no finished trial yet: finish it with --resume")
    allow(marked_code(folder.path, sweep.id))
    homes = {trial.id: folder.trial(trial) for trial in finished}
    # Each model is loaded before it is attacked: here its files are only compared with their checksums.
    return [_model_of(home, read_description(home / MODEL).config, sweep, name=name) for name, home in homes.items()]


def _saved_model(folder: Path, *, name: str | None = None, run_id: str = "") -> ModelSource:
    trial_folder = folder.parent if folder.name == "model" or folder.parent.name == "checkpoints" else folder
    trial_folder = trial_folder.parent if trial_folder.name == "checkpoints" else trial_folder
    sweep_folder = trial_folder.parent.parent
    sweep = SweepFolder(sweep_folder).load() if (sweep_folder / SPEC).exists() else None
    if sweep:
        allow(marked_code(sweep_folder, sweep.id))
    _, config = load_model(folder)
    return _model_of(folder, config, sweep, name=name or trial_folder.name, trial_id=trial_folder.name, run_id=run_id)


def _model_of(
    folder: Path, config: TrialConfig, sweep: Sweep | None, *, name: str, trial_id: str | None = None, run_id: str = ""
) -> ModelSource:
    """The model in a folder. `trial_id` is its trial in the sweep, by default its name."""
    return ModelSource(
        name=name,
        folder=str(folder),
        dataset=config.data.name,
        data_dir=sweep.data_dir if sweep else None,
        sweep_id=sweep.id if sweep else "",
        trial_id=(trial_id or name) if sweep else "",
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
