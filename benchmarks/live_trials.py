"""A live sweep of many minimal trials: does a trial cost the same at the end as at the beginning?

python benchmarks/live_trials.py --trials 1000 --limit 3600     # 3 to 10 minutes on 2 idle cores

Trials of one epoch on 64 digits run under Ray Tune and are mirrored to MLflow, as those of any sweep. Once a second the
driver's CPU time, memory, open files and threads are noted. The seconds per trial, and the driver's CPU seconds, are
those between the ends of trials, part by part. A run that exceeds its limit is stopped, as by Ctrl-C, and reported so
far.
"""

import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from cyclopts import Parameter
from support.common import command, machine, say, table, write_report
from support.live_sweeps import live_sweep

from sweeps.engine.sweep.folder import SweepFolder

MIB = 2**20


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """How many trials, and for how long."""

    trials: int = 1000
    """Number of trials."""
    part: int = 100
    """Trials whose seconds are averaged."""
    limit: float = 3600.0
    """Seconds after which the sweep is stopped."""
    output: Path | None = None
    """JSON file for all measurements."""


@dataclass(frozen=True)
class Sample:
    """The driver at one moment: seconds since its start, CPU seconds, memory in MiB, open files and threads."""

    at: float
    cpu: float
    mib: float
    files: int
    threads: int


def main(options: Options = Options()) -> dict[str, Any]:
    """Run the sweep, and compare its beginning with its end."""
    with tempfile.TemporaryDirectory() as place:
        began = time.time()
        samples = _run(Path(place), options)
        folder = SweepFolder(Path(place) / "sweep")
        statuses = [status for _, status in folder.statuses(folder.load())]
        ended = sorted(status.ended for status in statuses if status.phase == "finished" and status.ended)
    report: dict[str, Any] = {
        "machine": machine("cpu"), "options": asdict(options), "seconds": time.time() - began, "finished": len(ended),
        "per_trial": _parts([at - began for at in ended], samples, options.part),
        "driver": [asdict(sample) for sample in samples],
    }  # fmt: skip
    _show(report, [sample for sample in samples if ended and sample.at >= ended[0] - began])
    write_report(options.output, report)
    return report


def _run(place: Path, options: Options) -> list[Sample]:
    small = ("--train-size", "64", "--val-size", "8", "--test-size", "8", "--epochs", "1", "--steps", "1")
    uri = f"sqlite:///{place}/mlflow.db"
    said, environment = live_sweep(options.trials, uri, *small, "--model", "small_cnn_8")
    began = time.monotonic()
    process = subprocess.Popen(said, cwd=place, env=environment, stdout=subprocess.DEVNULL)
    driver, samples, stopped = psutil.Process(process.pid), [], False
    while process.poll() is None:
        try:
            with driver.oneshot():
                cpu, memory = sum(driver.cpu_times()[:2]), driver.memory_info().rss / MIB
                samples.append(Sample(time.monotonic() - began, cpu, memory, driver.num_fds(), driver.num_threads()))
        except psutil.NoSuchProcess:
            break
        if time.monotonic() - began > options.limit and not stopped:
            say(f"stopped after {options.limit:g} s")
            process.send_signal(signal.SIGINT)
            stopped = True
        time.sleep(1)
    process.wait()
    return samples


def _parts(ended: Sequence[float], samples: Sequence[Sample], part: int) -> list[dict[str, float]]:
    """Seconds, and CPU seconds of the driver, per trial, for each `part` trials in the order in which they ended."""
    bounds = [*range(0, len(ended) - 1, part), len(ended) - 1] if ended else []
    marks = [ended[bound] for bound in bounds]
    cpu = np.interp(marks, [sample.at for sample in samples], [sample.cpu for sample in samples])
    return [
        {
            "from": low + 1,
            "to": high,
            "seconds": float(seconds) / (high - low),
            "driver_cpu": float(driver) / (high - low),
        }
        for (low, high), seconds, driver in zip(pairwise(bounds), np.diff(marks), np.diff(cpu), strict=True)
    ]


def _show(report: dict[str, Any], samples: Sequence[Sample]) -> None:
    say(f"{report['finished']} of {report['options']['trials']} trials finished in {report['seconds']:.0f} s")
    quarter = max(len(samples) // 4, 1)
    rows = []
    for name in ("mib", "files", "threads"):
        values = [getattr(sample, name) for sample in samples]
        parts = (values[:quarter], values[-quarter:]) if values else ((0,), (0,))
        rows.append([name, *(f"{max(part):.0f}" for part in parts)])
    table("the driver at the beginning and at the end of a sweep", ("what", "first quarter", "last"), rows)
    paces = [
        [f"{pace['from']:.0f} to {pace['to']:.0f}", f"{pace['seconds']:.3f}", f"{pace['driver_cpu']:.3f}"]
        for pace in report["per_trial"]
    ]
    table("seconds per trial", ("trials", "seconds", "the driver's CPU seconds"), paces)


if __name__ == "__main__":
    command(main)
