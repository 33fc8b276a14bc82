"""A new database that several processes open at once is made by one of them: MLflow itself takes no lock."""

import hashlib
import os
from pathlib import Path

import pytest

from bat_core.paths import chosen
from sweeps.engine.storage.locks import exclusive
from sweeps.engine.tracking.location import sole_maker
from sweeps.engine.tracking.runs import Runs


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BAT_SWEEPS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def lock_of(cache: Path, database: Path) -> Path:
    return cache / "locks" / f"{hashlib.sha256(os.fsencode(database.resolve())).hexdigest()[:32]}.lock"


def test_tables_are_made_under_a_lock(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, steps = lock_of(cache, tmp_path / "mlflow.db"), []

    class Client:
        """Stands in for MLflow's, whose first use makes the tables."""

        def __init__(self, tracking_uri: str) -> None:
            self.search_experiments(len(tracking_uri))

        def search_experiments(self, max_results: int) -> None:
            with pytest.raises(BlockingIOError), exclusive(chosen(lock), wait=False):
                pass
            steps.append(max_results)

    monkeypatch.setattr("sweeps.engine.tracking.runs.MlflowClient", Client)
    Runs(f"sqlite:///{tmp_path}/mlflow.db")
    assert len(steps) == 2
    with exclusive(chosen(lock), wait=False):
        pass  # it is free again


def test_other_spellings_of_a_database_have_the_same_lock(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to("a b.db")
    for uri in (
        "sqlite:///a b.db",
        f"sqlite:///{tmp_path}/a%20b.db",
        "sqlite:///./a b.db?timeout=5",
        "sqlite:///link.db",
    ):
        with (
            sole_maker(uri),
            pytest.raises(BlockingIOError),
            exclusive(chosen(lock_of(cache, tmp_path / "a b.db")), wait=False),
        ):
            pass
    assert len(list((cache / "locks").iterdir())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "link.db"]


@pytest.mark.parametrize("uri", ["http://127.0.0.1:5000", "sqlite:///:memory:", "postgresql://u:p@h/d", "sqlite://"])
def test_what_is_no_file_has_no_lock(cache: Path, uri: str) -> None:
    with sole_maker(uri):
        assert not cache.exists()
