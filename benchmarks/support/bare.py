"""What benchmarks share that run on a bare GPU machine: bat_core and what that needs, nothing else."""

import argparse
import contextlib
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

import bat_core
from bat_core.data import Split
from bat_core.evaluate import Evaluator
from bat_core.suites import Suite
from bat_core.verdicts import Verdicts


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


def parser(about: str | None) -> argparse.ArgumentParser:
    """A command line with what all of these scripts take."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--output", type=Path, help="a JSON file for everything that was measured")
    return made


def takes_images(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same, with which images."""
    made.add_argument("--dataset", default="cifar10")
    made.add_argument("--data-dir", type=Path)
    made.add_argument("--train-size", type=int)
    made.add_argument("--n", type=int, default=1000, help="test images")
    made.add_argument("--batch", type=int, default=1000, help="test images at once")
    return made


def plain(options: argparse.Namespace) -> dict[str, Any]:
    """Options as they are kept with results: without folders."""
    return {name: value for name, value in vars(options).items() if name not in {"data_dir", "output"}}


def clean(evaluator: Evaluator, part: Split, batch: int) -> Verdicts:
    """Verdicts on clean images, some at once."""
    pieces = torch.arange(len(part)).split(batch)
    return Verdicts.concat([evaluator.clean(part.images[at], part.labels[at], part.rows[at]) for at in pieces])


def attacked(evaluator: Evaluator, verdicts: Verdicts, part: Split, suite: Suite, batch: int) -> Verdicts:
    """The verdicts after a suite, some images at once."""
    pieces = torch.arange(len(part)).split(batch)
    ordered = verdicts.take(np.searchsorted(verdicts.rows, part.rows.numpy()))
    return Verdicts.concat([evaluator.extend(ordered.take(at.numpy()), part.images[at], suite) for at in pieces])


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
