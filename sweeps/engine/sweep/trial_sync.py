"""Copies a trial's files to a store if the nodes share no folder. A node's own folder is then a cache.

Each attempt at a trial writes under its own key, `trials/<id>/attempt-<number>-<token>/`, and the newest attempt
counts. So no process overwrites another's files: a process that outlives its sweep finds a newer attempt before
it writes, and stops. Nothing reads what it pushed in between.
"""

import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import torch.distributed as dist

from bat_core.checkpoint import CHECKSUMS, MAX_CHECKPOINTS, checkpoints, read_description
from bat_core.errors import InputError, brief_repr
from bat_core.paths import Rooted, below, make_folder, read_regular, remove
from bat_core.workers import Workers
from sweeps.engine.storage.object_store import Storage, Stored
from sweeps.engine.storage.retry import TakenOverError
from sweeps.engine.sweep.packed import HEAD, pack, read_head, unpack
from sweeps.engine.sweep.records import RECORD, RESULT_FILES, VERDICTS

CHECKPOINTS = "checkpoints"
NOTHING = ("", b"")
MODEL = "model"
GALLERY = "gallery.png"
SHARDS = "shards"
ATTEMPT = "attempt-"
ATTEMPT_NAME = re.compile(rf"{ATTEMPT}\d{{4,9}}-[0-9a-f]{{8}}")
DRIVERS = "drivers"


class TrialSync:
    """Copies a trial's files elsewhere. This base class copies nothing: all nodes share the trial's folder."""

    def begin(self, workers: Workers) -> None:
        """Start an attempt. Call this before reading the trial's folder."""

    def push_record(self) -> None:
        """Copy the record. Called after every new line."""

    def push_checkpoints(self) -> None:
        """Copy the checkpoints. Called after every new one."""

    def push_shards(self, shards: Iterable[Path]) -> None:
        """Copy this worker's share of the verdicts."""

    def pull_shards(self) -> None:
        """Fetch all workers' shares of the verdicts to rank 0."""

    def push_results(self) -> None:
        """Copy the model and verdicts. Called before the trial is recorded as finished."""

    def clean_up(self) -> None:
        """Delete leftover files. Called after the trial is recorded as finished."""


@dataclass(frozen=True)
class AttemptHistory:
    """The earlier attempts at a trial in the store; `attempts` are their names, oldest first."""

    store: Storage
    attempts: tuple[str, ...]

    @classmethod
    def of(cls, store: Storage, trial_id: str) -> "AttemptHistory":
        place = store.under(f"trials/{trial_id}")
        names = place.names()
        for name in names:
            if name.startswith(ATTEMPT):
                _check_attempt(name, str(place))
        return cls(place, tuple(name for name in names if name.startswith(ATTEMPT)))

    @property
    def newest(self) -> str | None:
        """The attempt that counts."""
        return self.attempts[-1] if self.attempts else None

    def next_name(self) -> str:
        """A name for the next attempt. If two start at once, their tokens decide which is newer."""
        number = int(self.newest.split("-")[1]) + 1 if self.newest else 1
        return f"{ATTEMPT}{number:04d}-{secrets.token_hex(4)}"

    def pull_record(self, folder: Path) -> None:
        """Replace the folder's record with the newest attempt's."""
        if self.newest:
            self.store.pull(f"{self.newest}/{RECORD}", below(folder, RECORD))
        else:
            remove(below(folder, RECORD))

    def pull_checkpoints(self, folder: Path) -> None:
        """Pull the newest valid checkpoint and any newer damaged ones, to report them. Delete all others."""
        wanted = []
        for stored in self._checkpoints(folder):
            wanted.append(stored.target)
            if stored.is_at_target() or self._pull(stored):
                break
        for known in checkpoints(folder):
            if known not in wanted:
                remove(below(folder, known.name))

    def _checkpoints(self, folder: Path) -> list["StoredCheckpoint"]:
        """The checkpoints, newest first; for equal epochs, the newer attempt first."""
        keys = [stored.key for stored in self.store.files() if stored.key.split("/")[1:2] == [CHECKPOINTS]]
        found = []
        for key in keys:
            head = read_head(self.store.head(key, HEAD))
            name, checksums = head or (f"epoch_unreadable_{Path(key).stem}", b"")
            found.append(StoredCheckpoint(key, below(folder, name), checksums))
        return sorted(found, key=lambda one: (one.target.name, one.key), reverse=True)

    def _pull(self, stored: "StoredCheckpoint") -> bool:
        """Pull a checkpoint, and return whether it is valid."""

        def read(file: IO[bytes]) -> None:
            remove(stored.target)
            with suppress(InputError):  # it is damaged, which its checksums show
                unpack(file, stored.target)

        self.store.receive(read, stored.key)
        return _is_valid(stored.target)


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in the store: its key, its folder on this node, and its checksums."""

    key: str
    target: Rooted
    checksums: bytes

    def is_at_target(self) -> bool:
        """Whether this node has it."""
        here = self.target / CHECKSUMS
        return here.exists() and read_regular(here) == self.checksums and _is_valid(self.target)


class StoreTrialSync(TrialSync):
    """One attempt at a trial, copied to a store.

    Args:
        store: the sweep's store.
        folder: the trial's folder on this node.
        driver: the lease token of the sweep's driver. An attempt does not start once that lease is gone.
    """

    def __init__(self, store: Storage, trial_id: str, folder: Rooted, *, driver: str) -> None:
        self.sweep, self.trial_id, self.folder, self.driver = store, trial_id, folder, driver
        self._pushed: list[tuple[str, bytes]] = [NOTHING] * MAX_CHECKPOINTS  # the name and checksums in each slot
        self._checked = self._alone = False

    def begin(self, workers: Workers) -> None:
        """Start an attempt, and pull the record and checkpoints.

        Raises:
            TakenOverError: another driver has taken over the sweep.
        """
        history = self.start_attempt(workers)
        history.pull_checkpoints(below(self.folder, CHECKPOINTS))

    def start_attempt(self, workers: Workers) -> AttemptHistory:
        """Start an attempt without checkpoints, for callers that only append to the record."""
        if not self.sweep.exists(f"{DRIVERS}/{self.driver}.json"):
            raise TakenOverError(f"another driver has taken over the sweep in {self.sweep}: this one stops")
        history = AttemptHistory.of(self.sweep, self.trial_id)
        self.name = _broadcast(history.next_name(), workers)
        self._place = history.store
        make_folder(self.folder)  # on every worker, since each writes its share of the verdicts
        history.pull_record(self.folder)
        remove(below(self.folder, SHARDS))
        return history

    def push_record(self) -> None:
        """Push the whole record. The first push claims the trial."""
        if not self._checked:  # else `push_checkpoints` has just looked
            self._check_newest()
        self._checked = False
        self._place.push(self.folder / RECORD, f"{self.name}/{RECORD}")

    def push_checkpoints(self) -> None:
        """Push new checkpoints over those that are no longer in the folder: one request each, and none to delete."""
        older = self._check_newest()
        self._checked = True
        folders = {folder.name: folder for folder in checkpoints(self.folder / CHECKPOINTS)}
        here = {(name, read_regular(folder / CHECKSUMS)) for name, folder in folders.items()}
        free = [slot for slot, pushed in enumerate(self._pushed) if pushed not in here]
        for new in sorted(here.difference(self._pushed)):
            slot = free.pop(0)
            self._place.send(partial(pack, folders[new[0]]), self._slot(slot))
            self._pushed[slot] = new
        for slot in free:
            if self._pushed[slot] != NOTHING:
                self._place.drop(self._slot(slot))
                self._pushed[slot] = NOTHING
        if not self._alone:  # an older attempt that still runs stops before its next checkpoint
            self._drop_checkpoints(attempt for attempt in older if attempt != self.name)
            self._alone = True

    def _slot(self, slot: int) -> str:
        return f"{self.name}/{CHECKPOINTS}/{slot}.tar"

    def push_shards(self, shards: Iterable[Path]) -> None:
        for shard in shards:
            self._place.push(shard, f"{self.name}/{SHARDS}/{shard.name}")

    def pull_shards(self) -> None:
        for stored in self._place.files(f"{self.name}/{SHARDS}"):
            target = below(self.folder, SHARDS, stored.key.rpartition("/")[2])
            if not target.exists():
                self._place.pull(stored.key, target)

    def push_results(self) -> None:
        self._check_newest()
        for name in (*RESULT_FILES, GALLERY):
            if (self.folder / name).exists():
                self._place.push(self.folder / name, f"{self.name}/{name}")
        self._push_folder(self.folder / MODEL, f"{self.name}/{MODEL}")

    def clean_up(self) -> None:
        """Delete checkpoints and shards from the store, and everything but the record from this node."""
        self._drop_checkpoints(AttemptHistory.of(self.sweep, self.trial_id).attempts)
        self._place.drop(f"{self.name}/{SHARDS}")
        for name in (MODEL, *RESULT_FILES, GALLERY):
            remove(below(self.folder, name))

    def _check_newest(self) -> tuple[str, ...]:
        """All attempts at the trial, of which this one must be the newest."""
        history = AttemptHistory.of(self.sweep, self.trial_id)
        if history.newest and history.newest > self.name:
            raise TakenOverError(
                f"{history.newest} has taken over trial {self.trial_id} in {self.sweep}: {self.name} stops"
            )
        return history.attempts

    def _push_folder(self, folder: Path, key: str) -> None:
        """Push a folder, its checksums last: a folder without them is incomplete."""
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CHECKSUMS):
            self._place.push(path, f"{key}/{path.name}")

    def _drop_checkpoints(self, attempts: Iterable[str]) -> None:
        for attempt in attempts:
            self._place.drop(f"{attempt}/{CHECKPOINTS}")


_pulling: dict[str, threading.Lock] = {}  # by the trial's folder here


def pull_trial(
    store: Storage, trial_id: str, folder: Path, *, listed: Sequence[Stored] | None = None, results: bool = True
) -> None:
    """Update the driver's copy of a trial from the store. The record comes last, since readers trust it.

    Verdicts and model, which do not change, are pulled once.

    Args:
        listed: the trial's files in the store, if they are known.
        results: whether to pull verdicts and model. `pull_results` does so later.
    """
    with _pulling.setdefault(str(folder), threading.Lock()):
        files = _newest(store, trial_id, listed)
        if RECORD not in files:
            return
        if results:
            _pull_missing(store, files, folder)
        store.pull(files[RECORD].key, below(folder, RECORD))


def pull_results(store: Storage, trial_id: str, folder: Path) -> None:
    """Pull the verdicts and model of a finished trial, unless they are here."""
    with _pulling.setdefault(str(folder), threading.Lock()):
        if not below(folder, VERDICTS).exists():
            _pull_missing(store, _newest(store, trial_id, None), folder)


def _newest(store: Storage, trial_id: str, listed: Sequence[Stored] | None) -> dict[str, Stored]:
    """The files of the newest attempt at a trial, by their names in the trial's folder."""
    place = f"trials/{trial_id}"
    found: dict[str, dict[str, Stored]] = defaultdict(dict)
    for stored in store.files(place) if listed is None else listed:
        attempt, _, name = stored.key.removeprefix(f"{place}/").partition("/")
        if attempt.startswith(ATTEMPT):
            _check_attempt(attempt, f"{store}/{place}")
            found[attempt][name] = stored
    return found[max(found)] if found else {}


def _pull_missing(store: Storage, files: Mapping[str, Stored], folder: Path) -> None:
    """Pull model and verdicts, once the model's checksums, which are pushed last, say that all is in the store.

    The verdicts come last: where they are, the model is too.
    """
    if f"{MODEL}/{CHECKSUMS}" not in files:
        return
    wanted = [name for name in files if name in {*RESULT_FILES, GALLERY} or name.startswith(f"{MODEL}/")]
    for name in sorted(wanted, key=lambda name: (name in RESULT_FILES, name == VERDICTS, name)):
        target = below(folder, name)
        if not target.exists() or target.stat().st_size != files[name].size:
            store.pull(files[name].key, target)


def _check_attempt(name: str, place: str) -> None:
    if not ATTEMPT_NAME.fullmatch(name):
        raise InputError(f"{brief_repr(name)} in {place} is not the name of an attempt: remove it")


def _broadcast(name: str, workers: Workers) -> str:
    """Rank 0's name, on all workers of a trial."""
    names = [name]
    if workers.size > 1:
        dist.broadcast_object_list(names, src=0)
    return names[0]


def _is_valid(folder: Path) -> bool:
    try:
        read_description(folder)
    except InputError:
        return False
    return True
