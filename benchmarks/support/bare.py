"""Helpers for benchmarks on a bare GPU machine. They need bat_core and its dependencies only."""

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
    """The GPU with its driver and clocks, or the processor, and versions."""
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
    """A command line with the options that all of these scripts share."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--output", type=Path, help="JSON file for all measurements")
    return made


def add_image_options(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the options that select images."""
    made.add_argument("--dataset", default="cifar10")
    made.add_argument("--data-dir", type=Path)
    made.add_argument("--train-size", type=int)
    made.add_argument("--n", type=int, default=1000, help="number of test images")
    made.add_argument("--batch", type=int, default=1000, help="test images per batch")
    return made


def stored_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options to store with results: all except paths."""
    return {name: value for name, value in vars(options).items() if name not in {"data_dir", "output"}}


def evaluate_clean(evaluator: Evaluator, part: Split, batch: int) -> Verdicts:
    """Verdicts on clean images, in batches."""
    pieces = torch.arange(len(part)).split(batch)
    return Verdicts.concat([evaluator.clean(part.images[at], part.labels[at], part.rows[at]) for at in pieces])


def evaluate_suite(evaluator: Evaluator, verdicts: Verdicts, part: Split, suite: Suite, batch: int) -> Verdicts:
    """Extend the verdicts by a suite, in batches."""
    pieces = torch.arange(len(part)).split(batch)
    ordered = verdicts.take(np.searchsorted(verdicts.rows, part.rows.numpy()))
    return Verdicts.concat([evaluator.extend(ordered.take(at.numpy()), part.images[at], suite) for at in pieces])


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, minimum, maximum and count."""
    return {"median": median(values), "least": min(values), "most": max(values), "n": len(values)}


def say(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(path: Path | None, report: dict[str, Any]) -> None:
    """Write the measurements so far."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1))
