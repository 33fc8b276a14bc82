"""RobustBench's published entries, and how a measured number compares with one.

The facts are in robustbench.csv: model, architecture, extra data, clean accuracy and accuracy under AutoAttack in %,
and the best known robust accuracy where an attack other than AutoAttack found a lower one.

Source: model_info/ of github.com/RobustBench/robustbench (MIT) at commit 78fcc9e, of 31 March 2025; Croce et al. 2021,
arXiv:2010.09670.
"""

import csv
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bat_core.norms import Norm
from bat_core.paths import read_regular
from bat_core.stats import Interval, wilson
from sweeps.engine.cli.text import percent, percent_range

FILE = Path(__file__).with_name("robustbench.csv")
AS_OF = "31 March 2025"
PREFIX = "robustbench:"
IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}  # test images that RobustBench evaluates on
SAME_EPS = 5e-4  # 0.031 is written where 8/255 is meant
SUITE = "standard"


@dataclass(frozen=True, kw_only=True)
class Published:
    """An entry of RobustBench. Accuracies and `eps` are in [0, 1] units; `best_known` is None if AutoAttack's is."""

    dataset: str
    norm: Norm
    eps: float
    model: str
    architecture: str
    extra_data: bool
    clean_acc: float
    robust_acc: float
    best_known: float | None

    @property
    def n(self) -> int:
        """The number of test images that it was evaluated on."""
        return IMAGES[self.dataset]

    @property
    def interval(self) -> Interval:
        """The robust accuracy's 95 % Wilson interval."""
        return wilson(round(self.robust_acc * self.n), self.n)

    @property
    def title(self) -> str:
        """Architecture and training data, in words."""
        return f"{self.architecture}, {'with' if self.extra_data else 'without'} extra data"


@functools.cache
def published() -> tuple[Published, ...]:
    """All entries: by data set and norm, best first."""
    rows = csv.DictReader(io.StringIO(read_regular(FILE).decode()))
    return tuple(_entry(row) for row in rows)


def _entry(row: dict[str, str]) -> Published:
    numerator, _, denominator = row["eps"].partition("/")
    norm: Norm = "l2" if row["norm"] == "l2" else "linf"
    return Published(
        dataset=row["dataset"],
        norm=norm,
        eps=float(numerator) / float(denominator or 1),
        model=row["model"],
        architecture=row["architecture"],
        extra_data=row["extra_data"] == "yes",
        clean_acc=float(row["clean"]) / 100,
        robust_acc=float(row["autoattack"]) / 100,
        best_known=float(row["best_known"]) / 100 if row["best_known"] else None,
    )


def published_at(dataset: str, norm: str, eps: float) -> list[Published]:
    """The entries for a data set and budget, best first."""
    return [one for one in published() if (one.dataset, one.norm) == (dataset, norm) and abs(one.eps - eps) <= SAME_EPS]


def find_published(factory: str | None, dataset: str, norm: str, eps: float) -> Published | None:
    """The entry of a model that was named as robustbench:NAME; None if there is none at this budget."""
    if factory is None or not factory.startswith(PREFIX):
        return None
    name = factory.rpartition("/")[2].removeprefix(PREFIX)
    return next((one for one in published_at(dataset, norm, eps) if one.model == name), None)


def comparison(one: Published, *, robust_acc: float, n: int, suite: str) -> str:
    """A sentence: the published number beside a measured one, and whether they agree within the interval."""
    low, high = wilson(round(robust_acc * n), n)
    agree = low <= one.robust_acc <= high
    measured = f"{percent(robust_acc)} ({percent_range(low, high)}, n = {n:,}) under {suite}"
    known = "" if one.best_known is None else f"; best known by any attack: {percent(one.best_known)}"
    verb = "agree within the interval" if agree else "do not agree within the interval"
    said = f"RobustBench publishes {100 * one.robust_acc:.2f}% (AutoAttack, n = {one.n:,}){known}; measured: {measured}"
    others = differences(suite=suite, n=n, published_n=one.n)
    return f"{said}. They {verb}{': ' + '; '.join(others) if others else ''}."


def differences(*, suite: str, n: int, published_n: int, training: str | None = None) -> Sequence[str]:
    """What differs from RobustBench's protocol: suite, images, training data."""
    found = []
    if suite.split(",", maxsplit=1)[0].rsplit("+", maxsplit=1)[-1] != SUITE:
        found.append(f"{suite} instead of AutoAttack's standard version, which may find less")
    if n != published_n:
        found.append(f"{n:,} images instead of {published_n:,}")
    return [*found, training] if training else found
