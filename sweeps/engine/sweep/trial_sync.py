"""What a trial leaves is kept in a store too, where its nodes share no folder; a node's own folder is a cache of it.

Each attempt at a trial writes below a key of its own, `trials/<id>/attempt-<number>-<token>/`, and the newest
is the trial. So no process ever writes over what another wrote: one that outlived its sweep finds a newer
attempt before it writes, and stops; what it pushed in between is read by nobody.
"""

import secrets
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from bat_core.checkpoint import CHECKSUMS, checkpoints, read_description
from bat_core.errors import InputError
from bat_core.workers import Workers
from sweeps.engine.storage.object_store import Storage
from sweeps.engine.storage.retry import TakenOverError
from sweeps.engine.sweep.records import RECORD, VERDICTS, VERIFIED

CHECKPOINTS = "checkpoints"
MODEL = "model"
SHARDS = "shards"
ATTEMPT = "attempt-"
DRIVERS = "drivers"


class TrialSync:
    """What becomes of a trial's files beside lying in its folder: nothing, where all nodes share that."""

    def begin(self, workers: Workers) -> None:
        """A process begins with the trial; to be called before its folder is looked at."""

    def recorded(self) -> None:
        """The record has grown."""

    def saved(self) -> None:
        """There is another checkpoint."""

    def judged(self, shards: Iterable[Path]) -> None:
        """A worker has judged its share."""

    def gather(self) -> None:
        """Rank 0 wants the shares of all."""

    def finish(self) -> None:
        """Model and verdicts are there, and will be recorded as finished."""

    def over(self) -> None:
        """The trial is recorded as finished."""


@dataclass(frozen=True)
class AttemptHistory:
    """What earlier attempts at a trial left in the store: their names, oldest first."""

    store: Storage
    attempts: tuple[str, ...]

    @classmethod
    def of(cls, store: Storage, trial_id: str) -> "AttemptHistory":
        place = store.under(f"trials/{trial_id}")
        return cls(place, tuple(name for name in place.names() if name.startswith(ATTEMPT)))

    @property
    def newest(self) -> str | None:
        """The attempt that is the trial now."""
        return self.attempts[-1] if self.attempts else None

    def next_name(self) -> str:
        """A name for an attempt after these; of two that begin at once the tokens decide which is newer."""
        number = int(self.newest.split("-")[1]) + 1 if self.newest else 1
        return f"{ATTEMPT}{number:04d}-{secrets.token_hex(4)}"

    def pull_record(self, folder: Path) -> None:
        """The record so far takes the place of what the folder has."""
        if self.newest:
            self.store.pull(f"{self.newest}/{RECORD}", folder / RECORD)
        else:
            (folder / RECORD).unlink(missing_ok=True)

    def pull_checkpoints(self, folder: Path) -> None:
        """The newest sound checkpoint, and those newer ones that are damaged, to be named; nothing else stays."""
        wanted = []
        for key in self._checkpoints():
            wanted.append(target := folder / key.rpartition("/")[2])
            if self._has(key, target) or self._pull_folder(key, target):
                break
        for known in checkpoints(folder):
            if known not in wanted:
                shutil.rmtree(known)

    def pull_results(self, folder: Path) -> None:
        """Verdicts and model of the finished trial."""
        for stored in self.store.files(self.newest or ""):
            name = stored.key.partition("/")[2]
            if name in {VERDICTS, VERIFIED} or name.startswith(f"{MODEL}/"):
                self.store.pull(stored.key, folder / name)

    def _checkpoints(self) -> list[str]:
        """Those that were pushed to their end, newest first; of equal epochs that of the newer attempt."""
        whole = [
            key
            for key, _, name in (stored.key.rpartition("/") for stored in self.store.files())
            if name == CHECKSUMS and key.split("/")[1] == CHECKPOINTS
        ]
        return sorted(whole, key=lambda key: (key.rpartition("/")[2], key), reverse=True)

    def _has(self, key: str, target: Path) -> bool:
        there = target / CHECKSUMS
        return there.exists() and there.read_bytes() == self.store.read(f"{key}/{CHECKSUMS}") and _sound(target)

    def _pull_folder(self, key: str, target: Path) -> bool:
        """Whether what came is sound."""
        shutil.rmtree(target, ignore_errors=True)
        for stored in self.store.files(key):
            self.store.pull(stored.key, target / stored.key.rpartition("/")[2])
        return _sound(target)


class StoreTrialSync(TrialSync):
    """One attempt at a trial, kept in a store.

    Args:
        folder: the trial's folder on this node.
        driver: who drives the sweep; an attempt that another driver's sweep asked for does not begin.
    """

    def __init__(self, store: Storage, trial_id: str, folder: Path, *, driver: str) -> None:
        self.sweep, self.trial_id, self.folder, self.driver = store, trial_id, folder, driver
        self._pushed: dict[str, bytes] = {}

    def begin(self, workers: Workers) -> None:
        """Bring the folder to what the store says.

        Raises:
            TakenOverError: another driver has taken the sweep over.
        """
        history = self.take_record(workers)
        history.pull_checkpoints(self.folder / CHECKPOINTS)

    def take_record(self, workers: Workers) -> AttemptHistory:
        """`begin` without checkpoints, for who has but a word to add to the record."""
        if not self.sweep.exists(f"{DRIVERS}/{self.driver}.json"):
            raise TakenOverError(f"another driver has taken over the sweep in {self.sweep}: this one stops")
        history = AttemptHistory.of(self.sweep, self.trial_id)
        self.name = _agreed(history.next_name(), workers)
        self._place = history.store
        self.folder.mkdir(parents=True, exist_ok=True)  # of all workers: each writes its share of the verdicts
        history.pull_record(self.folder)
        shutil.rmtree(self.folder / SHARDS, ignore_errors=True)
        return history

    def recorded(self) -> None:
        """Push the whole record; the first time, this claims the trial."""
        self._check_mine()
        self._place.push(self.folder / RECORD, f"{self.name}/{RECORD}")

    def saved(self) -> None:
        """Make the store's checkpoints those of the folder: what is new is pushed, the rest dropped."""
        self._check_mine()
        here = checkpoints(self.folder / CHECKPOINTS)
        for folder in here:
            content = (folder / CHECKSUMS).read_bytes()
            if self._pushed.get(folder.name) != content:
                self._push_folder(folder, f"{self.name}/{CHECKPOINTS}/{folder.name}")
                self._pushed[folder.name] = content
        for stale in set(self._pushed) - {folder.name for folder in here}:
            self._place.drop(f"{self.name}/{CHECKPOINTS}/{stale}")
            del self._pushed[stale]
        self._drop_checkpoints(but=self.name)

    def judged(self, shards: Iterable[Path]) -> None:
        for shard in shards:
            self._place.push(shard, f"{self.name}/{SHARDS}/{shard.name}")

    def gather(self) -> None:
        for stored in self._place.files(f"{self.name}/{SHARDS}"):
            target = self.folder / SHARDS / stored.key.rpartition("/")[2]
            if not target.exists():
                self._place.pull(stored.key, target)

    def finish(self) -> None:
        self._check_mine()
        for name in (VERDICTS, VERIFIED):
            if (self.folder / name).exists():
                self._place.push(self.folder / name, f"{self.name}/{name}")
        self._push_folder(self.folder / MODEL, f"{self.name}/{MODEL}")

    def over(self) -> None:
        """The store has it all: nothing but the record stays on this node."""
        self._drop_checkpoints()
        self._place.drop(f"{self.name}/{SHARDS}")
        shutil.rmtree(self.folder / MODEL)
        for name in (VERDICTS, VERIFIED):
            (self.folder / name).unlink(missing_ok=True)

    def _check_mine(self) -> None:
        newest = AttemptHistory.of(self.sweep, self.trial_id).newest
        if newest and newest > self.name:
            raise TakenOverError(f"{newest} has taken over trial {self.trial_id} in {self.sweep}: {self.name} stops")

    def _push_folder(self, folder: Path, key: str) -> None:
        """The checksums come last: without them the folder does not count."""
        for path in sorted(folder.iterdir(), key=lambda path: path.name == CHECKSUMS):
            self._place.push(path, f"{key}/{path.name}")

    def _drop_checkpoints(self, *, but: str = "") -> None:
        for attempt in AttemptHistory.of(self.sweep, self.trial_id).attempts:
            if attempt != but:
                self._place.drop(f"{attempt}/{CHECKPOINTS}")


_pulling = threading.Lock()


def pull_trial(store: Storage, trial_id: str, folder: Path) -> None:
    """Bring the driver's folder of a trial to what the store has: the record last, for readers believe it."""
    with _pulling:
        history = AttemptHistory.of(store, trial_id)
        if history.newest and f"{history.newest}/{RECORD}" in {
            stored.key for stored in history.store.files(history.newest)
        }:
            content = history.store.read(f"{history.newest}/{RECORD}")
            if b'"event": "finished"' in content:
                history.pull_results(folder)
            history.pull_record(folder)


def _agreed(name: str, workers: Workers) -> str:
    """Rank 0's word, on all workers of a trial."""
    said = [name]
    if workers.size > 1:
        dist.broadcast_object_list(said, src=0)
    return said[0]


def _sound(folder: Path) -> bool:
    try:
        read_description(folder)
    except InputError:
        return False
    return True
