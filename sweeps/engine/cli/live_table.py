"""The table of trials that is shown while a sweep runs, derived from the records."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.table import Table

from sweeps.engine.cli.text import PLAIN_INTERVAL
from sweeps.engine.storage.periodic import every
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import TrialStatus
from sweeps.engine.sweep.spec import Sweep, Trial

MASKING_STYLES = {"clear": "green", "suspect": "yellow", "masked": "red"}
MOST_ROWS = 30
WIDTHS = {
    "trial": 9,
    "budget": 7,
    "epoch": 5,
    "clean": 5,
    "robust": 6,
    "left": 4,
}  # minimum column widths


class StatusBoard:
    """The trials of a sweep and their status."""

    def __init__(self, sweep: Sweep, folder: SweepFolder) -> None:
        self.sweep, self.folder = sweep, folder

    def all(self) -> list[tuple[Trial, TrialStatus]]:
        """All trials with their status, in the sweep's order."""
        return self.folder.statuses(self.sweep)


@contextmanager
def live_table(
    sweep: Sweep, folder: SweepFolder, console: Console, *, concurrent: int, expected: int | None = None
) -> Iterator[None]:
    """Show the table while the body runs: in place on a terminal, else printed every few seconds.

    `expected` is the total number of trials, if not all are known yet.
    """
    board = StatusBoard(sweep, folder)
    began = time.time()

    def table() -> Table:
        return status_table(board, began, concurrent, expected)

    if console.is_terminal:
        with Live(get_renderable=table, console=console, refresh_per_second=2):
            yield
        return
    try:
        with every(PLAIN_INTERVAL, lambda: console.print(table()), name="table"):
            yield
    finally:
        console.print(table())


def status_table(board: StatusBoard, began: float, concurrent: int, expected: int | None = None) -> Table:
    """The table: trial, budget, seed, epoch, accuracies, state and time left."""
    rows = board.all()
    estimate = _TimeEstimate(rows, time.time())
    to_come = max((expected or 0) - len(rows), 0)
    left = estimate.all_left(concurrent, to_come)
    done = sum(status.phase in {"finished", "stopped"} for _, status in rows)
    title = f"{board.sweep.name}: {done} of {len(rows) + to_come} trials done, {_duration(time.time() - began)} elapsed"
    table = Table(
        title=title + (f", about {_duration(left)} left" if left is not None and left > 0 else ""), title_justify="left"
    )
    table.caption, table.caption_justify = _caption(rows), "left"
    named = ("trial", "budget") if board.sweep.open else ("recipe", "budget", "seed")
    for column in (*named, "epoch", "clean", "robust", "state", "left"):
        justify: JustifyMethod = "left" if column in {"trial", "recipe", "state"} else "right"
        table.add_column(column, justify=justify, no_wrap=True, min_width=WIDTHS.get(column))
    for trial, status in _visible_rows(rows):
        clean, robust = _accuracies(status)
        pixels = board.sweep.budget_in_pixels(trial)
        budget = f"{pixels:.3g} px" if pixels else "-"
        table.add_row(
            *((trial.id, budget) if board.sweep.open else (trial.config.recipe.name, budget, str(trial.config.seed))),
            f"{len(status.epochs)}/{trial.config.train.epochs}",
            clean,
            robust,
            _state(status),
            estimate.left(trial, status),
        )
    return table


def _visible_rows(rows: list[tuple[Trial, TrialStatus]]) -> list[tuple[Trial, TrialStatus]]:
    """All rows; if there are many, only the running trials and the last ones that ended."""
    if len(rows) <= MOST_ROWS:
        return rows
    at_work = {trial.id for trial, status in rows if status.phase in {"training", "attacking"}}
    others = sorted((s.ended or 0.0, trial.id) for trial, s in rows if trial.id not in at_work and s.done)
    kept = at_work | {trial_id for _, trial_id in others[len(at_work) - MOST_ROWS :]}
    return [row for row in rows if row[0].id in kept]


def _caption(rows: list[tuple[Trial, TrialStatus]]) -> str:
    """What the robust accuracies mean."""
    steps = sorted({trial.config.train.val_steps for trial, _ in rows})
    parts = [f"grey: validation, PGD-{'/'.join(map(str, steps))}, not verified"]
    results = [status.result for _, status in rows if status.result]
    if results:
        suites = {f"{result['suite']} ({result.get('split', 'test')}, n = {result['robust_n']})" for result in results}
        parts.insert(0, f"robust: worst of {' / '.join(sorted(suites))}")
    return "; ".join(parts)


def _accuracies(status: TrialStatus) -> tuple[str, str]:
    if status.result:
        return f"[bold]{status.result['clean_acc']:.1%}[/]", f"[bold]{status.result['robust_acc']:.1%}[/]"
    last = status.epochs[-1] if status.epochs else {}
    clean, robust = (
        f"[dim]{last[name]:.1%}[/]" if name in last else "" for name in ("val_clean_acc", "val_robust_acc")
    )
    return clean, robust


def masking_style(masking_status: str) -> str:
    """The masking status with its colour."""
    return f"[{MASKING_STYLES[masking_status]}]{masking_status}[/]"


def _state(status: TrialStatus) -> str:
    if status.phase == "attacking" and status.attack:
        return f"attacking {status.attack['done']}/{status.attack['of']}"
    if status.phase == "failed":
        return f"[red]failed[/]: {status.reason.partition(':')[0]}"
    notes = "" if status.collapsed is None else f", [red]collapsed at {status.collapsed}[/]"
    notes += f", [yellow]{len(status.passed_over)} skipped[/]" if status.passed_over else ""
    notes += ", reused" if status.reused else ""
    if status.result:
        return f"done, {masking_style(status.result['verdict'])}{notes}"
    if status.phase == "stopped":
        return f"stopped at {len(status.epochs)}{notes}"
    if status.phase == "training":
        return f"training (val){f', attempt {status.attempts}' if status.attempts > 1 else ''}{notes}"
    return status.phase


class _TimeEstimate:
    """Estimates the time left from the durations of finished trials and of each trial's own epochs."""

    def __init__(self, rows: list[tuple[Trial, TrialStatus]], now: float) -> None:
        self.rows, self.now = rows, now
        ends = [s for _, s in rows if s.phase == "finished" and s.attack_started and s.ended and s.attempts == 1]
        self.attack = statistics.fmean([(s.ended or 0) - (s.attack_started or 0) for s in ends]) if ends else None
        over = ends + [s for _, s in rows if s.phase == "stopped" and s.ended and s.attempts == 1]
        self.whole = statistics.fmean([(s.ended or 0) - (s.started or 0) for s in over]) if ends else None

    def seconds(self, trial: Trial, status: TrialStatus) -> float | None:
        if status.done:
            return 0.0
        if status.phase == "waiting":
            return self.whole
        if self.attack is None:
            return None
        if status.phase == "attacking":
            return max(self.attack - (self.now - (status.attack_started or self.now)), 0.0)
        if not status.epochs:
            return self.whole
        pace = statistics.fmean([epoch["seconds"] for epoch in status.epochs])
        since = self.now - status.epochs[-1]["time"]
        return max(pace * (trial.config.train.epochs - len(status.epochs)) - since, 0.0) + self.attack

    def left(self, trial: Trial, status: TrialStatus) -> str:
        seconds = self.seconds(trial, status)
        if status.done or status.phase == "waiting":
            return ""
        return "?" if seconds is None else _duration(seconds)

    def all_left(self, concurrent: int, to_come: int) -> float | None:
        each = [self.seconds(trial, status) for trial, status in self.rows] + [self.whole] * to_come
        known = [seconds for seconds in each if seconds is not None]
        return sum(known) / max(concurrent, 1) if len(known) == len(each) else None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
