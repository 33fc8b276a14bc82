"""The command `transfer`: images crafted on each model, classified by all models."""

from collections.abc import Sequence
from pathlib import Path

from bat_core.adapter.importing import model_code
from bat_core.data import Split
from bat_core.errors import InputError
from bat_core.paths import below, write_atomically
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.evaluation.job import Job, spread
from sweeps.engine.evaluation.options import TransferOptions
from sweeps.engine.evaluation.setup import make_spec_fields
from sweeps.engine.pages.document import PAGE, render
from sweeps.engine.transfer.craft import (
    NOUN,
    SPEC,
    Matrix,
    MatrixFolder,
    ModelCache,
    craft_shard,
    finished_shards,
    joined,
)
from sweeps.engine.transfer.matrix import alarm, as_csv, cells_of
from sweeps.engine.transfer.page import transfer_page
from sweeps.engine.transfer.plot import draw_matrix
from sweeps.engine.transfer.report import markdown, settings, show

STEM, CELLS, TABLE = "transfer", "cells.csv", "table.md"
FILES = (TABLE, CELLS, f"{STEM}.png", f"{STEM}.svg", PAGE)


def run_transfer(models: Sequence[str], options: TransferOptions) -> int:
    """Run or resume a transfer matrix, and report it.

    Returns:
        The exit code, 0.
    Raises:
        InputError: the input is invalid; nothing was attacked.
    """
    return TransferJob(models, options).run()


class TransferJob(Job[Matrix]):
    """Crafts images on every model and classifies them with every model."""

    noun, spec_file, stem = NOUN, SPEC, STEM
    required_models = "two MODELs or a sweep's folder"
    experiment = f", experiment {STEM}"

    folder: MatrixFolder

    def folder_at(self, path: Path) -> MatrixFolder:
        return MatrixFolder(path)

    def make(self) -> tuple[Matrix, Split]:
        fields, part = make_spec_fields(self.models, self.options, self.folder.path, self.console)
        matrix = Matrix.new(**fields)
        _check_models(matrix)
        return matrix, part

    def total(self) -> float:
        return len(self.spec.shards()) * len(self.spec.names)

    def done(self) -> float:
        return len(finished_shards(self.spec, self.folder))

    def doing(self) -> str:
        names = self.spec.names
        number = min(int(self.done()) // len(self.spec.shards()), len(names) - 1)
        return f"crafting on {names[number]} ({number + 1} of {len(names)})"

    def attack(self) -> None:
        gpus, sources = self.options.gpus(), range(len(self.spec.names))
        with spread(self.options, (self.spec, self.folder, self.part)) as run:
            run(work, [(source, shard, gpus) for source in sources for shard in self.spec.shards()])

    def conclude(self) -> str:
        cells = cells_of(self.spec.names, joined(self.spec, self.folder, self.part))
        write_atomically(below(self.folder.path, CELLS), as_csv(cells))
        write_atomically(below(self.folder.path, TABLE), markdown(self.spec, cells))
        save_figure(draw_matrix(self.spec, cells), self.folder.path / STEM)
        write_atomically(below(self.folder.path, PAGE), render(transfer_page(self.spec, cells)))
        show(self.console, self.spec, cells)
        self._note = f"{alarm(cells).description} {settings(self.spec, cells)}"
        return ", ".join(FILES)

    def log(self, uri: str) -> None:
        from sweeps.engine.transfer.mlflow_log import log_transfer

        log_transfer(self.spec, self.folder.path, (SPEC, *FILES), self._note, uri=uri)

    _note: str


def _check_models(matrix: Matrix) -> None:
    """Raises InputError unless every cell off the diagonal is a black-box attack."""
    if len(matrix.models) < 2:
        raise InputError(f"{matrix.names[0]!r} is the only model: a {NOUN} needs at least two; name another")
    first: dict[str, str] = {}
    for model in matrix.models:
        name = model.source.name
        if model.fingerprint in first:
            raise InputError(f"{first[model.fingerprint]!r} and {name!r} are the same model: name each once")
        first[model.fingerprint] = name


_CACHES: dict[str, ModelCache] = {}


def work(matrix: Matrix, folder: MatrixFolder, part: Split, source: int, shard: slice, gpus: float) -> None:
    """Craft one shard of images on one model and classify it with all models, unless the result is on disk."""
    if matrix.id not in _CACHES:
        _CACHES.clear()
        _CACHES[matrix.id] = ModelCache(matrix, gpus)
    with model_code(f"a model failed while images crafted on {matrix.names[source]!r} were classified"):
        craft_shard(matrix, folder, _CACHES[matrix.id], part, source, shard)
