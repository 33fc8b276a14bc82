"""Trials that other sweeps have finished: a model that is there already is not trained again."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import bat_core
from bat_core.data import Dataset
from bat_core.errors import InputError
from bat_core.verdicts import Verdicts
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import RECORD, VERDICTS, VERIFIED, Record, read_events, read_status
from sweeps.engine.sweep.spec import SPEC, Sweep, Trial
from sweeps.engine.sweep.trial_sync import MODEL

REUSED = "reused"


@dataclass(frozen=True)
class Finished:
    """A finished trial of some sweep."""

    sweep: Sweep
    trial: Trial
    folder: Path


def reuse_finished(sweep: Sweep, folder: SweepFolder, dataset: Dataset, places: Sequence[Path]) -> list[Finished]:
    """Take over every trial that a sweep in one of `places` has finished: same config hash, code and test images.

    Model, verdicts and record are copied, and the record says where from. Sweeps that are kept in a store are
    left alone, both ways.

    Returns:
        What was taken over.
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
    """Those of the sweeps that lie in the folders `places`, or are such folders themselves; the newest sweep first."""
    folders = {path.parent for place in places for pattern in (SPEC, f"*/{SPEC}") for path in place.glob(pattern)}
    sweeps = []
    for path in folders:
        try:
            sweeps.append((SweepFolder(path).load(), SweepFolder(path)))
        except InputError:
            continue  # of another version, or damaged: there is nothing to be had
    for sweep, folder in sorted(sweeps, key=lambda one: one[0].created, reverse=True):
        for trial in () if sweep.storage else folder.trials(sweep):
            home = folder.trial(trial)
            if read_status(home).phase == "finished":
                yield Finished(sweep, trial, home)


def _fits(found: Finished, dataset: Dataset) -> bool:
    """Whether this code trained it, and it was judged on the very images that are there now."""
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


def _copy(found: Finished, home: Path) -> None:
    """The record comes last: without it there is no finished trial."""
    home.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(home / MODEL, ignore_errors=True)
    shutil.copytree(found.folder / MODEL, home / MODEL)
    for name in (VERDICTS, VERIFIED):
        if (found.folder / name).exists():
            shutil.copyfile(found.folder / name, home / name)
    partial = home / f".{RECORD}.partial"
    shutil.copyfile(found.folder / RECORD, partial)
    partial.replace(home / RECORD)
    Record(home).append(REUSED, sweep=found.sweep.id, trial=found.trial.id, folder=str(found.folder))
