"""Where MLflow's database is, whatever the working folder is called, and what is printed to be pasted."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bat_core.errors import InputError
from sweeps.engine.storage.files import pasted
from sweeps.engine.tracking import location
from sweeps.engine.tracking.background import failure_of
from sweeps.engine.tracking.location import how_to_open, prepare, tracking_uri

NAMES = ["my work", "what if? 2", "50%25 off", "a#b", "a;b&c=d", 'it\'s "quoted"', "mein Ordner ü漢", "$HOME `x`"]


# In a process of its own: MLflow keeps an open database under its URI, which may be relative.
LOG = """
import pathlib
from mlflow.tracking import MlflowClient
from sweeps.engine.tracking.location import prepare, tracking_uri
from sweeps.engine.tracking.runs import Runs
uri = tracking_uri()
prepare(uri)
runs = Runs(uri)
run = runs.find_or_make("evaluations", "net", {"bat.x": "1"}, "python x.py")
runs.log_files(run, [pathlib.Path("f.txt").absolute()])
print([file.path for file in MlflowClient(uri).list_artifacts(run.info.run_id)])
"""


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv(location.ARTIFACT_ROOT, "")  # so that it is restored
    monkeypatch.delenv(location.ARTIFACT_ROOT)
    place = tmp_path / request.param
    place.mkdir()
    monkeypatch.chdir(place)
    return place


def test_the_printed_command_is_one_shell_command_that_opens_the_folders_own_database(folder: Path) -> None:
    command, then = how_to_open(tracking_uri()).rsplit(", then ", 1)
    assert then == "http://127.0.0.1:5000"
    said = "import os, sys; print(os.getcwd(), sys.argv[1:])"
    shown = command.replace(" -m mlflow", f" -c {shlex.quote(said)}")
    done = subprocess.run(["sh", "-c", shown], capture_output=True, text=True, cwd=folder, check=True)
    uri = tracking_uri()
    assert done.stdout.strip() == f"{folder} {['ui', '--backend-store-uri', uri]}"
    assert uri in {"sqlite:///mlflow.db", f"sqlite:///{folder}/mlflow.db"}


def test_a_path_to_be_pasted_is_one_word_and_no_option(folder: Path) -> None:
    for path in (folder / "a b", Path("/x/it's"), folder / "-x", folder / "$(date)"):
        (word,) = shlex.split(pasted(path))
        assert not word.startswith("-")
        assert (folder / word) == path


@pytest.mark.slow
def test_run_and_artifacts_lie_in_the_working_folder_and_nothing_lies_beside_it(folder: Path) -> None:
    (folder / "f.txt").write_text("hello")
    logged = subprocess.run([sys.executable, "-c", LOG], capture_output=True, text=True, cwd=folder, check=True)
    assert logged.stdout.splitlines()[-1] == "['f.txt']"
    assert {path.name for path in folder.iterdir()} == {"f.txt", "mlflow.db", "mlruns"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_database_that_cannot_be_written_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/mlflow\.db' cannot be written: [A-Z][a-z ]+; name another database"):
        prepare(f"sqlite:///{tmp_path}/file/mlflow.db")
    said = failure_of(lambda: prepare(f"sqlite:///{tmp_path}/file/mlflow.db"), patience=60)
    assert said is not None
    assert "cannot be written" in said


def test_a_missing_folder_of_the_database_is_made(tmp_path: Path) -> None:
    prepare(f"sqlite:///{tmp_path}/not/there%20yet/mlflow.db?timeout=5")
    assert (tmp_path / "not" / "there yet" / "mlflow.db").exists()


def test_what_is_no_database_on_a_disk_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for uri in ("http://127.0.0.1:5000", "sqlite:///:memory:", "sqlite:///file:x.db?uri=true", "sqlite://x", "word"):
        prepare(uri)
    assert list(tmp_path.iterdir()) == []
