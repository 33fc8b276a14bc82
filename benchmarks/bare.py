"""What benchmarks share that run on a bare GPU machine: bat_core and what that needs, nothing else."""

import contextlib
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

import bat_core


def machine(device: torch.device) -> dict[str, Any]:
    """The card with its driver and clocks as found, or the processor; versions."""
    cuda = device.type == "cuda"
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {"bat_sweeps": bat_core.__version__, "torch": torch.__version__, "cuda": torch.version.cuda},
        "python": platform.python_version(),
    }
    if cuda:
        asked = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            said = subprocess.run(
                ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            found["card"] = dict(zip(asked.split(","), said.strip().split(", "), strict=False))
    return found


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": median(values), "least": min(values), "most": max(values), "n": len(values)}


def tell(text: str) -> None:
    """Progress goes to stderr."""
    print(text, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(path: Path | None, report: dict[str, Any]) -> None:
    """Keep what was measured so far."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1))
