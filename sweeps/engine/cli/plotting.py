"""Save figures to files."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from bat_core.paths import below, write_atomically


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg. Equal figures give equal bytes."""
    paths: list[Path] = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        content = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "bat-sweeps"}):
            figure.savefig(content, format=suffix[1:], dpi=160, metadata=metadata)
        path = below(stem.parent, f"{stem.name}{suffix}")
        write_atomically(path, content.getvalue())
        paths.append(path)
    return paths
