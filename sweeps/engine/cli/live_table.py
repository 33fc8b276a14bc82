"""The table of trials that is shown while a sweep runs, derived from the records."""

import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.live import Live
from rich.table import Table

from bat_core.masking.flags import NOTHING_TO_MASK, status_in_words
from bat_core.suites import is_verified
from sweeps.engine.cli.text import PLAIN_INTERVAL, UNVERIFIED_MARK, counted, percent, say
from sweeps.engine.storage.periodic import every
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import TrialStatus
from sweeps.engine.sweep.spec import Sweep, Trial

MASKING_STYLES = {"clear": "green", "suspect": "yellow", "masked": "red", NOTHING_TO_MASK: "none"}
MOST_ROWS = 30
PGD = f"{UNVERIFIED_MARK}PGD"  # the column of numbers that no verifying suite has seen
WIDTHS = {"trial": 9, "budget": 7, "epoch": 5, "clean": 6, "verified": 8, PGD: 6, "left": 4}  # minimum column widths
AROUND = 9  # lines of a table that are no rows: title, heads, caption
FEWEST_ROWS = 3


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
    """Show the table while the body runs: in place on a terminal; elsewhere a line for each change, then the table.

    `expected` is the total number of trials, if not all are known yet.
    """
    board = StatusBoard(sweep, folder)
    began = time.time()

    def table() -> Table:
        most = max(console.height - AROUND, FEWEST_ROWS) if console.is_terminal else MOST_ROWS
        return status_table(board, began, concurrent, expected, most=min(most, MOST_ROWS))

    if console.is_terminal:
        with Live(get_renderable=table, console=console, refresh_per_second=2):
            yield
        return
    changes = Changes(board, expected)

    def tell() -> None:
        for line in changes.lines():
            say(console, line)

    try:
        with every(PLAIN_INTERVAL, tell, name="table"):
            yield
    finally:
        tell()
        console.print(table())


class Changes:
    """What has happened to the trials since it was last asked, one line each: started, attacked, ended."""

    def __init__(self, board: StatusBoard, expected: int | None) -> None:
        self._board, self._expected = board, expected
        self._known = {trial.id: _phase(status) for trial, status in board.all()}

    def lines(self) -> list[str]:
        """The changes, with how many trials are done."""
        rows = self._board.all()
        done = sum(status.phase in {"finished", "stopped"} for _, status in rows)
        of = max(self._expected or 0, len(rows))
        changed = [(trial, s) for trial, s in rows if self._known.get(trial.id, ("waiting", 0)) != _phase(s)]
        self._known = {trial.id: _phase(status) for trial, status in rows}
        return [f"{done} of {of} done; {trial.id}: {_happened(status)}" for trial, status in changed]


def _phase(status: TrialStatus) -> tuple[str, int]:
    return status.phase, status.attempts


def _happened(status: TrialStatus) -> str:
    """A trial's state in one line without markup."""
    if status.result is not None:
        clean, verified, pgd = _numbers(status)
        robust = f"{verified} verified" if verified else f"{pgd} not verified"
        return f"finished, clean {clean}, robust {robust}, {_verdict(status.result)}"
    if status.phase == "failed":
        return f"failed: {status.reason.partition(':')[0]}"
    if status.phase == "training" and status.attempts > 1:
        return f"training, attempt {status.attempts}"
    if status.bound is not None:
        return f"not verified: {status.reason}"
    return f"stopped after {counted(len(status.epochs), 'epoch')}" if status.phase == "stopped" else status.phase


def status_table(
    board: StatusBoard, began: float, concurrent: int, expected: int | None = None, *, most: int = MOST_ROWS
) -> Table:
    """The table: trial, budget, seed, epoch, accuracies, state and time left. At most `most` rows."""
    rows = board.all()
    estimate = _TimeEstimate(rows, time.time())
    to_come = max((expected or 0) - len(rows), 0)
    left = estimate.all_left(concurrent, to_come)
    done = sum(status.phase in {"finished", "stopped"} for _, status in rows)
    title = f"{board.sweep.name}: {done} of {len(rows) + to_come} trials done, {_duration(time.time() - began)} elapsed"
    table = Table(
        title=title + (f", about {_duration(left)} left" if left is not None and left > 0 else ""),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.caption, table.caption_justify = _caption(rows), "left"
    named = ("trial", "budget") if board.sweep.open else ("recipe", "budget", "seed")
    for column in (*named, "epoch", "clean", "verified", PGD, "state", "left"):
        justify: JustifyMethod = "left" if column in {"trial", "recipe", "state"} else "right"
        table.add_column(column, justify=justify, no_wrap=True, min_width=WIDTHS.get(column))
    for trial, status in _visible_rows(rows, most):
        clean, verified, pgd = _numbers(status)
        budget = board.sweep.training_budget(trial) or "-"
        table.add_row(
            *((trial.id, budget) if board.sweep.open else (trial.config.recipe.name, budget, str(trial.config.seed))),
            f"{len(status.epochs)}/{trial.config.train.epochs}",
            f"[bold]{clean}[/]" if status.result else f"[dim]{clean}[/]",
            f"[bold]{verified}[/]",
            f"[dim]{pgd}[/]",
            _state(status),
            estimate.left(trial, status),
        )
    return table


def _visible_rows(rows: list[tuple[Trial, TrialStatus]], most: int) -> list[tuple[Trial, TrialStatus]]:
    """All rows; if there are many, only the running trials and the last ones that ended."""
    if len(rows) <= most:
        return rows
    at_work = {trial.id for trial, status in rows if status.phase in {"training", "attacking"}}
    others = sorted((s.ended or 0.0, trial.id) for trial, s in rows if trial.id not in at_work and s.done)
    room = max(most - len(at_work), 0)
    kept = at_work | {trial_id for _, trial_id in others[len(others) - room :]}
    return [row for row in rows if row[0].id in kept][:most]


def _caption(rows: list[tuple[Trial, TrialStatus]]) -> str:
    """What the robust accuracies mean."""
    steps = sorted({trial.config.train.val_steps for trial, _ in rows})
    parts = [f"{UNVERIFIED_MARK}: not verified; while training on validation images, PGD-{'/'.join(map(str, steps))}"]
    results = [status.result for _, status in rows if status.result]
    if results:
        suites = {f"{result['suite']} ({result.get('split', 'test')}, n = {result['robust_n']})" for result in results}
        parts.insert(0, f"worst of {' / '.join(sorted(suites))}")
    return "; ".join(parts)


def _numbers(status: TrialStatus) -> tuple[str, str, str]:
    """Clean accuracy, verified robust accuracy, and the one that no verifying suite has seen; of both one is empty.

    What training measures on validation images is marked, clean accuracy too.
    """
    if status.result:
        clean, robust = percent(status.result["clean_acc"]), percent(status.result["robust_acc"])
        return (clean, robust, "") if is_verified(status.result["suite"]) else (clean, "", f"{UNVERIFIED_MARK}{robust}")
    last = status.epochs[-1] if status.epochs else {}
    found = (last.get(name) for name in ("val_clean_acc", "val_robust_acc"))
    clean, robust = ("" if value is None else f"{UNVERIFIED_MARK}{percent(value)}" for value in found)
    return clean, "", robust


def masking_style(masking_status: str) -> str:
    """The masking status with its colour."""
    return f"[{MASKING_STYLES[masking_status]}]{masking_status}[/]"


def _verdict(result: Mapping[str, Any]) -> str:
    return status_in_words(result["verdict"], result["robust_acc"])


def _state(status: TrialStatus) -> str:
    if status.phase == "attacking" and status.attack:
        return f"attacking {status.attack['done']}/{status.attack['of']}"
    if status.phase == "failed":
        return f"[red]failed[/]: {status.reason.partition(':')[0]}"
    notes = "" if status.collapsed is None else f", [red]collapsed at {status.collapsed}[/]"
    notes += f", [yellow]{len(status.passed_over)} skipped[/]" if status.passed_over else ""
    notes += ", reused" if status.reused else ""
    if status.result:
        return f"done, {masking_style(_verdict(status.result))}{notes}"
    if status.phase == "stopped":
        return f"{'off the front' if status.bound is not None else f'stopped at {len(status.epochs)}'}{notes}"
    if status.phase == "training":
        return f"training{f', attempt {status.attempts}' if status.attempts > 1 else ''}{notes}"
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
