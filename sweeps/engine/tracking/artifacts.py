"""Models that are read from MLflow."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.tracking import MlflowClient

from bat_core.errors import InputError, check_file_name
from sweeps.engine.cli.redact import redacted
from sweeps.engine.tracking.sync import LOADER


def download_model(uri: str, folder: Path) -> tuple[Path, str, str]:
    """The folder of one of our models in MLflow, and the id and name of the run that made it.

    Only models that a sweep of ours logged are taken, from safetensors: others could run code when loaded.

    Raises:
        InputError: MLflow has no such model, or it is of another kind.
    """
    with _place_for(uri, folder) as own:
        try:
            place = Path(mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(own)))
            described = Model.load(str(place))
            run = MlflowClient().get_run(described.run_id) if described.run_id else None
        except (MlflowException, OSError) as error:
            raise InputError(f"MLflow has no model {uri!r}: {redacted(str(error).splitlines()[0])[:200]}") from error
        except Exception as error:  # whatever a YAML that is no MLmodel of MLflow's leads to
            raise InputError(f"model {uri!r}: its MLmodel cannot be read: {type(error).__name__}") from error
        pyfunc = (described.flavors or {}).get("python_function") or {}
        if pyfunc.get("loader_module") != LOADER or run is None:
            raise InputError(
                f"model {uri!r} is none of ours: loading it could run foreign code; name a package.module:factory with"
                " --weights instead"
            )
        data = str(pyfunc.get("data"))
        for part in data.split("/"):
            check_file_name(f"model {uri!r}: the folder {data!r} in its MLmodel", part)
    return place / data, run.info.run_id, run.info.run_name


@contextmanager
def _place_for(uri: str, folder: Path) -> Iterator[Path]:
    """A folder of the model's own in `folder`; gone again, with nothing else, if the model is not taken."""
    was_there = folder.exists()
    place = folder / "".join(character if character.isalnum() else "-" for character in uri)
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    except InputError:
        shutil.rmtree(place)
        if not was_there:
            folder.rmdir()
        raise
