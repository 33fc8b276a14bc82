"""Times contenders that take turns on the same images, and computes speed-ups."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from bat_core.config import AttackConfig
from bat_core.correctness import is_correct
from bat_core.data import Split, to_unit
from bat_core.evaluate import evaluate
from bat_core.suites import Suite
from bat_core.verdicts import Verdicts
from support.common import Images, say, table, yes_or_no

T = TypeVar("T")


@dataclass(frozen=True)
class Measured(Generic[T]):
    """The seconds of each contender by repeat and block, and its results by block."""

    seconds: Mapping[str, list[float]]
    results: Mapping[str, list[T]]

    def total(self, *names: str) -> list[float]:
        """The summed seconds of several contenders, by repeat and block."""
        return [sum(times) for times in zip(*(self.seconds[name] for name in names), strict=True)]


def interleaved(
    contenders: Mapping[str, Callable[[Split], T]], blocks: Sequence[Split], *, repeats: int, device: str = "cpu"
) -> Measured[T]:
    """Run all contenders on each block, `repeats` times. Each turn starts with another contender."""
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    results: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(repeats * len(blocks)):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            took, result = timed(contenders[name], blocks[turn % len(blocks)], device=device)
            seconds[name].append(took)
            if turn < len(blocks):
                results[name].append(result)
            say(f"  turn {turn + 1} of {repeats * len(blocks)}: {name} {took:.2f} s")
    return Measured(seconds, results)


def timed(run: Callable[[Split], T], block: Split, *, device: str) -> tuple[float, T]:
    """Seconds and the result: this process's CPU time, which other processes hardly change; wall-clock on a GPU."""
    clock = time.perf_counter if torch.device(device).type == "cuda" else time.process_time
    synchronise(device)
    started = clock()
    result = run(block)
    synchronise(device)
    return clock() - started, result


def synchronise(device: str) -> None:
    """Wait for the GPU, if there is one."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class BenchSetup:
    """The model under attack, its images and the settings of the measurement."""

    model: nn.Module
    images: Images
    repeats: int
    device: str

    @property
    def budget(self) -> dict[str, float]:
        return {"eps": self.images.eps, "step_size": self.images.step_size}

    def unit(self, block: Split) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] and labels, on the device."""
        return to_unit(block.images.to(self.device)), block.labels.to(self.device)

    def evaluation(
        self, attack: AttackConfig | Suite, precision: str = "float32", *, cycles: bool = True, batch_size: int = 0
    ) -> Callable[[Split], Verdicts]:
        """A function that evaluates a block as in user code, in batches of `batch_size` or at once."""

        def run(block: Split) -> Verdicts:
            return evaluate(
                self.model,
                block.images,
                block.labels,
                attack=attack,
                rows=block.rows,
                precision=precision,
                batch_size=batch_size or len(block),
                cycles=cycles,
            )

        return run

    def run(self, contenders: Mapping[str, Callable[[Split], T]], blocks: Sequence[Split] = ()) -> Measured[T]:
        """Time contenders that take turns, on all images or on the given blocks."""
        return interleaved(contenders, blocks or self.images.blocks, repeats=self.repeats, device=self.device)

    def correct_batch(self, size: int) -> Split:
        """At most `size` correctly classified images, because some attacks skip the others."""
        with torch.no_grad():
            right = [is_correct(self.model(x), y) for x, y in map(self.unit, self.images.blocks)]
        return self.images.whole().take(torch.cat(right).cpu().nonzero().squeeze(1)[:size])


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """Paired speed-ups: the other's seconds divided by ours."""

    median: float
    least: float
    most: float
    pairs: int

    @classmethod
    def of(cls, ours: Sequence[float], other: Sequence[float]) -> "Speedup":
        ratios = [theirs / mine for mine, theirs in zip(ours, other, strict=True)]
        return cls(median=median(ratios), least=min(ratios), most=max(ratios), pairs=len(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.least:.2f}-{self.most:.2f})"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One row of a table: our seconds and the other's, turn by turn, and the target speed-up."""

    what: str
    ours: list[float]
    other: list[float]
    target: float | None = None
    accuracy: str = ""

    @property
    def speedup(self) -> Speedup:
        return Speedup.of(self.ours, self.other)

    def cells(self) -> list[str]:
        goal = "" if self.target is None else f">= {self.target:g}x"
        reached = "" if self.target is None else yes_or_no(self.speedup.median >= self.target)
        seconds = [f"{median(times):.3g}" for times in (self.ours, self.other)]
        return [self.what, *seconds, str(self.speedup), goal, reached, self.accuracy]

    def describe(self) -> dict[str, Any]:
        return asdict(self) | {"speedup": asdict(self.speedup)}


@dataclass(frozen=True)
class Report:
    """The result of one part."""

    title: str
    comparisons: list[Comparison]
    seconds: Mapping[str, list[float]]
    details: Mapping[str, Any]

    def show(self) -> None:
        columns = ("", "ours s", "other s", "speed-up (min-max)", "target", "met", "accuracy")
        table(self.title, columns, [comparison.cells() for comparison in self.comparisons])

    def describe(self) -> dict[str, Any]:
        lines = [comparison.describe() for comparison in self.comparisons]
        return {"title": self.title, "comparisons": lines, "seconds": self.seconds, **self.details}
