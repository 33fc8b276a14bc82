"""Whole sweeps whose storage fails: a disk that fills up, a server that goes away, a machine that is lost."""

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.engine.sweep.records import read_status
from tests.disks import Disk
from tests.integration.conftest import CHEAP, TINY
from tests.integration.running import Output, Place, kill_tree_when, wait_until
from tests.s3 import S3

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SOME = (*TINY, *CHEAP, "--eps-x", "20/255", "--seeds", "0", "1", "--reference", "none")  # of the trials in `finished`


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path, "64m")
    yield disk
    disk.close()


def assert_same(output: Output, undisturbed: Output) -> None:
    statuses = output.statuses()
    assert all(status.phase == "finished" for status in statuses.values())
    assert all([epoch["epoch"] for epoch in status.epochs] == [1, 2, 3] for status in statuses.values())
    same = undisturbed.weights()
    assert output.weights() == {trial: same[trial] for trial in statuses}


def test_a_sweep_whose_disk_fills_up_says_so_and_goes_on_when_there_is_room(
    finished: tuple[Output, str], place: Place, disk: Disk, impatient: None
) -> None:
    undisturbed, _ = finished
    output = place.sweep(str(disk.path / "full"))
    process = place.start("eps_budget.py", *SOME, "--output", str(disk.path / "full"))
    wait_until(lambda: any(status.epochs for status in output.statuses().values()), process)
    disk.fill()
    printed, _ = process.communicate()
    assert process.returncode in {1, 130}, printed
    assert os.strerror(errno.ENOSPC) in printed
    assert "use --resume" in printed
    before = output.statuses()

    disk.free()
    code, printed = place.run("eps_budget.py", "--resume", str(disk.path / "full"))
    assert code == 0, printed
    assert_same(output, undisturbed)
    for trial, status in before.items():
        assert output.statuses()[trial].epochs[: len(status.epochs)] == status.epochs  # nothing recorded was lost


def test_a_sweep_outlives_its_server_going_away_and_then_its_machine(
    finished: tuple[Output, str], place: Place, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, _ = finished
    uri = s3.uri("sweep")
    monkeypatch.setenv("BAT_SWEEPS_CACHE", str(tmp_path / "node"))
    output = place.sweep("first-machine")
    process = place.start("eps_budget.py", *SOME, "--output", "first-machine", "--storage-path", uri)
    wait_until(lambda: any(status.epochs for status in output.statuses().values()), process)
    s3.stop()
    assert process.stdout
    try:
        said = next(line for line in process.stdout if "trials retry for up to" in line)
    finally:
        s3.start()
    assert "cannot be" in said
    kill_tree_when(process, lambda: any(status.phase == "finished" for status in output.statuses().values()))
    seen = output.statuses()
    shutil.rmtree(tmp_path / "node")
    shutil.rmtree(output.folder.path)

    code, printed = place.run("eps_budget.py", "--resume", uri, "--output", "second-machine")
    assert code == 0, printed
    again = place.sweep("second-machine")
    assert_same(again, undisturbed)
    assert again.file("figure_1.png")
    for trial, status in seen.items():
        now = read_status(again.folder.path / "trials" / trial)
        assert now.epochs[: len(status.epochs)] == status.epochs
        assert status.phase != "finished" or now.attempts == status.attempts
