"""From the command line to a transfer matrix: checks models, crafts, judges, resumes, reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter
from rich.console import Console

from bat_core.data import Split
from bat_core.errors import InputError
from sweeps.engine.cli.options import timestamped
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.cli.text import progress, relative
from sweeps.engine.evaluation.job import AssessOptions, decide, found_again, spread
from sweeps.engine.storage.files import refuse_if_used, write_atomically
from sweeps.engine.storage.locks import sole_driver
from sweeps.engine.tracking.background import how_to_open, hush, patience_for, tracking_uri, trouble_in
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
from sweeps.engine.transfer.plot import draw_matrix
from sweeps.engine.transfer.report import markdown, settings, show

STEM, CELLS, TABLE = "transfer", "cells.csv", "table.md"
FILES = (TABLE, CELLS, f"{STEM}.png", f"{STEM}.svg")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TransferOptions(AssessOptions):
    """Which images, which budget, on which machine. None stands for what is usual."""

    batch_size: int | None = None
    """Images crafted at once, and in one shard. Default: 250, on GPUs 1,000."""
    output: Path | None = None
    """A new folder for verdicts, tables and pictures. Default: outputs/transfer-<time>."""
    resume: Path | None = None
    """Go on with the transfer matrix in this folder, at the model and shard where it stopped."""


def run_transfer(models: Sequence[str], options: TransferOptions) -> int:
    """Make a transfer matrix, or go on with it, and say what came out.

    Returns:
        The exit code, 0.
    Raises:
        InputError: the input cannot be used; nothing has been attacked.
    """
    console = Console()

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)

    if options.resume:
        options.refuse_beside_resume(models, NOUN)
        matrix, folder, part = _resumed(options, options.resume)
    else:
        matrix, folder, part = _begun(models, options, console)
    with sole_driver(folder.path, NOUN):
        shards = len(matrix.shards())

        def doing() -> str:
            done = len(finished_shards(matrix, folder))
            number = min(done // shards, len(matrix.names) - 1)
            return f"crafting on {matrix.names[number]} ({number + 1} of {len(matrix.names)})"

        total, gpus = shards * len(matrix.names), options.gpus()
        with (
            progress(console, total=total, done=lambda: len(finished_shards(matrix, folder)), doing=doing),
            spread(options, (matrix, folder, part)) as run,
        ):
            run(work, [(source, shard, gpus) for source in range(len(matrix.names)) for shard in matrix.shards()])
        description = _conclude(matrix, folder, part, console)
        say(f"Results: {relative(folder.path)} ({', '.join(FILES)})")
        uri = tracking_uri()
        if trouble := _log(matrix, folder, description, uri):
            say(f"MLflow did not take everything ({trouble}); later: --resume {relative(folder.path)}", "yellow")
        else:
            say(f"MLflow: {how_to_open(uri)}, experiment {STEM}")
    return 0


def _begun(models: Sequence[str], options: TransferOptions, console: Console) -> tuple[Matrix, MatrixFolder, Split]:
    options.check()
    if not models:
        raise InputError(f"name at least two MODELs or a sweep's folder, or a {NOUN} to --resume")
    folder = MatrixFolder((options.output or timestamped(STEM)).resolve())
    refuse_if_used(folder.path, SPEC, f"a {NOUN}")
    decided, part = decide(models, options, folder.path, console)
    matrix = Matrix.new(**decided)
    _check_models(matrix)
    folder.create(matrix)
    return matrix, folder, part


def _resumed(options: TransferOptions, path: Path) -> tuple[Matrix, MatrixFolder, Split]:
    folder = MatrixFolder(path.resolve())
    matrix = folder.load()
    return matrix, folder, found_again(matrix, options, NOUN)


def _check_models(matrix: Matrix) -> None:
    """Raises InputError where one of the cells off the diagonal would be no black box."""
    if len(matrix.models) < 2:
        raise InputError(f"{matrix.names[0]!r} is one model alone: a {NOUN} needs at least two")
    first: dict[str, str] = {}
    for model in matrix.models:
        name = model.source.name
        if model.fingerprint in first:
            raise InputError(f"{first[model.fingerprint]!r} and {name!r} are the same model: name each once")
        first[model.fingerprint] = name


_BENCHES: dict[str, ModelCache] = {}


def work(matrix: Matrix, folder: MatrixFolder, part: Split, source: int, shard: slice, gpus: float) -> None:
    """One shard of images crafted on one model and judged by all, unless that is on disk."""
    if matrix.id not in _BENCHES:
        _BENCHES.clear()
        _BENCHES[matrix.id] = ModelCache(matrix, "cuda" if gpus else "cpu")
    craft_shard(matrix, folder, _BENCHES[matrix.id], part, source, shard)


def _conclude(matrix: Matrix, folder: MatrixFolder, part: Split, console: Console) -> str:
    """Tables and pictures of what lies on disk. Returns what they say in a sentence or two."""
    cells = cells_of(matrix.names, joined(matrix, folder, part))
    write_atomically(folder.path / CELLS, as_csv(cells))
    write_atomically(folder.path / TABLE, markdown(matrix, cells))
    save_figure(draw_matrix(matrix, cells), folder.path / STEM)
    show(console, matrix, cells)
    return f"{alarm(cells).description} {settings(matrix, cells)}"


def _log(matrix: Matrix, folder: MatrixFolder, description: str, uri: str) -> str | None:
    """Bring the matrix into MLflow. Returns None, or why it did not take it."""

    def log() -> None:
        from sweeps.engine.transfer.mlflow_log import log_transfer  # noqa: PLC0415 (seconds to import)

        hush()
        log_transfer(matrix, folder.path, (SPEC, *FILES), description, uri=uri)

    return trouble_in(log, patience=patience_for(1))
