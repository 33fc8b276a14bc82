"""What an evaluation and a transfer matrix have in common: models, images and a budget, decided before any attack."""

import datetime
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from torch import nn

import bat_core
from bat_core.config import from_dict, to_dict
from bat_core.data import Dataset, Split
from bat_core.errors import InputError, check_amount, check_file_name, check_finite
from bat_core.jsontext import read_json
from sweeps.engine.evaluation.model_sources import ModelSource, fingerprint
from sweeps.engine.storage.files import refuse_if_used, write_atomically
from sweeps.engine.sweep.spec import check_time


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """A model that is to be attacked: where it comes from, its weights' SHA-256, what the inspection said of it."""

    source: ModelSource
    fingerprint: str
    findings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_file_name("model.name", self.source.name)  # its folder

    def load(self, device: str, noun: str) -> nn.Module:
        """The model, in evaluation mode.

        Raises:
            InputError: it is not the one that was examined.
        """
        model = self.source.load(device)
        if fingerprint(model) != self.fingerprint:
            raise InputError(f"model {self.source.name!r} is not the one this {noun} began with: begin a new one")
        return model.eval()


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """Which models are attacked on which images, and how far an image may be moved.

    `eps` and `step_size` are in the images' unit, `pixel` is the data set's. `val_size` images are held out
    of train: no more than every model's own training held out. `image_size` is that of images in files, None the
    data set's own. A shard's results are kept on disk as a whole.
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
    version: str = bat_core.__version__

    def __post_init__(self) -> None:
        check_file_name("id", self.id)
        check_time("created", self.created)
        check_amount("pixel", self.pixel)
        check_finite("n", self.n, low=1)
        check_finite("shard_size", self.shard_size, low=1)

    @classmethod
    def new(cls, **decided: Any) -> Self:
        """One with an id of its own."""
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(id=secrets.token_hex(8), created=created, **decided)

    def shards(self) -> list[slice]:
        """Positions of the images, in pieces that are done and kept one by one."""
        return [slice(start, min(start + self.shard_size, self.n)) for start in range(0, self.n, self.shard_size)]

    def part(self, dataset: Dataset) -> Split:
        """The images."""
        return dataset.part(self.split).take(slice(self.n))

    @property
    def eps_in_pixels(self) -> float:
        """The budget in the data set's pixels."""
        return round(self.eps / self.pixel, 6)


A = TypeVar("A", bound=EvaluationSpec)


def write_spec(folder: Path, name: str, noun: str, spec: EvaluationSpec) -> None:
    """Write what was decided into a new folder, which from then on holds `noun`.

    Raises:
        InputError: it cannot be written, or holds something already.
    """
    refuse_if_used(folder, name, noun)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, json.dumps(to_dict(spec), indent=1))
    except OSError as error:
        raise InputError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error


def read_spec(kind: type[A], folder: Path, name: str, noun: str) -> A:
    """What `write_spec` wrote.

    Raises:
        InputError: nothing of this kind lies there.
    """
    try:
        return from_dict(kind, read_json((folder / name).read_bytes()))
    except (OSError, ValueError) as error:
        raise InputError(f"--resume {str(folder)!r}: no {noun} there: {error}") from error
