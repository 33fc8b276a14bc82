"""Tables in Markdown."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def pipe_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: Iterable[str] | None = None) -> str:
    """A table; columns that are not `words` are set flush right. None stands for all."""
    left = set(head if words is None else words)
    rule = ["---" if name in left else "---:" for name in head]
    return "\n".join([_line(head), _line(rule), *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def say(console: Console, text: str, style: str | None = None) -> None:
    """A line as it is: not wrapped, not coloured but by `style`."""
    console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)


def counted(number: int, noun: str) -> str:
    """1 seed, 2 seeds."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def relative(path: Path) -> str:
    """The path as a person standing in the working folder would write it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


PLAIN_INTERVAL = 15.0  # seconds between two lines of progress where the output is no terminal


@contextmanager
def progress(console: Console, *, total: float, done: Callable[[], float], doing: Callable[[], str]) -> Iterator[None]:
    """A bar with the time left while the body runs; a line now and then where there is no terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task("attacking", total=total)
    bar.tasks[0].completed = done()  # an update would count it as done just now
    stop = threading.Event()

    def watch() -> None:
        interval = 0.5 if console.is_terminal else PLAIN_INTERVAL
        while not stop.wait(interval):
            now = done()
            bar.update(task, completed=now, description=doing())
            if not console.is_terminal:
                left = bar.tasks[0].time_remaining
                words = "" if left is None else f", about {round(left)} s left"
                console.print(f"{doing()}: {now / total:.0%}{words}", highlight=False)

    watcher = threading.Thread(target=watch, daemon=True)
    with bar:
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            bar.update(task, completed=done())
