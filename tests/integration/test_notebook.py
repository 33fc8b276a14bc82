"""The tutorial's notebook, executed in a kernel of its own."""

import nbformat
import pytest
from nbclient import NotebookClient

from tests.contract.imports import ROOT


@pytest.mark.slow
def test_it_runs_and_shows_verified_numbers_and_pictures(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPLBACKEND")  # the kernel's own shows figures in the notebook
    notebook = nbformat.read(ROOT / "examples" / "tutorial.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # committed without outputs
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.get("text", "") for output in outputs)
    assert "R-MC-LA" in printed
    assert "verified" in printed
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
