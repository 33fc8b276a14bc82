"""Make figures, and save them to files."""

import importlib
import io
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine

from bat_core.paths import below, write_atomically


def new_figure(
    width: float, height: float, layout: LayoutEngine | Literal["constrained"] | None = "constrained"
) -> Figure:
    """A figure of that size in inches; by default its parts are laid out so that none overlap."""
    _wait_for_ipython()
    return Figure(figsize=(width, height), layout=layout)


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg. Equal figures give equal bytes."""
    _wait_for_ipython()
    paths: list[Path] = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        content = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "bat-sweeps"}):
            figure.savefig(content, format=suffix[1:], dpi=160, metadata=metadata)
        path = below(stem.parent, f"{stem.name}{suffix}")
        write_atomically(path, content.getvalue())
        paths.append(path)
    return paths


def _wait_for_ipython() -> None:
    """Wait until IPython is imported, if MLflow may be importing it in another thread.

    Matplotlib reads the version of an IPython that it finds, and fails if that is only half imported.
    """
    if "mlflow" in sys.modules:
        with suppress(ImportError):
            importlib.import_module("IPython")
