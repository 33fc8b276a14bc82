"""The common description of evaluations and transfer matrices: models, images and budget, fixed before any attack."""

import datetime
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import nn

import bat_core
from bat_core.adapter.adapted import Adaptation, adapted
from bat_core.adapter.importing import allow, references
from bat_core.config import ONLY_IF_SET, SPLITS, check_storable, from_dict, to_dict
from bat_core.data import Dataset, Split
from bat_core.errors import InputError, brief_repr, check_amount, check_choice, check_file_name, check_finite
from bat_core.jsontext import read_json
from bat_core.norms import LINF, Norm, Unit, check_norm
from bat_core.paths import below, chosen, make_folder, read_regular, write_atomically
from sweeps.engine.evaluation.model_sources import ModelSource, fingerprint
from sweeps.engine.storage.files import refuse_if_used
from sweeps.engine.storage.marks import mark_code, marked_code
from sweeps.engine.sweep.spec import check_time


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A model to attack: its source, the SHA-256 of its weights, its inspection's findings, and how it is called."""

    source: ModelSource
    fingerprint: str
    findings: tuple[str, ...] = ()
    adaptation: Adaptation = field(default_factory=Adaptation)

    def __post_init__(self) -> None:
        check_file_name("model.name", self.source.name)  # its folder

    def load(self, device: str, noun: str) -> nn.Module:
        """The model behind its adapter, in evaluation mode.

        Raises:
            InputError: it cannot be loaded, or its weights differ from those that were inspected.
        """
        model = self.source.load(device)
        if fingerprint(model) != self.fingerprint:
            raise InputError(f"model {self.source.name!r} has changed since this {noun} started: start a new one")
        return adapted(model, self.adaptation).eval()


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """The attacked models, the images and the budget.

    `eps`, `step_size` and `pixel` are in [0, 1] units of the images and in `norm`. `val_size` images are held out of
    train: no more than any model's own training held out. `image_size` is that of images in files, `image_column` and
    `label_column` are columns of Parquet files; None is the data set's own. `num_classes` is None where it was not
    stored yet; those
    evaluations had four classes or more. Results are stored per shard of `shard_size` images.
    """

    id: str
    created: str
    command: str
    models: tuple[ModelRecord, ...]
    dataset: str
    data_dir: str | None
    split: str
    n: int
    pixel: float
    eps: float
    step_size: float
    seed: int
    precision: str
    shard_size: int
    val_size: int | None = None
    image_size: int | None = None
    num_classes: int | None = None
    image_column: str | None = None
    label_column: str | None = None
    version: str = bat_core.__version__
    norm: Norm = field(default=LINF, metadata=ONLY_IF_SET)

    def __post_init__(self) -> None:
        check_norm("norm", self.norm)
        check_choice("split", self.split, SPLITS)
        check_file_name("id", self.id)
        check_time("created", self.created)
        check_amount("pixel", self.pixel)
        check_finite("n", self.n, low=1)
        check_finite("shard_size", self.shard_size, low=1)

    @classmethod
    def new(cls, **decided: Any) -> Self:
        """Make a spec with a new id and the current time."""
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(id=secrets.token_hex(8), created=created, **decided)

    def shards(self) -> list[slice]:
        """Slices of the images' positions. Each is attacked and stored separately."""
        return [slice(start, min(start + self.shard_size, self.n)) for start in range(0, self.n, self.shard_size)]

    def part(self, dataset: Dataset) -> Split:
        """The images to attack."""
        return dataset.part(self.split).take(slice(self.n))

    @property
    def factories(self) -> tuple[str, ...]:
        """The code that is imported to build the models: package.module:factory, sorted."""
        return tuple(sorted({model.source.factory for model in self.all_models() if model.source.factory}))

    def all_models(self) -> tuple[ModelRecord, ...]:
        """Every model that is loaded."""
        return self.models

    def mark_code(self, folder: Path) -> None:
        """Remember in the folder that the user named the code that is imported."""
        mark_code(folder, self.id, references | set(self.factories))

    def check_code(self, folder: Path, named: Sequence[str], noun: str) -> None:
        """Check that the user named the code that is imported: on this command line, or when the job began.

        Raises:
            InputError: nothing shows it. The folder may be a stranger's.
        """
        known = marked_code(folder, self.id)
        if unknown := set(self.factories) - known - set(named):
            raise InputError(
                f"--resume {str(folder)!r}: the {noun} imports and runs {', '.join(map(brief_repr, sorted(unknown)))},"
                " and nothing shows that you named it: if you trust this code, name it again after --resume"
            )
        allow(known | set(named))
        mark_code(folder, self.id, set(self.factories) - known)

    @property
    def unit(self) -> Unit:
        """How its amounts are written."""
        return Unit(self.pixel, self.norm)

    @property
    def eps_in_pixels(self) -> float:
        """The budget in `pixel`."""
        return round(self.eps / self.pixel, 6)


A = TypeVar("A", bound=EvaluationSpec)


def write_spec(folder: Path, name: str, noun: str, spec: EvaluationSpec) -> None:
    """Write a spec into a new folder.

    Raises:
        InputError: the folder cannot be written or is not empty, or the spec could not be read back.
    """
    refuse_if_used(folder, name, noun)
    check_storable(spec)
    try:
        make_folder(chosen(folder))
        spec.mark_code(folder)
        write_atomically(below(folder, name), json.dumps(to_dict(spec), indent=1))
    except OSError as error:
        raise InputError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error


def read_spec(kind: type[A], folder: Path, name: str, noun: str) -> A:
    """Read what `write_spec` wrote.

    Raises:
        InputError: the file is missing or invalid.
    """
    try:
        return from_dict(kind, read_json(read_regular(below(folder, name))))
    except (OSError, ValueError) as error:
        raise InputError(f"--resume {str(folder)!r} is not a valid {noun} folder: {error}") from error
