"""A trial's record: JSON lines, one event each, flushed to disk before anything goes on.

Records are the truth about a sweep; the table, the figure and MLflow are drawn from them.
"""

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

RECORD = "record.jsonl"
VERDICTS = "verdicts.parquet"
VERIFIED = "verified.parquet"

Phase: TypeAlias = Literal["waiting", "training", "attacking", "finished", "stopped", "failed"]
Event: TypeAlias = dict[str, Any]


class Record:
    """Appends events to `<folder>/record.jsonl`, each durable before `append` returns."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / RECORD
        drop_torn_line(self.path)

    def append(self, event: str, **fields: Any) -> None:
        """Write one event with the present time (Unix seconds)."""
        line = json.dumps({"event": event, "time": time.time(), **fields}, allow_nan=False)
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())


@dataclass(frozen=True)
class TrialStatus:
    """What a record says of its trial so far. `collapsed` is the first epoch lost to catastrophic overfitting."""

    phase: Phase = "waiting"
    epochs: tuple[Event, ...] = ()
    attack: Event | None = None
    started: float | None = None
    attack_started: float | None = None
    ended: float | None = None
    attempts: int = 0
    reason: str = ""
    collapsed: int | None = None
    result: Mapping[str, Any] | None = None

    @property
    def done(self) -> bool:
        """Nothing more will come without a new attempt."""
        return self.phase in {"finished", "stopped", "failed"}


def read_status(folder: Path) -> TrialStatus:
    """The state of the trial whose record lies in `folder`; "waiting" where there is none."""
    status = TrialStatus()
    for event in read_events(folder):
        status = _after(status, event)
    return status


def read_events(folder: Path) -> list[Event]:
    """All whole events; a line that a crash cut short is passed over."""
    try:
        content = (folder / RECORD).read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith("\n")]


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
            }
        case "epoch":
            changes = {"epochs": (*status.epochs, event)}
            if event.get("collapsed") and status.collapsed is None:
                changes["collapsed"] = event["epoch"]
        case "attack":
            first = status.phase != "attacking"
            changes = {"phase": "attacking", "attack": event}
            if first:
                changes["attack_started"] = event["time"]
        case "finished":
            changes = {"phase": "finished", "ended": event["time"], "result": event}
        case "stopped":
            changes = {"phase": "stopped", "ended": event["time"], "reason": event["reason"]}
        case "failed":
            changes = {"phase": "failed", "ended": event["time"], "reason": event["reason"]}
    return TrialStatus(**{**vars(status), **changes})


def drop_torn_line(path: Path) -> None:
    """Cut off what a crash left of a last line."""
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)


@contextlib.contextmanager
def exclusive(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file at `path`; it is let go when the process ends, however it ends.

    Raises:
        BlockingIOError: someone else holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        _HELD.add(file)
        try:
            yield
        finally:
            _HELD.discard(file)


_HELD: set[IO[str]] = set()


def _let_go() -> None:
    """A forked process, as a data loader's, may outlive its parent for seconds; the parent's locks must not."""
    for file in _HELD:
        file.close()
    _HELD.clear()


os.register_at_fork(after_in_child=_let_go)
