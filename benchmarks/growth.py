"""How time and memory grow with the amount of work. Growth should be linear or better.

python benchmarks/growth.py                              # all parts; about 40 minutes on 2 cores
python benchmarks/growth.py --parts bookkeeping          # what thousands of trials cost besides running them

An exponent is the least-squares slope of log time against log amount, with its 95 % interval: 1 is linear, less is
better. Fixed costs lower it, so it is also fitted to the upper half of the amounts.

images   one epoch of training, and one PGD-20 evaluation, on 1,000 to 50,000 random images
steps    one evaluation of 100 images with PGD of 1 to 1,000 steps
workers  the same epoch with 1 and 2 processes, one thread each
trials   a sweep of 1 to 64 minimal trials: seconds, and the memory of the driver
bookkeeping  CPU seconds of each look at 100 to 5,000 finished trials, and at records of 100 to 3,000 epochs
"""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import psutil
import torch
import torch.distributed as dist
from cyclopts import Parameter
from scipy import stats
from speed import noise
from support.bookkeeping import EPOCHS, TRIALS
from support.common import command, machine, say, table, write_report

from bat_core.config import AttackConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.evaluate import evaluate
from bat_core.fit import fit, initial_state
from bat_core.workers import Workers

T = TypeVar("T")
MIB = 2**20
PARTS = ("images", "steps", "workers", "trials", "bookkeeping")
ROOT = Path(__file__).parents[1]
SIZE = 16  # height and width of the images: small, so that the benchmark is fast


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure, and for which amounts."""

    parts: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = PARTS
    """What to measure: images, steps, workers, trials, bookkeeping."""
    images: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1000, 3000, 10_000, 25_000, 50_000)
    """Numbers of images."""
    steps: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1, 3, 10, 30, 100, 300, 1000)
    """Numbers of attack steps."""
    trials: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1, 4, 16, 32, 64)
    """Numbers of trials."""
    workers: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1, 2)
    """Numbers of processes."""
    made: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (100, 1000, 5000)
    """Numbers of finished trials that the bookkeeping is measured on."""
    epochs: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (100, 1000, 3000)
    """Numbers of epochs in a record."""
    only: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    """Measure only the bookkeeping whose name contains one of these."""
    model: str = "small_cnn_8"
    """The network."""
    repeats: int = 3
    """Timings of each amount; the median counts."""
    output: Path | None = None
    """JSON file for all measurements."""


def main(options: Options = Options()) -> dict[str, Any]:
    """Measure time and memory, and fit exponents."""
    report: dict[str, Any] = {"machine": machine("cpu"), "options": asdict(options), "parts": {}}
    measure: dict[str, Callable[[Options], dict[str, Any]]] = {
        "images": images,
        "steps": steps,
        "workers": workers,
        "trials": trials,
        "bookkeeping": bookkeeping,
    }
    for part in options.parts:
        say(part)
        report["parts"][part] = measure[part](options)
        write_report(options.output, report)
    return report


def images(options: Options) -> dict[str, Any]:
    """For each number of images, in a fresh process: an epoch, an evaluation and the peak memory."""
    found = [_fresh(_epoch_and_evaluation, options, count) for count in options.images]
    return {
        "train": _fitted("an epoch of R-MC-LA", "images", options.images, [one["train"] for one in found]),
        "evaluate": _fitted("PGD-20", "images", options.images, [one["evaluate"] for one in found]),
        "memory_mib": dict(zip(options.images, [one["memory_mib"] for one in found], strict=True)),
        "images_mib": {count: count * 3 * SIZE**2 / MIB for count in options.images},
    }


def _epoch_and_evaluation(options: Options, count: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    config, dataset = _config(options), noise(count, SIZE, seed=0)
    model = initial_state(config, dataset, torch.device("cpu")).model
    attack, part = AttackConfig(steps=(20,), losses=("ce",)), dataset.train
    with _peak() as peak:
        trained = [_seconds(lambda: list(fit(config, dataset))) for _ in range(options.repeats)]
        judged = [
            _seconds(lambda: evaluate(model, part.images, part.labels, attack=attack)) for _ in range(options.repeats)
        ]
    return {"train": trained, "evaluate": judged, "memory_mib": peak.most / MIB}


def steps(options: Options) -> dict[str, Any]:
    """PGD with each number of steps on the same images."""
    return _fresh(_steps, options, 100)


def _steps(options: Options, count: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    dataset = noise(count, SIZE, seed=0)
    model = initial_state(_config(options), dataset, torch.device("cpu")).model
    part = dataset.train

    def timed(amount: int) -> list[float]:
        attack = AttackConfig(steps=(amount,), losses=("ce",))
        return [
            _seconds(lambda: evaluate(model, part.images, part.labels, attack=attack)) for _ in range(options.repeats)
        ]

    times = [timed(amount) for amount in options.steps]
    return {"evaluate": _fitted("PGD", "steps", options.steps, times)}


def workers(options: Options) -> dict[str, Any]:
    """The same epoch, shared by each number of workers."""
    times = {size: _shared(options, size) for size in options.workers}
    alone = np.median(times[1])
    rows = [
        [str(size), f"{np.median(one):.2f}", f"{alone / np.median(one):.2f}", f"{alone / np.median(one) / size:.0%}"]
        for size, one in times.items()
    ]
    table("an epoch of R-MC-LA on 5,000 images", ("workers", "seconds", "times as fast", "of the ideal"), rows)
    return {"seconds": times}


def _shared(options: Options, size: int) -> list[float]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(size, mp_context=context) as pool:
        jobs = [pool.submit(_rank, options, rank, size, port) for rank in range(size)]
        times, *_ = [job.result() for job in jobs]
    return times


def _rank(options: Options, rank: int, size: int, port: int) -> list[float]:
    torch.set_num_threads(1)
    config, dataset = _config(options), noise(5000, SIZE, seed=0)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    times = []
    for _ in range(options.repeats):
        dist.barrier()
        times.append(_seconds(lambda: list(fit(config, dataset, workers=Workers.current()))))
    dist.destroy_process_group()
    return times


def trials(options: Options) -> dict[str, Any]:
    """Whole sweeps from the command line, on digits. The time for one trial is mostly Ray's start and shutdown."""
    found = {count: _sweep(count) for count in options.trials}
    seconds, memory = ([[one[name]] for one in found.values()] for name in ("seconds", "driver_mib"))
    return {
        "sweep": _fitted("a sweep", "trials", options.trials, seconds),
        "driver_mib": {count: one["driver_mib"] for count, one in found.items()},
        "driver": _fitted("the driver's memory, MiB", "trials", options.trials, memory),
    }


def _sweep(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        seeds = [str(seed) for seed in range(count)]
        said = [sys.executable, str(ROOT / "sweeps" / "eps_budget.py"), "--eps-x", "40/255", "--reference", "none"]
        said += ["--train-size", "64", "--val-size", "8", "--test-size", "8", "--epochs", "1", "--steps", "1"]
        said += ["--verify", "0", "--model", "small_cnn_8", "--seeds", *seeds, "--address", "local"]
        environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "OMP_NUM_THREADS": "1"}
        began = time.perf_counter()
        process = subprocess.Popen(said, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        with _peak(process.pid) as peak:
            process.wait()
        if process.returncode:
            raise RuntimeError(f"the sweep of {count} trials ended with {process.returncode}")
        say(f"  {count} trials: {time.perf_counter() - began:.0f} s")
        return {"seconds": time.perf_counter() - began, "driver_mib": peak.most / MIB}


def bookkeeping(options: Options) -> dict[str, Any]:
    """What is read again and again while a sweep runs, or once at its end; each amount in a fresh process."""
    found: dict[str, Any] = {}
    for measures, amount, amounts in ((TRIALS, "trials", options.made), (EPOCHS, "epochs", options.epochs)):
        for name, measure in measures.items():
            if options.only and not any(word in name for word in options.only):
                continue
            rows = [_fresh(_bookkeeping, measure, count) for count in amounts]
            found[name] = _fitted(f"{name}, CPU s", amount, amounts, [[row["cpu"]] for row in rows])
            if "mib" in rows[0]:
                found[f"{name}, MiB"] = {count: row["mib"] for count, row in zip(amounts, rows, strict=True)}
                say(f"  MiB: {found[f'{name}, MiB']}")
    return found


def _bookkeeping(measure: Callable[[int], dict[str, float]], count: int) -> dict[str, float]:
    torch.set_num_threads(1)
    return measure(count)


class _peak:  # noqa: N801 (a context manager)
    """The peak resident memory of one process while the body runs, sampled ten times per second."""

    def __init__(self, pid: int | None = None) -> None:
        self.process, self.most, self._stop = psutil.Process(pid), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            try:
                self.most = max(self.most, self.process.memory_info().rss)
            except psutil.NoSuchProcess:
                return
            if self._stop.wait(0.1):
                return


def _fitted(what: str, amount: str, amounts: Sequence[int], times: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The exponent over all amounts, and over the upper half."""
    middle = [float(np.median(one)) for one in times]
    half = len(amounts) // 2
    exponents = {"all": _exponent(amounts, middle), "the upper half": _exponent(amounts[half:], middle[half:])}
    rows = [[str(count), f"{value:.3g}", f"{value / count:.3g}"] for count, value in zip(amounts, middle, strict=True)]
    table(f"{what} against {amount}", (amount, "median", f"for each of the {amount}"), rows)
    for over, found in exponents.items():
        say(f"  exponent over {over}: {found['exponent']:.2f} ({found['low']:.2f} to {found['high']:.2f})")
    return {"amounts": list(amounts), "values": [list(one) for one in times], "exponents": exponents}


def _exponent(amounts: Sequence[int], values: Sequence[float]) -> dict[str, float]:
    fit_ = stats.linregress(np.log(amounts), np.log(values))
    reach = float(stats.t.ppf(0.975, len(amounts) - 2)) * float(fit_.stderr) if len(amounts) > 2 else float("inf")
    slope = float(fit_.slope)
    return {"exponent": slope, "low": slope - reach, "high": slope + reach}


def _config(options: Options) -> TrialConfig:
    train = TrainConfig(epochs=1, batch_size=100, lr=0.01, precision="float32")
    return TrialConfig(model=options.model, recipe=RecipeConfig(name="R-MC-LA"), train=train)


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def _fresh(function: Callable[[T, int], dict[str, Any]], given: T, count: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, given, count).result()


if __name__ == "__main__":
    command(main)
