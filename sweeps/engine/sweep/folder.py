"""The layout of a sweep's folder. No other module builds these paths."""

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bat_core.config import from_dict, to_dict
from bat_core.errors import InputError, check_file_name
from bat_core.jsontext import read_json
from bat_core.paths import Rooted, below, chosen, make_folder, read_regular, write_atomically
from bat_core.workers import Workers
from sweeps.engine.storage.files import cache, refuse_if_used
from sweeps.engine.storage.marks import is_marked, mark
from sweeps.engine.storage.object_store import Storage, in_threads
from sweeps.engine.storage.retry import retry_storage
from sweeps.engine.sweep.records import Record, TrialStatus, known_status, read_status
from sweeps.engine.sweep.spec import SPEC, Report, Sweep, Trial
from sweeps.engine.sweep.trial_sync import StoreTrialSync, TrialSync, pull_results, pull_trial

TRIALS = "trials"
TRIAL = "trial.json"
REPORT = "report.json"
USER_CODE = "user_code.json"
STORAGE = "storage"  # the setting that has a mark

C = TypeVar("C")


@dataclass(frozen=True)
class UserCode:
    """The digests of the user's modules, by name. See `bat_core.user_modules`."""

    sha256: Mapping[str, str]


@dataclass(frozen=True)
class SweepFolder:
    """The folder with a sweep's records, models and figures.

    With a `store`, the driver's folder mirrors the store, and each process that runs a trial has its own cache.
    `driver` is the lease token of the driver on whose behalf this process writes.
    """

    path: Path
    store: Storage | None = None
    driver: str = ""

    def title(self, sweep: Sweep) -> str:
        """The sweep's name in MLflow: the folder's name, prefixed with the sweep's name if it lacks it."""
        name = self.path.name
        return name if name.startswith(sweep.name) else f"{sweep.name}-{name}"

    def file(self, name: str) -> Rooted:
        """The path of a file or folder in this one.

        Raises:
            InputError: the name, or a link, leads out of the folder.
        """
        return below(self.path, name)

    def trial(self, trial: Trial) -> Rooted:
        """The folder of one trial."""
        return below(self.path, TRIALS, trial.id)

    def home(self, trial: Trial, sweep: Sweep, rank: int) -> Rooted:
        """The folder in which worker number `rank` runs a trial.

        Raises:
            StorageError: the sweep's folder is still missing after all retries.
        """
        if self.store:
            return below(cache(), sweep.id, str(rank), TRIALS, trial.id)
        # Fail rather than write into the mount point of a missing disk.
        retry_storage((self.path / SPEC).stat, "there is no sweep", self.path)
        return self.trial(trial)

    def trial_sync(self, trial: Trial, home: Rooted) -> TrialSync:
        """Where the trial's files are copied besides its home folder."""
        return StoreTrialSync(self.store, trial.id, home, driver=self.driver) if self.store else TrialSync()

    def ray(self, sweep: Sweep) -> Rooted:
        """The folder for Ray's own output. It is on another disk than the sweep, whose faults must not hit Ray."""
        return below(cache(), sweep.id, "ray")

    def copy_to_store(self, name: str) -> None:
        """Copy a file or folder of the driver's to the store, if there is one."""
        if self.store:
            source = self.file(name)
            for file in sorted(source.rglob("*")) if source.is_dir() else [source]:
                if file.is_file() and not file.name.startswith("."):
                    key = file.relative_to(self.path).as_posix()
                    self.store.push(self.file(key), key)

    def refresh(self, trial: Trial) -> None:
        """Pull what the trial's workers have pushed."""
        if self.store:
            pull_trial(self.store, trial.id, self.trial(trial))

    def results(self, trial_id: str) -> Rooted:
        """The folder of a finished trial with its verdicts and model, which are pulled if they are not here yet."""
        place = self.file(f"{TRIALS}/{trial_id}")
        if self.store:
            pull_results(self.store, trial_id, place)
        return place

    def fetch_results(self, trials: Sequence[Trial]) -> None:
        """Pull what `results` would, of many trials at once."""
        if self.store:
            in_threads(self.results, [trial.id for trial in trials])

    def append_event(self, trial: Trial, event: str, **fields: Any) -> None:
        """Append to the record of a trial that no worker is writing."""
        folder = self.trial(trial)
        sync = self.trial_sync(trial, folder)
        if isinstance(sync, StoreTrialSync):
            sync.start_attempt(Workers())
        Record(folder, sync.push_record).append(event, **fields)

    def statuses(self, sweep: Sweep) -> list[tuple[Trial, TrialStatus]]:
        """All trials so far with their status, in the order of `trials`."""
        root = f"{self.path}/{TRIALS}/"  # without the checks of `below`: a status is known of a checked path only
        return [
            (trial, known_status(root + trial.id) or read_status(self.trial(trial))) for trial in self.trials(sweep)
        ]

    def trials(self, sweep: Sweep) -> tuple[Trial, ...]:
        """All trials so far: first the predefined ones, then the proposed ones in order, finalists last."""
        if not sweep.open:
            return sweep.trials
        try:
            with os.scandir(self.path / TRIALS) as entries:
                names = [entry.name for entry in entries]
        except FileNotFoundError:
            names = []
        proposed = [trial for name in names if (trial := self._proposed(name)) is not None]
        return (*sweep.trials, *sorted(proposed, key=_order))

    def find(self, sweep: Sweep, trial_id: str) -> Trial:
        """The trial with this id, predefined or proposed."""
        check_file_name("trial.id", trial_id)
        if known := sweep.by_id.get(trial_id):
            return known
        if (trial := self._proposed(trial_id)) is None:
            raise InputError(f"{str(self.path)!r} has no trial {trial_id!r}")
        return trial

    def _proposed(self, trial_id: str) -> Trial | None:
        """The trial that `propose` wrote. It never changes, so it is read once; None if it is not there."""
        name = f"{self.path}/{TRIALS}/{trial_id}/{TRIAL}"
        try:
            seen = os.lstat(name)
        except (FileNotFoundError, NotADirectoryError):
            return None
        written = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
        known = _trials.get(name)
        if known is None or known[0] != written:
            trial = _read_trial(self.file(f"{TRIALS}/{trial_id}/{TRIAL}"))
            known = _trials[name] = (written, trial)
        return known[1]

    def propose(self, trial: Trial) -> None:
        """Add a trial to an open sweep."""
        make_folder(self.trial(trial))
        write_atomically(below(self.trial(trial), TRIAL), json.dumps(to_dict(trial), indent=1))
        self.copy_to_store(f"{TRIALS}/{trial.id}/{TRIAL}")

    def create(self, sweep: Sweep) -> None:
        """Create the folder and write the sweep's spec.

        Raises:
            InputError: the folder cannot be written or is not empty.
        """
        refuse_if_used(self.path, SPEC, "a sweep")
        try:
            make_folder(chosen(self.path))
            write_atomically(self.file(SPEC), json.dumps(to_dict(sweep), indent=1))
        except OSError as error:
            raise InputError(f"output folder {str(self.path)!r} cannot be written: {error.strerror}") from error
        self.mark_store(sweep)
        self.copy_to_store(SPEC)

    def write(self, name: str, content: str) -> None:
        """Write a text file, and copy it to the store."""
        write_atomically(self.file(name), content)
        self.copy_to_store(name)

    def write_user_code(self, digests: Mapping[str, str]) -> None:
        """Write the digests of the user's modules, if there are any. See `bat_core.user_modules`."""
        if digests:
            write_atomically(self.file(USER_CODE), json.dumps(to_dict(UserCode(digests)), indent=1))
            self.copy_to_store(USER_CODE)

    def user_code(self) -> dict[str, str]:
        """The digests of the user's modules when the sweep was started; empty if it used none.

        Raises:
            InputError: the file is damaged.
        """
        path = self.file(USER_CODE)
        return dict(_read(UserCode, path).sha256) if path.exists() else {}

    def mark_store(self, sweep: Sweep) -> None:
        """Remember in this folder that the user keeps the sweep in the folder's store."""
        if self.store and self.store.uri == sweep.storage:
            mark(self.path, STORAGE, f"{sweep.id} {sweep.storage}")

    def has_marked_store(self, sweep: Sweep) -> bool:
        """Whether this user, and not whoever packed the folder, chose the store that the sweep names."""
        return is_marked(self.path, STORAGE, f"{sweep.id} {sweep.storage}")

    def load(self) -> Sweep:
        """Read the sweep's spec.

        Raises:
            InputError: the spec is missing or invalid.
        """
        try:
            return from_dict(Sweep, read_json(read_regular(below(self.path, SPEC))))
        except OSError as error:
            raise InputError(
                f"--resume {str(self.path)!r}: no sweep there, {SPEC} is missing: use the folder of a sweep"
            ) from error
        except ValueError as error:
            raise InputError(f"--resume {str(self.path)!r}: {SPEC} is not a valid sweep: {error}") from error

    def write_report(self, report: Report) -> None:
        """Write the report, and copy it with its files to the store."""
        write_atomically(self.file(REPORT), json.dumps(to_dict(report), indent=1))
        for name in (*report.files, REPORT):
            self.copy_to_store(name)

    def report(self) -> Report | None:
        """The report of a finished sweep; None if there is none yet.

        Raises:
            InputError: the file is damaged or names a file outside the folder.
        """
        path = self.file(REPORT)
        return _read(Report, path) if path.exists() else None


_trials: dict[str, tuple[tuple[int, int, int], Trial]] = {}  # by path: inode, size and time of change; the trial


def _order(trial: Trial) -> tuple[bool, tuple[tuple[int, str], ...]]:
    """Sort key: finalists last."""
    return trial.role == "finalist", _natural_key(trial.id)


@functools.lru_cache(maxsize=1 << 20)
def _natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """Sort key that puts trial-999 before trial-1000."""
    return tuple((int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name))


def _read_trial(path: Path) -> Trial:
    trial = _read(Trial, path)
    if trial.id != path.parent.name:
        raise InputError(f"{str(path)!r} describes trial {trial.id!r}: its folder must have that name")
    return trial


def _read(kind: type[C], path: Path) -> C:
    try:
        return from_dict(kind, read_json(read_regular(path)))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r}: {error}") from error
