"""Images in files: how much memory a trial takes as their number grows, and how many a second are decoded.

python benchmarks/streaming.py --data-dir DIR        # a folder of ImageNet's layout
"""

import multiprocessing
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import psutil
import torch
from common import Parameter, command, machine, say, table, write_report
from torch import nn

from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Crops, Dataset, load_dataset
from bat_core.models import MODELS
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial

MIB = 2**20
VAL, BATCH = 20, 20
HOW = ("streamed", "in memory")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What is measured."""

    data_dir: Path
    """Folder with the images."""
    counts: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (100, 400, 900)
    """Training images of each trial; it is judged on 4 test images for every 9."""
    image_size: int = 224
    """Height and width."""
    workers: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0, 1, 2)
    """Decoding processes whose speed is compared; the most of them serve the trials."""
    report: Path | None = None
    """Keep the numbers in this JSON file."""


@MODELS.register("pooled")
def pooled(*, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """One layer: the memory that is measured is that of images."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.AvgPool2d(16), nn.Flatten(), nn.Linear(channels * (height // 16) * (width // 16), num_classes)
    )


def main(options: Options) -> None:
    """Memory of a trial on images in files and in memory, and decoding speed."""
    started, most = machine("cpu"), max(options.workers)
    trials: list[dict[str, Any]] = []
    for how in HOW:
        for count in options.counts:
            say(f"{how}: {count} training images")
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
                trials.append(fresh.submit(trial, options, count, how, most).result())
    rows = [
        [one["how"], f"{one['train']} + {one['test']}", f"{one['before']:.0f}", f"{one['peak']:.0f}"] for one in trials
    ]
    table("present memory of a trial's process, MiB", ("images", "train + test", "before", "at most"), rows)
    speeds = {workers: speed(options, workers) for workers in options.workers}
    table(
        f"training crops of {options.image_size}x{options.image_size}, batches of {BATCH}",
        ("decoding processes", "images a second"),
        [[str(workers), f"{images:.0f}"] for workers, images in speeds.items()],
    )
    write_report(options.report, {"machine": started, "trials": trials, "images_a_second": speeds})


def trial(options: Options, count: int, how: str, workers: int) -> dict[str, Any]:
    """One epoch of training, validation, evaluation and red flags in this process, which must be a fresh one."""
    torch.set_num_threads(1)
    dataset = load(options, workers, train_size=count, val_size=VAL, test_size=count * 4 // 9)
    if how == HOW[1]:
        dataset = replace(dataset, **{part: dataset.part(part).in_memory() for part in ("train", "val", "test")})
    config = TrialConfig(
        data=DataConfig(name=dataset.name, image_size=options.image_size),
        model="pooled",
        recipe=RecipeConfig(name="Undefended"),
        train=TrainConfig(epochs=1, batch_size=BATCH, val_steps=1, precision="float32"),
        attack=AttackConfig(steps=(1,), losses=("ce",), batch_size=BATCH, verify=0),
    )
    before = psutil.Process().memory_info().rss
    with tempfile.TemporaryDirectory() as out, peak_memory() as peak:
        run_trial(
            Trial(id="trial", config=config), dataset, Path(out) / "trial", TrialRuntime(device=torch.device("cpu"))
        )
    return {
        "how": how,
        "train": len(dataset.train),
        "test": len(dataset.test),
        "before": before / MIB,
        "peak": max(peak) / MIB,
    }


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """The process's present memory, looked at again and again: `ru_maxrss` would tell of what was before too."""
    process, seen, stop = psutil.Process(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


def speed(options: Options, workers: int) -> float:
    """Images a second that reach the process that trains, from the first to the last of an epoch."""
    train = load(options, workers).train
    started = time.perf_counter()
    for _ in train.batches(torch.arange(len(train)).split(BATCH), crops=Crops(0, 1)):
        pass
    return len(train) / (time.perf_counter() - started)


def load(options: Options, workers: int, **sizes: int) -> Dataset:
    """The images in files."""
    return load_dataset("imagenet", options.data_dir, image_size=options.image_size, data_workers=workers, **sizes)


if __name__ == "__main__":
    command(main)
