"""Where MLflow keeps its data: the URI, whether it can be written, and how to open it. Does not import MLflow."""

import hashlib
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, unquote

from bat_core.errors import InputError
from bat_core.paths import Rooted, below, chosen, make_folder, make_private
from sweeps.engine.cli.redact import redacted, redacted_uri
from sweeps.engine.storage.files import pasted, user_cache
from sweeps.engine.storage.locks import exclusive

DATABASE = "mlflow.db"
SQLITE = "sqlite:///"
RELATIVE = SQLITE + DATABASE
SPECIAL = "?%"  # characters of a path that SQLAlchemy's URLs and MLflow read in different ways
ARTIFACT_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"  # MLflow's variable for the artifacts of a database without a server

restored: list[str] = []  # the experiments that this process found deleted in MLflow, and restored


def tracking_uri() -> str:
    """The tracking server or database: MLFLOW_TRACKING_URI, else mlflow.db in the working folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or own_database()


def own_database() -> str:
    """The database in the working folder.

    Its path is absolute, unless it has a character that MLflow does not take in an absolute one.
    """
    folder = str(Path.cwd())
    return RELATIVE if set(SPECIAL) & set(folder) else f"{SQLITE}{folder}/{DATABASE}"


def prepare(uri: str) -> None:
    """Make sure that a database can be written, since MLflow would retry for minutes, and that its artifacts can.

    Raises:
        InputError: the database cannot be written.
    """
    if not (path := _database_file(uri)):
        return
    here = str(Path.cwd())
    if quote(here) != here:  # MLflow's own default, a bare path, is not quoted where it becomes a URI or SQL
        os.environ.setdefault(ARTIFACT_ROOT, (Path.cwd() / "mlruns").as_uri())
    try:
        place = chosen(Path(path).resolve())  # a link of the user's own is followed
        make_folder(Rooted(place.parent))
        make_private(place)
    except (InputError, OSError) as error:  # InputError: a file is where its folder belongs
        reason = getattr(error, "strerror", None) or "Not a directory"
        raise InputError(
            f"{redacted(str(Path(path).absolute()))!r} cannot be written: {reason}; name another database"
            f" by MLFLOW_TRACKING_URI, such as {SQLITE}/FOLDER/{DATABASE}"
        ) from error


@contextmanager
def sole_maker(uri: str) -> Iterator[None]:
    """Open a SQLite database during the body, alone among this user's processes on this machine.

    MLflow makes a new database's tables without a lock: of several processes that open it at once, all but one fail.
    The lock file is in the user's cache, so that nothing lies beside the database.
    """
    if not (path := _database_file(uri)):
        yield
        return
    name = hashlib.sha256(os.fsencode(Path(path).resolve())).hexdigest()[:32]
    with exclusive(below(user_cache(), "locks", f"{name}.lock")):
        yield


def _database_file(uri: str) -> str | None:
    """The file of a SQLite database; None for servers, other databases and those in memory."""
    path = unquote(uri.removeprefix(SQLITE).partition("?")[0])
    return path if uri.startswith(SQLITE) and path and not path.startswith((":memory:", "file:")) else None


def how_to_open(uri: str, path: str = "") -> str:
    """The shell command and URL that open MLflow, at `path` behind its address. Passwords in the URI are hidden."""
    if uri.startswith("http"):
        return f"{redacted_uri(uri).rstrip('/')}{path}" if path else redacted_uri(uri)
    secret = uri != own_database() and redacted(uri) != uri
    database = '"$MLFLOW_TRACKING_URI"' if secret else shlex.quote(uri)
    command = f"{pasted(Path(sys.executable))} -m mlflow ui --backend-store-uri {database}"
    if uri == RELATIVE:
        command = f"cd {shlex.quote(str(Path.cwd()))} && {command}"
    return f"{command}, then http://127.0.0.1:5000{path}"


def restored_experiments() -> str | None:
    """One sentence about the experiments that were restored; None if there are none."""
    if not restored:
        return None
    names = ", ".join(map(repr, restored))
    return f"MLflow: experiment {names} had been deleted there, and is restored"
