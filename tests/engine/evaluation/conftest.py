"""What tests of whole evaluations share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.engine.evaluation.job import Job
from tests.conftest import Trained
from tests.engine.evaluation.evaluations import MADE, nowhere, shorten_suites


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working folder, no MLflow, and short suites."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "_log", nowhere)
    shorten_suites(monkeypatch)


@pytest.fixture(scope="module")
def made(robust_digits: Trained) -> Iterator[None]:
    """The robust network is the one that `evaluations.net` gives."""
    MADE["robust"] = robust_digits.model
    yield
    MADE.clear()
