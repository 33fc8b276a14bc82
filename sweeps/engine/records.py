"""A trial's record: JSON lines, one event each, flushed to disk before anything goes on.

Records are the truth about a sweep; the table, the figure and MLflow are drawn from them.
"""

import contextlib
import errno
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from sweeps.engine.patience import patiently

RECORD = "record.jsonl"
VERDICTS = "verdicts.parquet"
VERIFIED = "verified.parquet"

Phase: TypeAlias = Literal["waiting", "training", "attacking", "paused", "finished", "stopped", "failed"]
Event: TypeAlias = dict[str, Any]


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
        patiently(lambda: self._write(line), f"{RECORD} cannot be written", self.path.parent)
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
    gone on from, and why: damaged, or of another config.
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
                "passed_over": {**status.passed_over, **event.get("passed_over", {})},
            }
        case "epoch":
            before = (one for one in status.epochs if one["epoch"] < event["epoch"])  # a damaged checkpoint's ran again
            changes = {"epochs": (*before, event)}
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
        case "failed":
            changes = {"phase": "failed", "ended": event["time"], "reason": event["reason"]}
    return TrialStatus(**{**vars(status), **changes})


def _line(event: str, fields: Mapping[str, Any]) -> bytes:
    return json.dumps({"event": event, "time": time.time(), **fields}, allow_nan=False).encode() + b"\n"


def drop_torn_line(path: Path) -> None:
    """Cut off what a crash, or a full disk, left of a last line."""
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
