"""A transfer matrix in MLflow."""

from collections.abc import Sequence
from pathlib import Path

import sweeps.engine.tracking.sync as mirror  # isort: skip (it sets up MLflow before the import below)
from mlflow.entities import Param
from mlflow.tracking import MlflowClient

from sweeps.engine.evaluation.mlflow_log import _own_run
from sweeps.engine.transfer.craft import Matrix, label
from sweeps.engine.transfer.matrix import NOT_VERIFIED

TRANSFERS = "transfer"  # the experiment of transfer matrices
TRANSFER_TAG = "bat.transfer"


def log_transfer(matrix: Matrix, folder: Path, files: Sequence[str], description: str, *, uri: str) -> None:
    """Bring a transfer matrix into MLflow, as one run: its settings, its files, what it says.

    Args:
        files: in `folder`.  says: in a sentence or two, for people.
    Raises:
        MlflowException: the server did not take it; resume the transfer matrix to try again.
    """
    client = MlflowClient(tracking_uri=uri)
    run_id = _own_run(client, TRANSFERS, folder.name, {TRANSFER_TAG: matrix.id}, matrix.command).info.run_id
    names = ("dataset", "split", "n", "pixel", "eps", "step_size", "seed", "precision", "version")
    settings = {name: getattr(matrix, name) for name in names} | {"models": ", ".join(matrix.names)}
    client.log_batch(run_id, params=[Param(name, str(value)) for name, value in settings.items()])
    suite = "+".join(map(label, matrix.attacks()))
    client.set_tag(run_id, mirror.SUITE_TAG, f"{suite}, {NOT_VERIFIED} (n = {matrix.n})")
    client.set_tag(run_id, "mlflow.note.content", description)
    for name in files:
        client.log_artifact(run_id, str(folder / name))
