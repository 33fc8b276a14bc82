"""The command of a live sweep of many equal trials on digits, for benchmarks of what surrounds the trials."""

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def live_sweep(trials: int, uri: str, *options: str) -> tuple[list[str], dict[str, str]]:
    """The command line of a sweep of `trials` seeds into the folder `sweep`, logged to `uri`, and its environment."""
    command = [sys.executable, str(ROOT / "sweeps" / "eps_budget.py"), "--eps-x", "40/255", "--reference", "none"]
    command += ["--verify", "0", *options, "--seeds", *map(str, range(trials)), "--address", "local"]
    return [*command, "--output", "sweep"], os.environ | {"MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1"}
