"""MLflow's database as it is before anything is logged, which takes MLflow seconds to make."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from mlflow.tracking import MlflowClient


def blank_database(file: Path) -> str:
    """Make a database at `file`, unless there is one. Returns its tracking URI."""
    if not file.exists():
        shutil.copy(_template(), file)
    return f"sqlite:///{file}"


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="database-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    MlflowClient(f"sqlite:///{folder / 'blank.db'}").search_experiments()
    return folder / "blank.db"
