"""Disks that are full, read-only or gone for a while, and servers that are away: real ones, in a trial's midst."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bat_core.data import Dataset
from sweeps.engine.storage.retry import StorageError
from sweeps.engine.sweep.records import RECORD, VERDICTS, Record, read_events, read_status
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial, trial_epochs
from tests.disks import Disk

CPU = torch.device("cpu")
WEIGHTS = "model/model.safetensors"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path, "4m")
    yield disk
    disk.close()


@pytest.fixture
def trial(make_trial) -> Trial:
    return Trial(id="one", config=make_trial(epochs=3))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked result of `whole`, made once for the module."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def whole(trial: Trial, digits: Dataset, done: Path) -> Path:
    """What the trial leaves where nothing disturbs it."""
    run_trial(trial, digits, done, TrialRuntime(device=CPU))
    return done


FAULTS: dict[str, tuple[Callable[[Disk], None], Callable[[Disk], None], str]] = {
    "full": (Disk.fill, Disk.free, os.strerror(errno.ENOSPC)),
    "read-only": (Disk.read_only, Disk.writable, os.strerror(errno.EROFS)),
    "gone": (Disk.unmount, Disk.mount, os.strerror(errno.ENOENT)),
}
every_fault = pytest.mark.parametrize(
    "fault", ["full", *(pytest.param(fault, marks=pytest.mark.slow) for fault in ("read-only", "gone"))]
)


@every_fault
def test_a_disk_that_fails_for_good_fails_the_trial_and_loses_nothing(
    fault: str, disk: Disk, trial: Trial, digits: Dataset, whole: Path, impatient: None
) -> None:
    begin, end, said = FAULTS[fault]
    folder = disk.path / "trial"
    running = trial_epochs(trial, digits, folder, TrialRuntime(device=CPU))
    next(running), next(running)
    begin(disk)
    with pytest.raises(
        StorageError, match=r"the checkpoint cannot be written in '.*/checkpoints': .*use --resume$"
    ) as failed:
        next(running)
    assert said in str(failed.value)
    assert not (fault == "gone" and any(disk.path.iterdir()))  # nothing is written where the disk was
    end(disk)
    status = read_status(folder)
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2]

    run_trial(trial, digits, folder, TrialRuntime(device=CPU))
    status = read_status(folder)
    assert status.phase == "finished"
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, 3]
    assert [event["from_epoch"] for event in read_events(folder) if event["event"] == "start"] == [0, 2]
    for name in (WEIGHTS, VERDICTS):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@every_fault
def test_a_disk_that_fails_for_a_while_is_waited_for(
    fault: str, disk: Disk, trial: Trial, digits: Dataset, whole: Path, while_it_waits: list[Callable[[], None]]
) -> None:
    begin, end, _ = FAULTS[fault]
    folder = disk.path / "trial"
    running = trial_epochs(trial, digits, folder, TrialRuntime(device=CPU))
    next(running)
    begin(disk)
    while_it_waits += [lambda: None, lambda: end(disk)]
    assert len(list(running)) == 2
    assert not while_it_waits
    status = read_status(folder)
    assert (status.phase, status.attempts) == ("finished", 1)
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, 3]
    assert (folder / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_a_line_that_the_disk_took_in_part_is_cut_off(disk: Disk, impatient: None) -> None:
    record = Record(disk.path)
    record.append("start")
    disk.fill()  # the record's page has room for less than a long line
    with pytest.raises(StorageError, match=rf"{RECORD} cannot be written in .*: {os.strerror(errno.ENOSPC)}"):
        record.append("epoch", epoch=1, note="x" * 10_000)
    assert (disk.path / RECORD).read_bytes().endswith(b"}\n")
    record.append("epoch", epoch=1)  # there is room for a short one
    disk.free()
    record.append("epoch", epoch=2, note="x" * 10_000)
    lines = (disk.path / RECORD).read_text().splitlines()
    assert [json.loads(line).get("epoch") for line in lines] == [None, 1, 2]


def test_a_line_that_could_not_even_be_cut_off_is_not_glued_to_the_next(disk: Disk) -> None:
    record = Record(disk.path)
    record.append("start")
    with (disk.path / RECORD).open("a") as file:
        file.write('{"event": "epo')
    record.append("epoch", epoch=1)
    assert [event["event"] for event in read_events(disk.path)] == ["start", "epoch"]


def test_a_reason_that_the_disk_does_not_take_hides_no_other(
    disk: Disk, trial: Trial, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = trial_epochs(trial, digits, disk.path / "trial", TrialRuntime(device=CPU))
    next(running)

    def fail(*_: object) -> None:
        disk.read_only()
        raise FloatingPointError("the loss is no longer finite")

    monkeypatch.setattr("bat_core.fit._Trainer._validate", fail)
    with pytest.raises(FloatingPointError, match="no longer finite"):
        next(running)
    assert read_status(disk.path / "trial").phase == "training"
