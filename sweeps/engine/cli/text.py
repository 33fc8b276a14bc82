"""Formats text for users: lines, counts, percentages and progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bat_core.norms import LINF, Unit
from sweeps.engine.storage.periodic import every

PLAIN_INTERVAL = 15.0  # seconds between progress reports if the output is not a terminal
UNVERIFIED_MARK = "~"  # before a robust accuracy that no verifying suite has seen
UNVERIFIED_HEAD = f"{UNVERIFIED_MARK}not ver."  # of the column of such numbers
BAR_INTERVAL = 0.5  # seconds between updates of a progress bar


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line verbatim: no wrapping, no markup, no colour except `style`."""
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def counted(count: int, noun: str, plural: str = "") -> str:
    """A count with its noun: 1 seed, 2 seeds."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"


def count_of(count: int, noun: str) -> str:
    """Like `counted`, but "no trial" for 0."""
    return counted(count, noun) if count else f"no {noun}"


def percent(share: float) -> str:
    """A fraction as a percentage: 45.5%."""
    return f"{share:.1%}"


def percent_range(low: float, high: float) -> str:
    """An interval of fractions: 38.8%-52.4%."""
    return f"{percent(low)}-{percent(high)}"


def with_interval(share: float, interval: tuple[float, float]) -> str:
    """A fraction with its interval: 45.5% (38.8-52.4)."""
    low, high = interval
    return f"{percent(share)} ({100 * low:.1f}-{100 * high:.1f})"


def budget(value: float, unit: Unit) -> str:
    """An amount in [0, 1] as text, such as 40/255 (8 px), or L2 0.4."""
    if unit.norm != LINF:
        return unit.budget(value)
    return f"{255 * value:.4g}/255 ({unit.amount(value, 3)})"


def span(hours: float) -> str:
    """A duration in hours, minutes or seconds, whichever fits."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


@contextmanager
def progress(console: Console, *, total: float, done: Callable[[], float], doing: Callable[[], str]) -> Iterator[None]:
    """Show a progress bar while the body runs, or periodic lines if the output is not a terminal.

    Args:
        total: the value of `done` at the end.
        done: returns the progress so far.
        doing: returns a description of the current work.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task("attacking", total=total)
    bar.tasks[0].completed = done()  # `update` would count it as new work and distort the time left

    def update() -> None:
        now = done()
        bar.update(task, completed=now, description=doing())
        if not console.is_terminal:
            left = bar.tasks[0].time_remaining
            remaining = "" if left is None else f", about {round(left)} s left"
            console.print(f"{doing()}: {now / total:.0%}{remaining}", highlight=False)

    with bar, every(BAR_INTERVAL if console.is_terminal else PLAIN_INTERVAL, update, name="progress"):
        yield
    bar.update(task, completed=done())
