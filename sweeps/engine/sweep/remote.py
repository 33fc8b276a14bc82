"""The driver of a sweep in a store: holds the lease and pulls what the workers push."""

import contextlib
import json
import os
import secrets
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console

from bat_core.config import from_dict, to_dict
from bat_core.errors import InputError, brief_repr
from bat_core.jsontext import read_json
from bat_core.paths import below
from sweeps.engine.storage.files import is_uri
from sweeps.engine.storage.object_store import Storage, Stored, in_threads
from sweeps.engine.storage.periodic import every
from sweeps.engine.storage.retry import TakenOverError, patience
from sweeps.engine.sweep.folder import TRIAL, TRIALS, SweepFolder
from sweeps.engine.sweep.records import RECORD
from sweeps.engine.sweep.spec import SPEC, Sweep
from sweeps.engine.sweep.trial_sync import DRIVERS, pull_trial

INTERVAL = 2.0  # seconds between polls of the store
RENEWAL = 10.0  # seconds between renewals of the driver's lease
LEASE = 60.0  # seconds without renewal after which another driver may take over the sweep


@dataclass(frozen=True)
class DriverLease:
    """A driver's lease: a file in the store. Object stores have no locks; a recent renewal serves as one."""

    token: str = field(default_factory=lambda: secrets.token_hex(8))
    host: str = field(default_factory=socket.gethostname)
    process: int = field(default_factory=os.getpid)

    @property
    def key(self) -> str:
        return f"{DRIVERS}/{self.token}.json"

    def renew(self, store: Storage) -> None:
        """Renew the driver's lease."""
        store.write(json.dumps(to_dict(self)), self.key)

    def has_ended(self) -> bool:
        """Whether the driver is known to have ended. Drivers on other machines are assumed to run."""
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
    """Keeps the driver's folder in sync with the store, and renews the driver's lease."""

    def __init__(self, folder: SweepFolder, store: Storage, lease: DriverLease, console: Console) -> None:
        self._folder, self._lease, self._console = folder, lease, console
        self._store = replace(store, patience=0.0)  # the next poll is the retry
        self._seen: dict[str, tuple[str, int, int]] = {}
        self._renewed = 0.0
        self._failing = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """Poll in a background thread while the body runs."""
        with every(INTERVAL, self._poll_and_report, name="store-follower"):
            yield

    def _poll_and_report(self) -> bool:
        """Like `poll`, but prints errors instead of raising them. Returns whether to continue."""
        try:
            self.poll()
        except TakenOverError as error:
            self._say(str(error))
            return False
        except (OSError, InputError) as error:
            if not self._failing:
                self._say(f"{error}; trials retry for up to {patience():g} seconds")
            self._failing = True
        else:
            if self._failing:
                self._say(f"{self._store} answers again")
            self._failing = False
        return True

    def poll(self, *, results: bool = True) -> None:
        """Pull the records that changed, several at once, and renew the lease if it is due.

        Args:
            results: whether to pull verdicts and models of trials that have finished too.
        Raises:
            TakenOverError: another driver has taken over the sweep.
            StorageError: the store does not answer.
        """
        if time.monotonic() - self._renewed > RENEWAL:
            if self._renewed and not self._store.exists(self._lease.key):
                raise TakenOverError(f"another driver has taken over the sweep in {self._store}: this one stops")
            self._lease.renew(self._store)
            self._renewed = time.monotonic()
        listed: dict[str, list[Stored]] = defaultdict(list)
        newest: dict[str, tuple[str, int, int]] = {}
        for stored in self._store.files("trials"):
            _, trial_id, *rest = *stored.key.split("/"), ""
            listed[trial_id].append(stored)
            if len(rest) == 3 and rest[1] == RECORD:
                newest[trial_id] = (rest[0], stored.size, stored.changed)

        def pull(trial_id: str) -> None:
            home = self._folder.file(f"{TRIALS}/{trial_id}")
            pull_trial(self._store, trial_id, home, listed=listed[trial_id], results=results)
            self._seen[trial_id] = newest[trial_id]

        in_threads(pull, [trial_id for trial_id, seen in newest.items() if self._seen.get(trial_id) != seen])

    def _say(self, text: str) -> None:
        self._console.print(text, style="yellow", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def hold_lease(folder: SweepFolder, console: Console) -> Iterator[SweepFolder]:
    """Become the sweep's only driver, and keep its folder in sync with the store while the body runs.

    Yields:
        The folder with the driver's token; without a store, the folder unchanged.
    Raises:
        InputError: another process drives the sweep in the store.
    """
    if folder.store is None:
        yield folder
        return
    store, lease = folder.store, DriverLease()
    _claim(store, lease)
    try:
        folder = replace(folder, driver=lease.token)
        follower = StoreFollower(folder, store, lease, console)
        follower.poll(results=False)  # who needs those of a finished trial asks `SweepFolder.results`
        with follower.running():
            yield folder
    finally:
        with contextlib.suppress(OSError):
            store.drop(lease.key)


def open_sweep(place: str, output: Path | None, storage_path: str | None = None) -> SweepFolder:
    """Open the sweep to resume, from a folder or a store. From a store, the local copy is updated first.

    Where a sweep is kept comes from the command line (`place` or `storage_path`), or from its folder if this user
    wrote it there (`marks`): a folder that was unpacked must not name a store.

    Raises:
        InputError: there is no sweep, `output` contains another one, or the folder names a store that nothing shows
            to be the user's choice.
    """
    if not is_uri(place):
        folder = SweepFolder(Path(place).resolve())
        return _with_store(folder, folder.load(), place, storage_path)
    if storage_path:
        raise InputError(f"--storage-path {storage_path!r} and --resume {place!r} are two stores: omit --storage-path")
    store = Storage.at(place)
    if not store.exists(SPEC):
        raise InputError(f"--resume {place!r}: no sweep there, {SPEC} is missing: use the folder of a sweep")
    stored_sweep = _read_stored(store, place)
    folder = SweepFolder((output or Path("outputs") / check_name(store.name)).resolve(), store)
    if folder.file(SPEC).exists() and folder.load().id != stored_sweep.id:
        raise InputError(f"{str(folder.path)!r} contains a different sweep than {place}: use another --output")
    keys = [stored.key for stored in store.files()]
    wanted = [key for key in keys if not key.startswith((f"{DRIVERS}/", f"{TRIALS}/")) or key.endswith(f"/{TRIAL}")]
    in_threads(lambda key: store.pull(key, folder.file(key)), wanted)
    folder.mark_store(folder.load())
    return folder


def _with_store(folder: SweepFolder, sweep: Sweep, place: str, storage_path: str | None) -> SweepFolder:
    """A folder with the store in which its sweep is kept, if there is one."""
    named = sweep.storage
    if named is None:
        if storage_path:
            raise InputError(f"--resume {place!r}: this sweep is kept in its folder: omit --storage-path")
        return folder
    if storage_path is None:
        if not folder.has_marked_store(sweep):
            raise InputError(
                f"--resume {place!r}: {SPEC} says that the sweep is kept in {brief_repr(named)}, and nothing shows that"
                " you chose that place: if you trust it, name it with --storage-path"
            )
        return replace(folder, store=Storage.at(named))
    folder = replace(folder, store=Storage.at(storage_path))
    assert folder.store is not None
    if not folder.store.exists(SPEC) or _read_stored(folder.store, storage_path).id != sweep.id:
        raise InputError(f"--storage-path {storage_path!r} does not contain the sweep in {place!r}: name its store")
    folder.mark_store(sweep)
    return folder


def _read_stored(store: Storage, place: str) -> Sweep:
    try:
        return from_dict(Sweep, read_json(store.read(SPEC)))
    except ValueError as error:
        raise InputError(f"{place!r}: {SPEC} is not a valid sweep: {error}") from error


def check_name(name: str) -> str:
    """The last part of a store's URI, which names the folder of its local copy."""
    below(Path(), name)
    return name


def _read_lease(store: Storage, key: str) -> DriverLease:
    try:
        return from_dict(DriverLease, read_json(store.read(key)))
    except ValueError as error:
        raise InputError(f"{key} in {store} is not a driver's lease ({error}): remove it") from error


def _claim(store: Storage, lease: DriverLease) -> None:
    """Become the only driver, and remove old leases. Fail if another was renewed recently by the store's clock."""
    lease.renew(store)
    leases = {stored.key: stored for stored in store.files(DRIVERS)}
    own = leases.pop(lease.key)
    for key, stored in leases.items():
        other = _read_lease(store, key)
        age = (own.changed - stored.changed) / 1e9
        if age < LEASE and not other.has_ended():
            store.drop(lease.key)
            raise InputError(
                f"the sweep in {store} is driven by process {other.process} on {other.host}, last seen"
                f" {max(age, 0):.0f} s ago: wait for it to end, or until it has been silent for {LEASE:g} s"
            )
        store.drop(key)
