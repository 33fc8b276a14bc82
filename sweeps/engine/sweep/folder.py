"""The folder that a sweep lives in: the one place that knows what lies where."""

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bat_core.config import from_dict, to_dict
from bat_core.errors import InputError, check_file_name
from bat_core.jsontext import read_json
from bat_core.workers import Workers
from sweeps.engine.storage.files import cache, refuse_if_used, write_atomically
from sweeps.engine.storage.object_store import Storage
from sweeps.engine.storage.retry import retry_storage
from sweeps.engine.sweep.records import Record, TrialStatus, read_status
from sweeps.engine.sweep.spec import Report, Sweep, Trial
from sweeps.engine.sweep.trial_sync import StoreTrialSync, TrialSync, pull_trial

SPEC = "sweep.json"
TRIAL = "trial.json"
REPORT = "report.json"

C = TypeVar("C")


@dataclass(frozen=True)
class SweepFolder:
    """Where a sweep's records, models and figures lie.

    With a `store` the driver's folder follows it, and every process that runs a trial has a cache of its own;
    `driver` says on whose behalf it writes.
    """

    path: Path
    store: Storage | None = None
    driver: str = ""

    def title(self, sweep: Sweep) -> str:
        """The sweep's name in MLflow: the folder's name, after the sweep's own."""
        name = self.path.name
        return name if name.startswith(sweep.name) else f"{sweep.name}-{name}"

    def trial(self, trial: Trial) -> Path:
        """The folder of one trial."""
        return self.path / "trials" / trial.id

    def home(self, trial: Trial, sweep: Sweep, rank: int) -> Path:
        """The folder in which worker number `rank` runs a trial.

        Raises:
            StorageError: the sweep's folder is not there, for as long as it is waited for.
        """
        if self.store:
            return cache() / sweep.id / str(rank) / "trials" / trial.id
        retry_storage((self.path / SPEC).stat, "there is no sweep", self.path)  # nothing is written where a disk was
        return self.trial(trial)

    def trial_sync(self, trial: Trial, home: Path) -> TrialSync:
        """What becomes of a trial's files besides lying in its home."""
        return StoreTrialSync(self.store, trial.id, home, driver=self.driver) if self.store else TrialSync()

    def ray(self, sweep: Sweep) -> Path:
        """Where Ray writes what nobody reads: on no disk of the sweep's, whose faults would be Ray's."""
        return cache() / sweep.id / "ray"

    def keep(self, name: str) -> None:
        """Copy one of the driver's files, or all in a folder of it, to the store, if there is one."""
        if self.store:
            kept = self.path / name
            for file in sorted(kept.rglob("*")) if kept.is_dir() else [kept]:
                if file.is_file() and not file.name.startswith("."):
                    self.store.push(file, file.relative_to(self.path).as_posix())

    def refresh(self, trial: Trial) -> None:
        """Bring the trial's folder to what its workers have pushed."""
        if self.store:
            pull_trial(self.store, trial.id, self.trial(trial))

    def append_event(self, trial: Trial, event: str, **fields: Any) -> None:
        """Add to the record of a trial that nobody else is writing any more."""
        folder = self.trial(trial)
        sync = self.trial_sync(trial, folder)
        if isinstance(sync, StoreTrialSync):
            sync.take_record(Workers())
        Record(folder, sync.recorded).append(event, **fields)

    def statuses(self, sweep: Sweep) -> list[tuple[Trial, TrialStatus]]:
        """Every trial so far with its state, in the order of `trials`."""
        return [(trial, read_status(self.trial(trial))) for trial in self.trials(sweep)]

    def trials(self, sweep: Sweep) -> tuple[Trial, ...]:
        """All trials so far: those known beforehand, then those proposed, in order, finalists last."""
        if not sweep.open:
            return sweep.trials
        proposed = [_read_trial(path, path.stat().st_mtime_ns) for path in self.path.glob(f"trials/*/{TRIAL}")]
        return (*sweep.trials, *sorted(proposed, key=lambda trial: (trial.role == "finalist", _counted(trial.id))))

    def find(self, sweep: Sweep, trial_id: str) -> Trial:
        """The trial with this id, known beforehand or proposed."""
        known = {trial.id: trial for trial in sweep.trials}
        check_file_name("trial.id", trial_id)
        path = self.path / "trials" / trial_id / TRIAL
        return known.get(trial_id) or _read_trial(path, path.stat().st_mtime_ns)

    def propose(self, trial: Trial) -> None:
        """Add a trial to an open sweep; from then on it is one of its trials."""
        self.trial(trial).mkdir(parents=True, exist_ok=True)
        write_atomically(self.trial(trial) / TRIAL, json.dumps(to_dict(trial), indent=1))
        self.keep(f"trials/{trial.id}/{TRIAL}")

    def create(self, sweep: Sweep) -> None:
        """Make the folder and write the sweep's description into it.

        Raises:
            InputError: it cannot be written, or holds something already.
        """
        refuse_if_used(self.path, SPEC, "a sweep")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / SPEC, json.dumps(to_dict(sweep), indent=1))
        except OSError as error:
            raise InputError(f"output folder {str(self.path)!r} cannot be written: {error.strerror}") from error
        self.keep(SPEC)

    def load(self) -> Sweep:
        """The sweep that lives here.

        Raises:
            InputError: none does.
        """
        spec = self.path / SPEC
        try:
            return from_dict(Sweep, read_json(spec.read_bytes()))
        except OSError as error:
            raise InputError(f"--resume {str(self.path)!r}: no sweep there, {SPEC} is missing") from error
        except ValueError as error:
            raise InputError(f"--resume {str(self.path)!r}: {SPEC} is not a sweep's description: {error}") from error

    def write_report(self, report: Report) -> None:
        """Keep what the sweep shows beside its records."""
        write_atomically(self.path / REPORT, json.dumps(to_dict(report), indent=1))
        for name in (*report.files, REPORT):
            self.keep(name)

    def report(self) -> Report | None:
        """What the sweep shows, once it is finished.

        Raises:
            InputError: the file is damaged, or names a file outside the folder.
        """
        path = self.path / REPORT
        return _read(Report, path) if path.exists() else None


def _counted(name: str) -> list[tuple[int, str]]:
    """Sorts trial-999 before trial-1000."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


@functools.lru_cache(maxsize=10_000)
def _read_trial(path: Path, written: int) -> Trial:  # noqa: ARG001 (another file of that name is another trial)
    """What `SweepFolder.propose` wrote; it never changes."""
    trial = _read(Trial, path)
    if trial.id != path.parent.name:
        raise InputError(f"{str(path)!r} describes trial {trial.id!r}: a trial lies in the folder of its own name")
    return trial


def _read(kind: type[C], path: Path) -> C:
    try:
        return from_dict(kind, read_json(path.read_bytes()))
    except ValueError as error:
        raise InputError(f"{str(path)!r}: {error}") from error
