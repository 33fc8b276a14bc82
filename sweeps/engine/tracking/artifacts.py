"""Downloads models from MLflow."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from bat_core.errors import InputError, check_file_name
from bat_core.paths import Rooted, below, chosen, make_folder, remove, remove_empty
from sweeps.engine.cli.redact import redacted
from sweeps.engine.tracking.models import LOADER
from sweeps.engine.tracking.runs import MODEL_TAG

MAX_FILES = 1000
OF_A_RUN = re.compile(r"runs:/(\w+)(/model)?/?")  # the model of a run, whatever its name


def download_model(uri: str, folder: Path) -> tuple[Path, str, str]:
    """Download a model that a sweep logged to MLflow.

    Only models logged by this project are accepted, from safetensors: others could run code when loaded. The model of
    a run is `runs:/<run>` or `runs:/<run>/model`; its own name in MLflow is that of the trial.

    Returns:
        The model's folder, and the id and name of the run that logged it.
    Raises:
        InputError: MLflow has no such model, or this project did not log it.
    """
    with _place_for(uri, folder) as own:
        try:
            at = _logged_model(uri)
            _check_names(at, own)
            place = Path(mlflow.artifacts.download_artifacts(artifact_uri=at, dst_path=str(own)))
            described = Model.load(str(place))
            run = MlflowClient().get_run(described.run_id) if described.run_id else None
        except InputError:
            raise
        except (MlflowException, OSError) as error:
            raise InputError(f"MLflow has no model {uri!r}: {redacted(str(error).splitlines()[0])[:200]}") from error
        except Exception as error:  # an invalid MLmodel file can raise anything
            raise InputError(f"model {uri!r}: its MLmodel cannot be read: {type(error).__name__}") from error
        pyfunc = (described.flavors or {}).get("python_function") or {}
        if pyfunc.get("loader_module") != LOADER or run is None:
            raise InputError(
                f"model {uri!r} was not logged by bat-sweeps: loading it could run foreign code; use a"
                " package.module:factory with --weights instead"
            )
        data = str(pyfunc.get("data"))
        for part in data.split("/"):
            check_file_name(f"model {uri!r}: the folder {data!r} in its MLmodel", part)
        found = below(own, (place / data).relative_to(own).as_posix())
    return found, run.info.run_id, run.info.run_name


def _logged_model(uri: str) -> str:
    """The URI of a run's logged model; any other URI as it is."""
    if (match := OF_A_RUN.fullmatch(uri)) is None:
        return uri
    return str(MlflowClient().get_run(match[1]).data.tags.get(MODEL_TAG, uri))


def _check_names(uri: str, folder: Path) -> None:
    """Check every name that the server lists, before MLflow makes files of them.

    Raises:
        InputError: a name leads out of the folder, or there are more than a model has.
    """
    repository, waiting, count = get_artifact_repository(uri), [""], 0
    while waiting:
        for listed in repository.list_artifacts(waiting.pop() or None):
            below(folder, listed.path)
            count += 1
            if count > MAX_FILES:
                raise InputError(f"model {uri!r} has more than {MAX_FILES} files: no model of this project has")
            if listed.is_dir:
                waiting.append(listed.path)


@contextmanager
def _place_for(uri: str, folder: Path) -> Iterator[Rooted]:
    """A subfolder of `folder` for the model. It is removed if the model is rejected."""
    was_there = folder.exists()
    place = below(folder, "".join(character if character.isalnum() else "-" for character in uri))
    make_folder(place)
    try:
        yield place
    except InputError:
        remove(place)
        if not was_there:
            remove_empty(chosen(folder))
        raise
