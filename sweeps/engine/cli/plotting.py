"""Save figures to files."""

import io
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from sweeps.engine.storage.files import write_atomically


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg. Equal figures give equal bytes."""
    paths = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        content = io.BytesIO()
        with mpl.rc_context({"svg.hashsalt": "bat-sweeps"}):
            figure.savefig(content, format=suffix[1:], dpi=160, metadata=metadata)
        path = stem.with_suffix(suffix)
        write_atomically(path, content.getvalue())
        paths.append(path)
    return paths
