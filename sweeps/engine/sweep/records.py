"""A trial's record: JSON lines, one event each, flushed to disk before anything goes on.

Records are the truth about a sweep; the table, the figure and MLflow are drawn from them.
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

from bat_core.jsontext import read_json
from sweeps.engine.storage.files import drop_torn_line
from sweeps.engine.storage.retry import retry_storage

RECORD = "record.jsonl"
VERDICTS = "verdicts.parquet"
VERIFIED = "verified.parquet"

Phase: TypeAlias = Literal["waiting", "training", "attacking", "paused", "finished", "stopped", "failed"]
Event: TypeAlias = dict[str, Any]

NEEDS: dict[str, dict[str, type]] = {  # what an event must say, and how, for a trial's status to follow from it
    "start": {},
    "epoch": {"epoch": int},
    "attack": {"done": int, "of": int},
    "paused": {"epoch": int, "batch": int},
    "finished": {},
    "stopped": {"reason": str},
    "failed": {"reason": str},
    "reused": {"sweep": str, "trial": str},
}
# Numbers of an epoch and of a result: finite, wherever they stand.
NUMBERS = ("lr", "train_loss", "train_acc", "val_clean_acc", "val_robust_acc", "val_one_step_acc", "seconds")
RESULTS = ("clean_acc", "pgd_acc", "robust_acc", "n", "robust_n")


class Record:
    """Appends events to `<folder>/record.jsonl`, each durable before `append` returns.

    `then` is called after each line that was written.
    """

    def __init__(self, folder: Path, then: Callable[[], None] = lambda: None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._then = folder / RECORD, then
        drop_torn_line(self.path)

    def append(self, event: str, **fields: Any) -> None:
        """Write one event with the present time (Unix seconds).

        Raises:
            StorageError: the storage did not take it, for as long as it is waited for.
        """
        line = _line(event, fields)
        retry_storage(lambda: self._write(line), f"{RECORD} cannot be written", self.path.parent)
        self._then()

    def fail(self, reason: str) -> None:
        """Say why the trial failed, if the storage takes it now: it may be the storage that failed."""
        with contextlib.suppress(OSError):
            self._write(_line("failed", {"reason": reason}))
            self._then()

    def _write(self, line: bytes) -> None:
        drop_torn_line(self.path)
        with self.path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):  # then the next line's writer cuts it off
                    file.truncate(end)
                raise


@dataclass(frozen=True)
class TrialStatus:
    """What a record says of its trial so far.

    `collapsed` is the first epoch lost to catastrophic overfitting. `passed_over` are checkpoints that could not be
    gone on from, and why: damaged, or of another config. `reused` is the sweep and trial that it was taken from, where
    it was finished already. `unread` is the number of lines that are damaged.
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
        """Nothing more will come without a new attempt."""
        return self.phase in {"finished", "stopped", "failed"}


def read_status(folder: Path) -> TrialStatus:
    """The state of the trial whose record lies in `folder`; "waiting" where there is none."""
    events, unread = _read(folder)
    status = TrialStatus(unread=unread)
    for event in events:
        status = _after(status, event)
    return status


def read_events(folder: Path) -> list[Event]:
    """All events that can be read.

    A line that a crash cut short is passed over, and so is one that a failing disk damaged: each line
    stands for itself, so that the others stay true. What a lost line said is done again where it must be
    (a trial whose "finished" is lost runs again), and `TrialStatus.unread` says that there is one.
    """
    return _read(folder)[0]


def unread_lines(statuses: Mapping[str, TrialStatus]) -> str | None:
    """Where records are damaged, by their trials' ids, in a sentence; None where none is."""
    damaged = {name: status.unread for name, status in statuses.items() if status.unread}
    if not damaged:
        return None
    lines = ", ".join(f"{count} in trial {name}" for name, count in damaged.items())
    return f"damaged lines of records are passed over: {lines}; what they said is lost, all else holds"


def _read(folder: Path) -> tuple[list[Event], int]:
    """The sound events, and how many whole lines hold none."""
    try:
        content = (folder / RECORD).read_bytes()
    except FileNotFoundError:
        return [], 0
    lines = content.split(b"\n")[:-1]
    events = [event for line in lines if (event := _event(line)) is not None]
    return events, len(lines) - len(events)


def _event(line: bytes) -> Event | None:
    """What one line says; None if it is no event of ours."""
    try:
        event = read_json(line)
    except ValueError:
        return None
    if not isinstance(event, dict) or not isinstance(kind := event.get("event"), str):
        return None
    sound = all(type(event.get(name)) is needed for name, needed in NEEDS.get(kind, {}).items())
    sound &= type(event.get("passed_over", {})) is dict
    numbers = [event.get("time"), *(event[name] for name in (*NUMBERS, *RESULTS) if name in event)]
    return event if sound and all(map(_is_finite, numbers)) else None


def _is_finite(value: Any) -> bool:
    return (type(value) is int and abs(value) < 2**63) or (isinstance(value, float) and math.isfinite(value))


def _after(status: TrialStatus, event: Event) -> TrialStatus:
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
            changes = {"epochs": (*before, event)}  # an epoch that had to be run again stands for what it was
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
