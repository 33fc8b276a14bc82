"""MLflow's model registry: the model that a search chose, under a name and the alias "champion".

`mlflow.pyfunc.load_model("models:/<name>@champion").get_raw_model()` is the torch module: it classifies
images in [0, 1], and can be attacked. Its files are safetensors and config.json.
"""

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from sweeps.engine.sweep.spec import Sweep
from sweeps.engine.tracking.background import quiet_mlflow
from sweeps.engine.tracking.runs import MODEL_TAG, NOTE_TAG, SWEEP_TAG, TRIAL_TAG, Runs

CHAMPION = "champion"


def register_champion(sweep: Sweep, trial_id: str, *, name: str, description: str, uri: str) -> str:
    """Register the model of a trial as `name` with the alias "champion"; done twice, there is one version.

    Args:
        says: how it was chosen; stands in the description of the version and of the run.
    Returns:
        The version.
    Raises:
        MlflowException: the server did not take it, or does not have the trial's model yet.
    """
    quiet_mlflow()
    runs = Runs(uri)
    client, run = runs.client, runs.find_trial(sweep.id, trial_id)
    if run is None:
        raise MlflowException(f"trial {trial_id} is not in MLflow")
    if MODEL_TAG not in run.data.tags:
        raise MlflowException(f"the model of trial {trial_id} is not in MLflow")
    version = _known(client, name, sweep, trial_id) or _new(client, name, sweep, trial_id, run)
    client.update_model_version(name, version.version, description)
    client.set_registered_model_alias(name, CHAMPION, version.version)
    client.set_tag(run.info.run_id, NOTE_TAG, description)
    return str(version.version)


def _known(client: MlflowClient, name: str, sweep: Sweep, trial_id: str) -> ModelVersion | None:
    identity = {SWEEP_TAG: sweep.id, TRIAL_TAG: trial_id}
    versions = client.search_model_versions(f"name = '{name}'")
    return next((version for version in versions if identity.items() <= version.tags.items()), None)


def _new(client: MlflowClient, name: str, sweep: Sweep, trial_id: str, run: Run) -> ModelVersion:
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description=f"Robust classifiers chosen by searches of {sweep.name}.")
    tags = {SWEEP_TAG: sweep.id, TRIAL_TAG: trial_id}
    model = run.data.tags[MODEL_TAG]
    return client.create_model_version(
        name, source=model, run_id=run.info.run_id, tags=tags, model_id=model.removeprefix("models:/")
    )
