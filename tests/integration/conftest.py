from pathlib import Path

import pytest

from tests.integration.running import Output, Place

TINY = (
    *("--train-size", "256", "--test-size", "60", "--val-size", "40", "--epochs", "3", "--steps", "1", "2", "5"),
    *("--verify", "8"),
)
CHEAP = ("--model", "small_cnn_8", "--max-concurrent", "1")  # each process imports for ten seconds
GRID = ("--eps-x", "20/255", "40/255", "--seeds", "0", "1")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("sweeps"))


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A place whose tracking database no other module looks into."""
    return Place(tmp_path_factory.mktemp("apart"))


@pytest.fixture(scope="session")
def finished(place: Place) -> tuple[Output, str]:
    """A sweep that ran undisturbed, and what it printed."""
    code, printed = place.run("eps_budget.py", *TINY, *CHEAP, *GRID, "--output", "undisturbed")
    assert code == 0, printed
    return place.sweep("undisturbed"), printed


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path
