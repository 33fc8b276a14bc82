"""Charts as inline SVG: points, lines and intervals with a text each, and series that can be switched off."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from bat_core.suites import is_verified
from sweeps.engine.cli.text import percent, percent_range

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 44
ROW = 26  # height of a row of names
NAMES = 190  # width of the names at the left
LONGEST_NAME = 28
STYLES = 8  # colours, marks and dashes before they repeat


@dataclass(frozen=True)
class Mark:
    """A point with its interval, if any, and the text that is shown for it."""

    x: float
    y: float
    tip: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Series:
    """Marks of one kind. `line` joins them; `hollow` is for numbers that no verifying suite has seen."""

    name: str
    marks: Sequence[Mark]
    line: bool = False
    hollow: bool = False


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis from `low` to `high`. Ticks are (value, label). `log` places values by their logarithm."""

    title: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value is on the axis, in [0, 1]."""
        low, high, at = (math.log(one) if self.log else one for one in (self.low, self.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0) if high > low else 0.5


def percent_axis(title: str, values: Sequence[float]) -> Axis:
    """An axis of shares in [0, 1] that shows all values, with a tick every 10 or 20 points."""
    low, high = min([*values, 1.0]), max([*values, 0.0])
    step = 0.1 if high - low <= 0.6 else 0.2
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    first, last = (first, last) if last > first else (first, first + 1)
    ticks = [(number * step, f"{100 * number * step:.0f}%") for number in range(first, last + 1)]
    return Axis(title=title, low=first * step, high=last * step, ticks=ticks)


def steps_axis(title: str, steps: Sequence[int]) -> Axis:
    """A logarithmic axis of numbers of attack steps, with a tick at each that has room."""
    ticks: list[int] = []
    for step in sorted(steps):
        if not ticks or step >= 1.9 * ticks[-1]:
            ticks.append(step)
    low, high = min(steps), max(steps)
    shown = [(float(step), str(step)) for step in ticks]
    return Axis(title=title, low=low, high=high if high > low else low + 1, ticks=shown, log=True)


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Series over two axes. With `names`, y is the number of a row and each row has a name."""

    kind: ClassVar[str] = "chart"
    heading: str
    x: Axis
    y: Axis | None
    series: Sequence[Series]
    note: str = ""
    names: Sequence[str] = ()

    @property
    def width(self) -> int:
        return WIDTH

    @property
    def height(self) -> int:
        return TOP + BOTTOM + ROW * len(self.names) if self.names else HEIGHT

    @property
    def left(self) -> int:
        return NAMES if self.names else LEFT

    @property
    def right(self) -> int:
        return WIDTH - RIGHT

    @property
    def bottom(self) -> int:
        return self.height - BOTTOM

    @property
    def top(self) -> int:
        return TOP

    def across(self, value: float) -> float:
        """The horizontal position of a value."""
        return round(self.left + self.x.share(value) * (self.right - self.left), 1)

    def up(self, value: float) -> float:
        """The vertical position of a value, or of the row of that number."""
        if self.y is None:
            return round(TOP + ROW * (value + 0.5), 1)
        return round(self.bottom - self.y.share(value) * (self.bottom - TOP), 1)

    def path(self, series: Series) -> str:
        """The line through a series' marks."""
        return "M" + " L".join(f"{self.across(mark.x)} {self.up(mark.y)}" for mark in series.marks)

    def shape(self, number: int, mark: Mark) -> str:
        """The path of a mark: a circle, square, diamond or triangle, by the number of its series."""
        return f"M{self.across(mark.x)} {self.up(mark.y)} {self.outline(number)}"

    def outline(self, number: int) -> str:
        """The outline of a series' marks around where a path is."""
        return SHAPES[number % len(SHAPES)]

    def style(self, number: int) -> int:
        """The number of a series' colour and dash."""
        return number % STYLES

    def shortened(self, name: str) -> str:
        """A row's name, cut where it is too long; its whole text is shown for it."""
        return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


SHAPES = (
    "m-4 0 a4 4 0 1 0 8 0 a4 4 0 1 0 -8 0z",
    "m-3.6 -3.6 h7.2 v7.2 h-7.2z",
    "m0 -5 l5 5 l-5 5 l-5 -5z",
    "m0 -4.6 l4.4 8 h-8.8z",
)


@dataclass(frozen=True, kw_only=True)
class Accuracies:
    """A model's clean and robust accuracy in [0, 1], the robust one with its interval, suite and masking status."""

    name: str
    clean: float
    robust: float
    interval: tuple[float, float]
    suite: str
    verdict: str


def accuracies_chart(title: str, models: Sequence[Accuracies]) -> Chart:
    """One row per model: its clean accuracy, and its robust one as a mark of those that are verified or are not."""
    clean: list[Mark] = []
    kinds: dict[bool, list[Mark]] = {True: [], False: []}
    for row, one in enumerate(models):
        low, high = one.interval
        clean.append(Mark(one.clean, row, f"{one.name}: clean {percent(one.clean)}"))
        robust = f"{percent(one.robust)} ({percent_range(low, high)}) under {one.suite}"
        mark = Mark(one.robust, row, f"{one.name}: {robust}, {one.verdict}", max(low, 0), min(high, 1))
        kinds[is_verified(one.suite)].append(mark)
    series = [
        Series(name="clean", marks=clean),
        Series(name="robust, verified", marks=kinds[True]),
        Series(name="robust, not verified", marks=kinds[False], hollow=True),
    ]
    shown = [one for one in series if one.marks]
    return rows_chart("Clean and robust accuracy", title, shown, [one.name for one in models])


def rows_chart(heading: str, title: str, series: Sequence[Series], names: Sequence[str], note: str = "") -> Chart:
    """One row per name, with a mark per series at its share in [0, 1]. A mark's y is the number of its row."""
    values = [value for one in series for mark in one.marks for value in (mark.x, mark.low, mark.high)]
    axis = percent_axis(title, [value for value in values if value is not None])
    return Chart(heading=heading, x=axis, y=None, series=series, names=names, note=note)
