"""Logs a trial's model to MLflow, in as few requests as its files need.

`mlflow.pyfunc.log_model` would read the history of every metric of the run, one request each, to copy those of the
model's step. Here the metrics are logged after the model, with its id.
"""

import functools
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Run
from mlflow.models import Model, ModelSignature
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec

from bat_core.checkpoint import Description, read_description
from sweeps.engine.sweep.trial_sync import MODEL
from sweeps.engine.tracking.names import fitting

LOADER = "sweeps.engine.mlflow_model"
PREFIX = "models:/"
GREY = 0.5  # the value of the input example


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What MLflow says of a model: its name, the parameters of its run, and tags such as its masking verdict."""

    name: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    version: str  # of this package


def known_model(client: MlflowClient, run: Run) -> str | None:
    """The model that an earlier sync logged completely, as a URI; None if there is none."""
    for output in run.outputs.model_outputs if run.outputs else []:
        if client.get_logged_model(output.model_id).status == LoggedModelStatus.READY:
            return f"{PREFIX}{output.model_id}"
    return None


def log_model(client: MlflowClient, run: Run, folder: Path, facts: ModelFacts, *, uri: str) -> str:
    """Log the model in `folder`, which `load_model` reads, as an output of a run.

    Args:
        uri: of the tracking server.
    Returns:
        The model's URI.
    Raises:
        InputError: the model's files are damaged.
    """
    description = read_description(folder)
    made = client.create_logged_model(
        run.info.experiment_id,
        name=fitting(facts.name),
        source_run_id=run.info.run_id,
        params=dict(facts.params),
        tags=_context() | dict(facts.tags),
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
            pip_requirements=[f"bat-sweeps=={facts.version}"],
            signature=signature_of(description),
            input_example=np.full((1, *description.image_shape), GREY, dtype=np.float32),
            mlflow_model=described,
        )
        repository = get_artifact_repository(made.artifact_location, tracking_uri=uri)
        repository.log_artifacts(str(local))  # type: ignore[no-untyped-call]
    client.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
    client.log_outputs(run.info.run_id, [LoggedModelOutput(made.model_id, step=0)])
    return f"{PREFIX}{made.model_id}"


def signature_of(description: Description) -> ModelSignature:
    """Images (N, C, H, W) in [0, 1] in, logits (N, K) out, both float32."""
    images = TensorSpec(np.dtype(np.float32), (-1, *description.image_shape))
    logits = TensorSpec(np.dtype(np.float32), (-1, description.num_classes))
    return ModelSignature(inputs=Schema([images]), outputs=Schema([logits]))


@functools.cache
def _context() -> dict[str, str]:
    """MLflow's own tags of what this process is: its user, script and commit."""
    return dict(resolve_tags())
