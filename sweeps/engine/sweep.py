"""What a sweep is, and the folder it lives in."""

import datetime
import functools
import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import bat_core
from bat_core.config import Param, TrialConfig, from_dict, to_dict
from bat_core.errors import InputError, check_amount, check_file_name, check_finite, shown
from bat_core.jsontext import read_json
from bat_core.workers import Workers
from sweeps.engine.keeping import Attempt, Keeping, pull_trial
from sweeps.engine.patience import patiently
from sweeps.engine.records import Record
from sweeps.engine.storage import Storage

SPEC = "sweep.json"
TRIAL = "trial.json"
REPORT = "report.json"

C = TypeVar("C")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model to train and judge. `id` names its folder and its MLflow run.

    A "grid" trial is what the sweep is about; a "reference" is drawn beside it for comparison. A "search"
    trial was proposed while the sweep ran, at `point` of its space; a "finalist" trains such a point again.
    """

    id: str
    config: TrialConfig
    role: str = "grid"
    point: Mapping[str, Param] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_file_name("trial.id", self.id)


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What one trial gets: `num_workers` processes, each with so many CPU cores and GPUs."""

    num_workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        check_finite("resources.num_workers", self.num_workers, low=1)
        check_finite("resources.cpus_per_worker", self.cpus_per_worker, low=1)
        check_finite("resources.gpus_per_worker", self.gpus_per_worker)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Everything that was decided before the first trial began; written once, as sweep.json.

    `pixel` is the data set's unit of budget in [0, 1]. `trials` are those known beforehand; a search is
    `open`, and proposes its trials as it goes. `storage` is where nodes that share no folder keep the sweep.
    """

    name: str
    id: str
    created: str
    command: str
    data_dir: str | None
    pixel: float
    resources: Resources
    trials: tuple[Trial, ...]
    open: bool = False
    storage: str | None = None
    version: str = bat_core.__version__

    def __post_init__(self) -> None:
        check_file_name("sweep.name", self.name)
        check_file_name("sweep.id", self.id)
        check_time("sweep.created", self.created)
        check_amount("sweep.pixel", self.pixel)
        if not self.trials and not self.open:
            raise InputError("the sweep has no trials: give at least one seed and one budget")
        counted = Counter(trial.id for trial in self.trials)
        if twice := next((trial_id for trial_id, count in counted.items() if count > 1), None):
            raise InputError(f"trial {twice!r} stands in the sweep twice: give each seed and budget once")

    @classmethod
    def new(
        cls,
        name: str,
        *,
        command: str,
        data_dir: str | None,
        pixel: float,
        resources: Resources,
        trials: Sequence[Trial],
        open: bool = False,
        storage: str | None = None,
    ) -> "Sweep":
        """A sweep with an id of its own.

        Raises:
            InputError: two trials bear one id, or there are none.
        """
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(
            name=name,
            id=secrets.token_hex(8),
            created=created,
            command=command,
            data_dir=data_dir,
            pixel=pixel,
            resources=resources,
            trials=tuple(trials),
            open=open,
            storage=storage,
        )

    def title(self, folder: "SweepFolder") -> str:
        """What the sweep is called in MLflow: its folder's name, with its own before it."""
        name = folder.path.name
        return name if name.startswith(self.name) else f"{self.name}-{name}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a finished sweep shows: files in its folder, and what they say in one sentence."""

    files: tuple[str, ...]
    sentence: str

    def __post_init__(self) -> None:
        for file in self.files:
            check_file_name("report.files", file)


@dataclass(frozen=True)
class SweepFolder:
    """Where a sweep's records, models and figures lie.

    With a `store` the driver's folder follows it, and every process that runs a trial has a cache of its own;
    `driver` says on whose behalf it writes.
    """

    path: Path
    store: Storage | None = None
    driver: str = ""

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
        patiently((self.path / SPEC).stat, "there is no sweep", self.path)  # nothing is written where a disk was
        return self.trial(trial)

    def keeping(self, trial: Trial, home: Path) -> Keeping:
        """What becomes of a trial's files besides lying in its home."""
        return Attempt(self.store, trial.id, home, driver=self.driver) if self.store else Keeping()

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

    def tell(self, trial: Trial, event: str, **fields: Any) -> None:
        """Add to the record of a trial that nobody else is writing any more."""
        folder = self.trial(trial)
        keeping = self.keeping(trial, folder)
        if isinstance(keeping, Attempt):
            keeping.take_record(Workers())
        Record(folder, keeping.recorded).append(event, **fields)

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


def check_time(where: str, written: str) -> None:
    """A time is written as ISO 8601 has it.

    Raises:
        InputError: it is not.
    """
    try:
        datetime.datetime.fromisoformat(written).timestamp()
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where}={shown(written)} is no time: write it as 2026-01-31T12:00:00+00:00") from error


def cache() -> Path:
    """Where this node keeps what a store has: BAT_SWEEPS_CACHE, else a folder in the user's home."""
    return Path(os.environ.get("BAT_SWEEPS_CACHE") or Path.home() / ".cache" / "bat-sweeps") / "sweeps"


def refuse_if_used(folder: Path, spec: str, noun: str) -> None:
    """Raises InputError when the folder holds something already: `noun`, if `spec` lies in it."""
    try:
        if (folder / spec).exists():
            raise InputError(f"{str(folder)!r} holds {noun} already: go on with --resume, or name another --output")
        if folder.exists() and any(folder.iterdir()):
            raise InputError(f"output folder {str(folder)!r} is not empty: name another --output")
    except OSError as error:
        raise InputError(f"output folder {str(folder)!r} cannot be written: {error.strerror}") from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that readers find the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
