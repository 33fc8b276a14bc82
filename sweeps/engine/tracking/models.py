"""Logs a trial's model to MLflow, in as few requests as its files need.

`mlflow.pyfunc.log_model` would read the history of every metric of the run, one request each, to copy those of the
model's step. Here the metrics are logged after the model, with its id.
"""

import functools
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import mlflow
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Run
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags

from sweeps.engine.sweep.trial_sync import MODEL

LOADER = "sweeps.engine.mlflow_model"
PREFIX = "models:/"


def log_files(run: Run, files: Iterable[Path], uri: str) -> None:
    """Upload files to a run, one request each."""
    repository = get_artifact_repository(run.info.artifact_uri, tracking_uri=uri)
    for file in files:
        repository.log_artifact(str(file))  # type: ignore[no-untyped-call]


def known_model(client: MlflowClient, run: Run) -> str | None:
    """The model that an earlier sync logged completely, as a URI; None if there is none."""
    for output in run.outputs.model_outputs if run.outputs else []:
        if client.get_logged_model(output.model_id).status == LoggedModelStatus.READY:
            return f"{PREFIX}{output.model_id}"
    return None


def log_model(
    client: MlflowClient, run: Run, folder: Path, params: Mapping[str, str], *, version: str, uri: str
) -> str:
    """Log the model in `folder`, which `load_model` reads, as an output of a run.

    Args:
        params: the parameters that the run has.  version: of this package.  uri: of the tracking server.
    Returns:
        The model's URI.
    """
    made = client.create_logged_model(
        run.info.experiment_id,
        name=MODEL,
        source_run_id=run.info.run_id,
        params=dict(params),
        tags=_context(),
    )
    described = Model(
        artifact_path=made.artifact_location, run_id=run.info.run_id, model_id=made.model_id, model_uuid=made.model_id
    )
    with tempfile.TemporaryDirectory() as place:
        local = Path(place) / MODEL
        mlflow.pyfunc.save_model(
            str(local),
            loader_module=LOADER,
            data_path=str(folder),
            pip_requirements=[f"bat-sweeps=={version}"],
            mlflow_model=described,
        )
        repository = get_artifact_repository(made.artifact_location, tracking_uri=uri)
        repository.log_artifacts(str(local))  # type: ignore[no-untyped-call]
    client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
    client.log_outputs(run.info.run_id, [LoggedModelOutput(made.model_id, step=0)])
    return f"{PREFIX}{made.model_id}"


@functools.cache
def _context() -> dict[str, str]:
    """MLflow's own tags of what this process is: its user, script and commit."""
    return dict(resolve_tags())
