"""Reuses trials that other sweeps have finished, instead of training them again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bat_core
from bat_core.data import Dataset
from bat_core.errors import InputError
from bat_core.paths import Rooted, below, copy_file, copy_folder, make_folder
from bat_core.user_modules import changed_modules, source_digests
from bat_core.verdicts import Verdicts
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import RECORD, RESULT_FILES, VERDICTS, Record, read_events, read_status
from sweeps.engine.sweep.spec import SPEC, Sweep, Trial
from sweeps.engine.sweep.trial_sync import GALLERY, MODEL

REUSED = "reused"


@dataclass(frozen=True)
class Finished:
    """A finished trial of any sweep."""

    sweep: Sweep
    trial: Trial
    folder: Path


def reuse_finished(sweep: Sweep, folder: SweepFolder, dataset: Dataset, places: Sequence[Path]) -> list[Finished]:
    """Reuse trials finished by sweeps in `places` that have the same config hash, code and test images.

    Copies model, verdicts and record, and records their origin. Sweeps in a store are skipped, as source and target.

    Returns:
        The reused trials.
    """
    if folder.store:
        return []
    wanted = {
        trial.config.hash: trial for trial in sweep.trials if read_status(folder.trial(trial)).phase != "finished"
    }
    taken = []
    for found in finished_trials(places):
        trial = wanted.get(found.trial.config.hash)
        if trial is None or found.folder == folder.trial(trial) or not _fits(found, dataset):
            continue
        _copy(found, folder.trial(trial))
        taken.append(found)
        del wanted[trial.config.hash]
    return taken


def finished_trials(places: Sequence[Path]) -> Iterator[Finished]:
    """The finished trials of sweeps in `places` or directly below, newest sweep first."""
    folders = {path.parent for place in places for pattern in (SPEC, f"*/{SPEC}") for path in place.glob(pattern)}
    sweeps = []
    for path in folders:
        try:
            sweeps.append((SweepFolder(path).load(), SweepFolder(path)))
        except InputError:
            continue  # of another version, or damaged
    for sweep, folder in sorted(sweeps, key=lambda one: one[0].created, reverse=True):
        for trial in () if sweep.storage else folder.trials(sweep):
            home = folder.trial(trial)
            if read_status(home).phase == "finished":
                yield Finished(sweep, trial, home)


def _fits(found: Finished, dataset: Dataset) -> bool:
    """Whether the same code trained it, and the same images were used to evaluate it."""
    if not _same_code(found):
        return False
    starts = [event for event in read_events(found.folder) if event["event"] == "start"]
    if not starts or starts[-1].get("versions", {}).get("bat_sweeps") != bat_core.__version__:
        return False
    part = dataset.part(found.trial.config.attack.split)
    try:
        verdicts = Verdicts.read(found.folder / VERDICTS)
    except InputError:
        return False
    order = np.argsort(part.rows.numpy(), kind="stable")
    same = np.array_equal(verdicts.rows, part.rows.numpy()[order])
    return same and np.array_equal(verdicts.labels, part.labels.numpy()[order])


def _same_code(found: Finished) -> bool:
    """Whether the user's modules that its config names are what they were when it was trained."""
    config = found.trial.config
    names = (config.model, config.recipe.name, config.data.name)
    modules = {name.partition(":")[0].partition(".")[0] for name in names if ":" in name}
    if not modules:
        return True
    now, then = source_digests(), SweepFolder(found.folder.parents[1]).user_code()
    return not changed_modules(then, now) and all((name in then) == (name in now) for name in modules)


def _copy(found: Finished, home: Rooted) -> None:
    """Copy a trial. The record comes last: without it the trial does not count as finished."""
    make_folder(home)
    copy_folder(below(found.folder, MODEL), below(home, MODEL))
    for name in (*RESULT_FILES, GALLERY, RECORD):
        if (source := below(found.folder, name)).exists():
            copy_file(source, below(home, name))
    Record(home).append(REUSED, sweep=found.sweep.id, trial=found.trial.id, folder=str(found.folder))
