"""Log a transfer matrix to MLflow."""

from collections.abc import Sequence
from pathlib import Path

from bat_core.norms import LINF
from sweeps.engine.tracking.runs import NOTE_TAG, SUITE_TAG, Runs
from sweeps.engine.transfer.craft import Matrix, label
from sweeps.engine.transfer.matrix import NOT_VERIFIED

EXPERIMENT = "transfer"
TRANSFER_TAG = "bat.transfer"


def log_transfer(matrix: Matrix, folder: Path, files: Sequence[str], description: str, *, uri: str) -> None:
    """Log a transfer matrix to MLflow as one run: its settings, files and a description.

    Args:
        files: in `folder`.  description: the result in a sentence or two.
    Raises:
        MlflowException: the server rejected the data; resume the transfer matrix to try again.
    """
    runs = Runs(uri)
    run = runs.find_or_make(EXPERIMENT, folder.name, {TRANSFER_TAG: matrix.id}, matrix.command)
    run_id = run.info.run_id
    names = ("dataset", "split", "n", "pixel", "eps", "step_size", "seed", "precision", "version")
    params = {"models": ", ".join(matrix.names)} | ({} if matrix.norm == LINF else {"norm": matrix.norm})
    runs.log_params(run_id, {name: getattr(matrix, name) for name in names} | params)
    suite = "+".join(map(label, matrix.attacks()))
    runs.set_tags(run_id, {SUITE_TAG: f"{suite}, {NOT_VERIFIED} (n = {matrix.n})", NOTE_TAG: description})
    runs.log_files(run, (folder / name for name in files))
