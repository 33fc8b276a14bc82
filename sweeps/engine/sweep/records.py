"""A trial's record: JSON lines, one event each, flushed to disk before the trial continues.

Records are the source of truth about a sweep. The table, the figure and MLflow are derived from them. They all ask
`read_status`, which keeps each trial's status in this process and parses only what was appended since.
"""

import contextlib
import errno
import json
import math
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from bat_core.errors import InputError
from bat_core.jsontext import read_json
from bat_core.masking.flags import MASKING_STATUSES
from bat_core.paths import Rooted, append_to, below, drop_torn_line, make_folder, open_regular, read_open
from sweeps.engine.storage.retry import retry_storage

RECORD = "record.jsonl"
VERDICTS = "verdicts.parquet"
VERIFIED = "verified.parquet"
VERIFIED_SECOND = "verified_second.parquet"  # of trials that are verified in a second norm too
RESULT_FILES = (VERDICTS, VERIFIED, VERIFIED_SECOND)  # files; not every trial has all of them

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
NUMBERS = (
    *("lr", "train_loss", "train_acc", "val_clean_acc", "val_robust_acc", "val_one_step_acc"),
    *("seconds", "cpu_percent", "memory_mb", "gpu_memory_mb"),
)
TEXTS = ("suite", "verdict", "split", "hash", "reason", "sweep", "trial")
TABLES = ("passed_over", "versions")  # fields that are objects whose values are texts
RESULTS = ("clean_acc", "pgd_acc", "robust_acc", "n", "robust_n", "robust_bound")
TAIL = 512  # bytes before the end of what was read, by which a record is known to have only grown
MOST_KNOWN = 200_000  # records whose status is kept


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
    trial was copied from. `unread` is the number of damaged lines. `spans` are (begin, end) of each attempt, from its
    start to its last event, in Unix seconds. `bound` is the event of a trial that was stopped before it was verified,
    with its `clean_acc` and what its verified accuracy cannot exceed (`robust_bound`).
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
    bound: Mapping[str, Any] | None = None
    reused: str | None = None
    unread: int = 0
    spans: tuple[tuple[float, float], ...] = ()

    @property
    def done(self) -> bool:
        """Whether the trial has ended. Only a new attempt changes its status."""
        return self.phase in {"finished", "stopped", "failed"}

    @property
    def halved(self) -> bool:
        """Whether it was stopped before its last epoch: it has a checkpoint, and could continue."""
        return self.phase == "stopped" and self.bound is None

    def training_hours(self, processes: int) -> float:
        """Hours of training, summed over the trial's processes."""
        return float(sum(epoch["seconds"] for epoch in self.epochs)) * processes / 3600


@dataclass(frozen=True)
class _Known:
    """What this process has read of a record.

    `file` is its inode, size and time of change; `end` is where its last complete line ended, after the bytes `tail`.
    """

    file: tuple[int, int, int]
    end: int
    tail: bytes
    status: TrialStatus


_known: dict[str, _Known] = {}  # by the record's path


def known_status(folder: str) -> TrialStatus | None:
    """The status of the trial in `folder`, if its record is as this process last read it."""
    name = f"{folder}/{RECORD}"
    known = _known.get(name)
    if known is None:
        return None
    try:
        return known.status if known.file == _identity(os.lstat(name)) else None
    except OSError:
        return None


def read_status(folder: Path) -> TrialStatus:
    """The status of the trial in `folder`; "waiting" if it has no record.

    Costs one `stat` if the record is as it was. Of one that has grown, only the new lines are read.
    """
    name = os.path.join(folder, RECORD)  # noqa: PTH118 (called for every trial, every few seconds)
    try:
        seen = os.lstat(name)
    except (FileNotFoundError, NotADirectoryError):
        _known.pop(name, None)
        return TrialStatus()
    known = _known.get(name)
    if known is not None and known.file == _identity(seen):
        return known.status
    known = _read_on(folder, known)
    if known is None:
        return TrialStatus()
    if stat.S_ISREG(seen.st_mode):  # what a link points to may change while the link does not
        if len(_known) >= MOST_KNOWN:
            _known.clear()
        _known[name] = known
    return known.status


def _identity(seen: os.stat_result) -> tuple[int, int, int]:
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _read_on(folder: Path, known: _Known | None) -> _Known | None:
    """Read a record from where it was read to, or as a whole if it has not just grown; None if it is gone."""
    try:
        with open_regular(path := below(folder, RECORD)) as file:
            found = _identity(os.fstat(file.fileno()))
            start = 0
            if known is not None and known.file[0] == found[0] and known.file[1] < found[1]:
                file.seek(known.end - len(known.tail))
                if file.read(len(known.tail)) == known.tail:
                    start = known.end
            file.seek(start)
            content = read_open(file, path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    before = known.status if known is not None and start else TrialStatus()
    complete = content.rfind(b"\n") + 1
    events, unread = _parse(content[:complete])
    status = _after(before, events, unread)
    tail = content[max(complete - TAIL, 0) : complete] or (known.tail if known is not None and start else b"")
    return _Known(found, start + complete, tail, status)


def read_events(folder: Path) -> list[Event]:
    """All readable events.

    Lines that a crash truncated or a failing disk damaged are skipped. Lines are independent, so the others stay
    valid. Lost work runs again where necessary (a trial without its "finished" line runs again), and
    `TrialStatus.unread` counts the damaged lines.
    """
    try:
        with open_regular(path := below(folder, RECORD)) as file:
            return _parse(read_open(file, path))[0]
    except (FileNotFoundError, NotADirectoryError):
        return []


def unread_lines(statuses: Mapping[str, TrialStatus]) -> str | None:
    """A sentence that names the trials with damaged records; None if there are none."""
    damaged = {name: status.unread for name, status in statuses.items() if status.unread}
    if not damaged:
        return None
    lines = ", ".join(f"{count} in trial {name}" for name, count in damaged.items())
    return f"skipped damaged record lines: {lines}; their events are lost, all others are intact"


def _parse(content: bytes) -> tuple[list[Event], int]:
    """The valid events of complete lines, and the number of lines that are not valid events."""
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
    if not (valid and _has_types(event) and all(map(_is_finite, numbers))):
        return None
    return _Line((sys.intern(name), value) for name, value in event.items())  # thousands of lines have the same names


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
    if not all(isinstance(text, str) for text in texts) or not _are_threats(event.get("threats", {})):
        return False
    return event.get("verdict", "clear") in MASKING_STATUSES


def _are_threats(threats: Any) -> bool:
    """Whether a value is a table of what a trial reached under each threat, as `trial_threats` writes it."""
    return isinstance(threats, dict) and all(
        isinstance(one, dict)
        and isinstance(one.get("suite"), str)
        and type(one.get("n")) is int
        and all(_is_finite(one.get(name)) for name in ("n", "robust_acc"))
        for one in threats.values()
    )


def _is_finite(value: Any) -> bool:
    return (type(value) is int and abs(value) < 2**63) or (isinstance(value, float) and math.isfinite(value))


def _after(status: TrialStatus, events: Iterable[Event], unread: int) -> TrialStatus:
    """The status after more events, and more lines that could not be read."""
    now: dict[str, Any] = vars(status) | {"epochs": [*status.epochs], "spans": [*status.spans]}
    now["unread"] += unread
    for event in events:
        at = event["time"]
        if event["event"] == "start" or not now["spans"]:
            now["spans"].append((at, at))
        else:
            now["spans"][-1] = (now["spans"][-1][0], at)
        if event["event"] == "epoch":
            _enter_epoch(now, event)
        else:
            now |= _changes(now, event)
    return TrialStatus(**now | {"epochs": tuple(now["epochs"]), "spans": tuple(now["spans"])})


def _enter_epoch(now: dict[str, Any], event: Event) -> None:
    """A repeated epoch replaces the earlier one, and all after it."""
    epochs = now["epochs"]
    while epochs and epochs[-1]["epoch"] >= event["epoch"]:
        epochs.pop()
    epochs.append(event)
    if event.get("collapsed") and now["collapsed"] is None:
        now["collapsed"] = event["epoch"]


def _changes(now: Mapping[str, Any], event: Event) -> dict[str, Any]:
    """The fields of a status that an event changes."""
    match event["event"]:
        case "start":
            passed_over = event.get("passed_over")
            return {
                "phase": "training",
                "attempts": now["attempts"] + 1,
                "started": now["started"] or event["time"],
                "attack": None,
                "ended": None,
                "reason": "",
                "bound": None,
                "passed_over": {**now["passed_over"], **passed_over} if passed_over else now["passed_over"],
            }
        case "attack":
            first = {"attack_started": event["time"]} if now["phase"] != "attacking" else {}
            return {"phase": "attacking", "attack": event, **first}
        case "paused":
            return {"phase": "paused", "reason": f"after {event['batch']} batches of epoch {event['epoch'] + 1}"}
        case "finished":
            return {"phase": "finished", "ended": event["time"], "result": event}
        case "stopped" | "failed" as how:
            bound = event if how == "stopped" and {"clean_acc", "robust_bound"} <= event.keys() else None
            return {"phase": how, "ended": event["time"], "reason": event["reason"], "bound": bound}
    return {"reused": f"{event['sweep']}/{event['trial']}"} if event["event"] == "reused" else {}


def _line(event: str, fields: Mapping[str, Any]) -> bytes:
    return json.dumps({"event": event, "time": time.time(), **fields}, allow_nan=False).encode() + b"\n"
