"""A trial's record: JSON lines, one event each, flushed to disk before the trial continues.

Records are the source of truth about a sweep. The table, the figure and MLflow are derived from them.
"""

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from bat_core.errors import InputError
from bat_core.jsontext import read_json
from bat_core.masking.flags import MASKING_STATUSES
from bat_core.paths import Rooted, append_to, below, drop_torn_line, make_folder, read_regular
from sweeps.engine.storage.retry import retry_storage

RECORD = "record.jsonl"
VERDICTS = "verdicts.parquet"
VERIFIED = "verified.parquet"

Phase: TypeAlias = Literal["waiting", "training", "attacking", "paused", "finished", "stopped", "failed"]
Event: TypeAlias = dict[str, Any]

REQUIRED_FIELDS: dict[str, dict[str, type]] = {  # the fields and types that each event must have
    "start": {},
    "epoch": {"epoch": int},
    "attack": {"done": int, "of": int},
    "paused": {"epoch": int, "batch": int},
    "finished": {},
    "stopped": {"reason": str},
    "failed": {"reason": str},
    "reused": {"sweep": str, "trial": str},
}
# Numeric fields of epochs and results. They must be finite.
NUMBERS = ("lr", "train_loss", "train_acc", "val_clean_acc", "val_robust_acc", "val_one_step_acc", "seconds")
TEXTS = ("suite", "verdict", "split", "hash", "reason", "sweep", "trial")
TABLES = ("passed_over", "versions")  # fields that are objects whose values are texts
RESULTS = ("clean_acc", "pgd_acc", "robust_acc", "n", "robust_n")


class Record:
    """Appends events to `<folder>/record.jsonl`, each durable before `append` returns.

    `on_write` is called after each written line.
    """

    def __init__(self, folder: Rooted, on_write: Callable[[], None] = lambda: None) -> None:
        make_folder(folder)
        self.path, self._on_write = below(folder, RECORD), on_write
        drop_torn_line(self.path)

    def append(self, event: str, **fields: Any) -> None:
        """Write one event with the current time (Unix seconds).

        Raises:
            StorageError: the write still failed after all retries.
        """
        line = _line(event, fields)
        retry_storage(lambda: self._write(line), f"{RECORD} cannot be written", self.path.parent)
        self._on_write()

    def fail(self, reason: str) -> None:
        """Record why the trial failed. Makes one attempt, since storage itself may be the cause."""
        with contextlib.suppress(OSError):
            self._write(_line("failed", {"reason": reason}))
            self._on_write()

    def _write(self, line: bytes) -> None:
        drop_torn_line(self.path)
        with append_to(self.path) as file:
            end = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):  # the next write truncates the line instead
                    file.truncate(end)
                raise


@dataclass(frozen=True)
class TrialStatus:
    """A trial's status, derived from its record.

    `collapsed` is the first epoch lost to catastrophic overfitting. `passed_over` maps each checkpoint that could not
    be resumed from to the reason: damaged, or of another config. `reused` names the sweep and trial that a reused
    trial was copied from. `unread` is the number of damaged lines.
    """

    phase: Phase = "waiting"
    epochs: tuple[Event, ...] = ()
    attack: Event | None = None
    started: float | None = None
    attack_started: float | None = None
    ended: float | None = None
    attempts: int = 0
    reason: str = ""
    collapsed: int | None = None
    passed_over: Mapping[str, str] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    reused: str | None = None
    unread: int = 0

    @property
    def done(self) -> bool:
        """Whether the trial has ended. Only a new attempt changes its status."""
        return self.phase in {"finished", "stopped", "failed"}


def read_status(folder: Path) -> TrialStatus:
    """The status of the trial in `folder`; "waiting" if it has no record."""
    events, unread = _read(folder)
    status = TrialStatus(unread=unread)
    for event in events:
        status = _apply(status, event)
    return status


def read_events(folder: Path) -> list[Event]:
    """All readable events.

    Lines that a crash truncated or a failing disk damaged are skipped. Lines are independent, so the others stay
    valid. Lost work runs again where necessary (a trial without its "finished" line runs again), and
    `TrialStatus.unread` counts the damaged lines.
    """
    return _read(folder)[0]


def unread_lines(statuses: Mapping[str, TrialStatus]) -> str | None:
    """A sentence that names the trials with damaged records; None if there are none."""
    damaged = {name: status.unread for name, status in statuses.items() if status.unread}
    if not damaged:
        return None
    lines = ", ".join(f"{count} in trial {name}" for name, count in damaged.items())
    return f"skipped damaged record lines: {lines}; their events are lost, all others are intact"


def _read(folder: Path) -> tuple[list[Event], int]:
    """The valid events, and the number of complete lines that are not valid events."""
    try:
        content = read_regular(below(folder, RECORD))
    except (FileNotFoundError, NotADirectoryError):
        return [], 0
    lines = content.split(b"\n")[:-1]
    events = [event for line in lines if (event := _event(line)) is not None]
    return events, len(lines) - len(events)


def _event(line: bytes) -> Event | None:
    """The event in one line; None if it is invalid."""
    try:
        event = read_json(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(kind := event.get("event"), str):
        return None
    valid = all(type(event.get(name)) is required for name, required in REQUIRED_FIELDS.get(kind, {}).items())
    numbers = [event.get("time"), *(event[name] for name in (*NUMBERS, *RESULTS) if name in event)]
    return _Line(event) if valid and _has_types(event) and all(map(_is_finite, numbers)) else None


class _Line(dict[str, Any]):
    """A line of a record. A field that it lacks is an error of whoever wrote the record."""

    def __missing__(self, name: str) -> Any:
        raise InputError(f"a record's line {self.get('event')!r} has no {name!r}: the record is damaged")


def _has_types(event: Event) -> bool:
    """Whether the texts in a line are texts, and its masking status is one that this program knows."""
    texts = [event[name] for name in TEXTS if name in event]
    tables, flags = [event.get(name, {}) for name in TABLES], event.get("flags", [])
    if not isinstance(flags, list) or not all(isinstance(table, dict) for table in tables):
        return False
    texts += [*flags, *(text for table in tables for text in table.values())]
    return all(isinstance(text, str) for text in texts) and event.get("verdict", "clear") in MASKING_STATUSES


def _is_finite(value: Any) -> bool:
    return (type(value) is int and abs(value) < 2**63) or (isinstance(value, float) and math.isfinite(value))


def _apply(status: TrialStatus, event: Event) -> TrialStatus:
    changes: dict[str, Any] = {}
    match event["event"]:
        case "start":
            changes = {
                "phase": "training",
                "attempts": status.attempts + 1,
                "started": status.started or event["time"],
                "attack": None,
                "ended": None,
                "reason": "",
                "passed_over": {**status.passed_over, **event.get("passed_over", {})},
            }
        case "epoch":
            before = tuple(epoch for epoch in status.epochs if epoch["epoch"] < event["epoch"])
            changes = {"epochs": (*before, event)}  # a repeated epoch replaces the earlier one
            if event.get("collapsed") and status.collapsed is None:
                changes["collapsed"] = event["epoch"]
        case "attack":
            first = status.phase != "attacking"
            changes = {"phase": "attacking", "attack": event}
            if first:
                changes["attack_started"] = event["time"]
        case "paused":
            changes = {"phase": "paused", "reason": f"after {event['batch']} batches of epoch {event['epoch'] + 1}"}
        case "finished":
            changes = {"phase": "finished", "ended": event["time"], "result": event}
        case "stopped":
            changes = {"phase": "stopped", "ended": event["time"], "reason": event["reason"]}
        case "reused":
            changes = {"reused": f"{event['sweep']}/{event['trial']}"}
        case "failed":
            changes = {"phase": "failed", "ended": event["time"], "reason": event["reason"]}
    return replace(status, **changes)


def _line(event: str, fields: Mapping[str, Any]) -> bytes:
    return json.dumps({"event": event, "time": time.time(), **fields}, allow_nan=False).encode() + b"\n"
