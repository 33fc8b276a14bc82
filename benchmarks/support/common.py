"""Helpers for all benchmarks: images, models, statistics, versions, tables, reports and the command line."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cyclopts import App, CycloptsError, Parameter
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest

from bat_core.checkpoint import save_model
from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Dataset, Split
from bat_core.errors import InputError
from bat_core.fit import fit
from bat_core.norms import LINF, Norm
from bat_core.recipes import recipe_params

EVAL_PIXELS, STEP_PIXELS = 8, 2
PACKAGES = ("bat-sweeps", "torch", "foolbox", "pyautoattack", "torchattacks", "numpy")
CONSOLE = Console(width=None if sys.stdout.isatty() else 160)

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Images:
    """Test images in blocks of one batch each, with the attack budget."""

    blocks: tuple[Split, ...]
    eps: float
    step_size: float
    batch_size: int
    norm: Norm = LINF

    @classmethod
    def of(
        cls, dataset: Dataset, *, n: int, batch_size: int, norm: Norm = LINF, pixels: float = EVAL_PIXELS
    ) -> "Images":
        """The first `n` test images, sorted by row as verdicts are, at a budget of `pixels` of the data set.

        Raises:
            InputError: there are fewer test images.
        """
        if not 1 <= n <= len(dataset.test):
            raise InputError(f"--n={n} must be in 1..{len(dataset.test)}, the number of test images")
        first = dataset.test.take(slice(n))
        blocks = tuple(first.take(positions).in_memory() for positions in first.rows.argsort().split(batch_size))
        unit = dataset.unit(norm)
        eps = pixels * unit
        return cls(blocks=blocks, eps=eps, step_size=eps * STEP_PIXELS / EVAL_PIXELS, batch_size=batch_size, norm=norm)

    def __len__(self) -> int:
        return sum(len(block) for block in self.blocks)

    def whole(self) -> Split:
        """All blocks concatenated."""
        parts = zip(*((block.images, block.labels, block.rows) for block in self.blocks), strict=True)
        return Split(*(torch.cat(part) for part in parts))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings for training models if the user gives none."""

    cache: Path = Path("outputs/benchmarks")
    """Folder for trained models, so that each is trained once."""
    network: str = "small_cnn"
    """The network to train."""
    epochs: int = 8
    """Passes over the training images."""
    train_size: int = 10_000
    """Number of training images, or all if there are fewer."""
    precision: str = "float32"
    """Precision of the training: float32, or bfloat16, which is faster only on processors that compute in it."""

    def trained(self, dataset: Dataset, recipe: str) -> Path:
        """The folder of a model trained with `recipe` at 8 pixels."""
        eps = EVAL_PIXELS * dataset.pixel
        train = dataset.train.take(slice(self.train_size))
        params = {"eps": eps} if "eps" in recipe_params(recipe) else {}
        config = TrialConfig(
            data=DataConfig(name=dataset.name, train_size=len(train)),
            model=self.network,
            recipe=RecipeConfig(name=recipe, params=params),
            train=TrainConfig(epochs=self.epochs, lr=0.2, precision=self.precision),
            attack=AttackConfig(eps=eps, step_size=STEP_PIXELS * dataset.pixel),
        )
        folder = self.cache / f"{dataset.name}-{config.hash}"
        if not folder.is_dir():
            say(f"training {recipe} for {self.epochs} epochs into {folder}")
            *_, last = fit(config, replace(dataset, train=train))
            save_model(folder, last.state, config, dataset)
        return folder


def discordant(one: Flags, other: Flags) -> tuple[int, int, float]:
    """How many are true in `one` only, how many in `other` only, and p of the exact two-sided sign test."""
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    pairs = only_one + only_other
    return only_one, only_other, float(binomtest(only_one, pairs).pvalue) if pairs else 1.0


def points(one: Flags, other: Flags) -> float:
    """The difference of two accuracies on the same images in percentage points, without rounding errors."""
    return 100 * (int(one.sum()) - int(other.sum())) / len(one)


def machine(device: str) -> dict[str, Any]:
    """The versions and hardware of a measurement."""
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "load": os.getloadavg(),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table. All columns except the first are right-aligned."""
    drawn = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        drawn.add_column(column, justify="right" if number else "left")
    for row in rows:
        drawn.add_row(*row)
    CONSOLE.print(drawn)


def say(text: str) -> None:
    """Print a line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)


def yes_or_no(holds: bool) -> str:
    """Whether a target is met."""
    return "yes" if holds else "NO"


def write_report(path: Path | None, report: Mapping[str, Any]) -> None:
    """Write `report` as JSON, atomically. Paths are reduced to their names, because folders differ between machines."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(report, indent=2, default=_plain))
    partial.replace(path)


def _plain(value: Any) -> str:
    return value.name if isinstance(value, Path) else str(value)


def command(main: Callable[[Any], Any]) -> None:
    """Run `main` with the options of the command line. Invalid input ends it with a one-sentence error."""
    app = App(help=main.__doc__, help_format="plaintext", version_flags=[], default_parameter=Parameter(negative=""))
    app.default(main)
    try:
        app(exit_on_error=False, print_error=False, result_action="return_value")
    except (InputError, CycloptsError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
