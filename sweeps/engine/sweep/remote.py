"""The driver of a sweep that is kept in a store: alone there, and abreast of what the workers push."""

import contextlib
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from bat_core.config import from_dict, to_dict
from bat_core.errors import InputError
from sweeps.engine.storage.object_store import Storage, is_uri
from sweeps.engine.storage.periodic import every
from sweeps.engine.storage.retry import TakenOverError, patience
from sweeps.engine.sweep.folder import SPEC, SweepFolder
from sweeps.engine.sweep.records import RECORD
from sweeps.engine.sweep.trial_sync import DRIVERS, pull_trial

INTERVAL = 2.0  # seconds between two looks at the store
RENEWAL = 10.0  # seconds between two signs of life of a driver
LEASE = 60.0  # seconds without one after which another may take the sweep over


@dataclass(frozen=True)
class DriverLease:
    """A driver's sign of life, as it lies in the store. A store has no locks; who is heard of there is obeyed."""

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)

    @property
    def key(self) -> str:
        return f"{DRIVERS}/{self.token}.json"

    def sign(self, store: Storage) -> None:
        """Be heard of now."""
        store.write(json.dumps(to_dict(self)), self.key)

    def dead(self) -> bool:
        """Whether it is known to have ended; of another machine's nobody knows."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False


class StoreFollower:
    """Keeps the driver's folder abreast of the store, and the store told that the driver lives."""

    def __init__(self, folder: SweepFolder, store: Storage, lease: DriverLease, console: Console) -> None:
        self._folder, self._lease, self._console = folder, lease, console
        self._store = replace(store, patience=0.0)  # there is always another look
        self._seen: dict[str, tuple[str, int, int]] = {}
        self._renewed = 0.0
        self._trouble = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Follow in a thread of its own while the body runs, and once more after it."""
        with every(INTERVAL, self._look_again, name="store-follower"):
            yield

    def _look_again(self) -> bool:
        """As `look`, reporting trouble instead of raising. Returns whether to go on."""
        try:
            self.look()
        except TakenOverError as error:
            self._say(str(error))
            return False
        except OSError as error:
            if not self._trouble:
                self._say(f"{error}; the trials wait for it, each for {patience():g} seconds at most")
            self._trouble = True
        else:
            if self._trouble:
                self._say(f"{self._store} answers again")
            self._trouble = False
        return True

    def look(self) -> None:
        """Pull the records that changed, and give a sign of life when one is due.

        Raises:
            TakenOverError: another driver has taken the sweep over.
            StorageError: the store does not answer.
        """
        if time.monotonic() - self._renewed > RENEWAL:
            if self._renewed and not self._store.exists(self._lease.key):
                raise TakenOverError(f"another driver has taken over the sweep in {self._store}: this one stops")
            self._lease.sign(self._store)
            self._renewed = time.monotonic()
        newest: dict[str, tuple[str, int, int]] = {}
        for stored in self._store.files("trials"):
            _, trial_id, *rest = stored.key.split("/")
            if len(rest) == 2 and rest[1] == RECORD:
                newest[trial_id] = (rest[0], stored.size, stored.changed)
        for trial_id, mark in newest.items():
            if self._seen.get(trial_id) != mark:
                pull_trial(self._store, trial_id, self._folder.path / "trials" / trial_id)
                self._seen[trial_id] = mark

    def _say(self, text: str) -> None:
        self._console.print(text, style="yellow", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def hold_lease(folder: SweepFolder, console: Console) -> Iterator[SweepFolder]:
    """The folder as its sole driver has it, followed while the body runs; a folder without a store as it is.

    Raises:
        InputError: another drives the sweep in the store.
    """
    if folder.store is None:
        yield folder
        return
    store, lease = folder.store, DriverLease()
    _take(store, lease)
    try:
        folder = replace(folder, driver=lease.token)
        follower = StoreFollower(folder, store, lease, console)
        follower.look()
        with follower.running():
            yield folder
    finally:
        with contextlib.suppress(OSError):
            store.drop(lease.key)


def open_sweep(place: str, output: Path | None) -> SweepFolder:
    """The sweep that a person wants to go on with: a folder, or a store whose copy in a folder is brought up to date.

    Raises:
        InputError: there is none.
    """
    if not is_uri(place):
        folder = SweepFolder(Path(place).resolve())
        storage = folder.load().storage
        return replace(folder, store=Storage.at(storage)) if storage else folder
    store = Storage.at(place)
    if not store.exists(SPEC):
        raise InputError(f"--resume {place!r}: no sweep there, {SPEC} is missing")
    folder = SweepFolder((output or Path("outputs") / store.name).resolve(), store)
    if (folder.path / SPEC).exists() and folder.load().id != json.loads(store.read(SPEC))["id"]:
        raise InputError(f"{str(folder.path)!r} holds another sweep than {place}: name another --output")
    for stored in store.files():
        if not stored.key.startswith((f"{DRIVERS}/", "trials/")) or stored.key.endswith("/trial.json"):
            store.pull(stored.key, folder.path / stored.key)
    return folder


def _take(store: Storage, lease: DriverLease) -> None:
    """Be the only driver: who was heard of lately by the store's own clock is obeyed, who was not is removed."""
    lease.sign(store)
    signs = {stored.key: stored for stored in store.files(DRIVERS)}
    mine = signs.pop(lease.key)
    for key, sign in signs.items():
        other = from_dict(DriverLease, json.loads(store.read(key)))
        age = (mine.changed - sign.changed) / 1e9
        if age < LEASE and not other.dead():
            store.drop(lease.key)
            raise InputError(
                f"the sweep in {store} is driven by process {other.process} on {other.host}, heard of"
                f" {max(age, 0):.0f} s ago: wait for it, or until it has been silent for {LEASE:g} s"
            )
        store.drop(key)
