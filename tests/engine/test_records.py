import json
import multiprocessing
from pathlib import Path

import pytest

from sweeps.engine.records import RECORD, Record, exclusive, read_events, read_status


def test_a_status_follows_its_events(tmp_path: Path) -> None:
    assert read_status(tmp_path).phase == "waiting"
    record = Record(tmp_path)
    record.append("start")
    record.append("epoch", epoch=1)
    assert read_status(tmp_path).phase == "training"
    record.append("attack", done=0, of=9)
    record.append("attack", done=4, of=9)
    status = read_status(tmp_path)
    assert (status.phase, status.attack and status.attack["done"]) == ("attacking", 4)
    assert status.attack_started == read_events(tmp_path)[2]["time"]
    record.append("finished", robust_acc=0.5)
    assert read_status(tmp_path).done


def test_a_failed_trial_that_starts_again_is_training(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.append("start")
    record.append("failed", reason="out of memory")
    assert read_status(tmp_path).reason == "out of memory"
    record.append("start")
    status = read_status(tmp_path)
    assert (status.phase, status.attempts, status.reason, status.done) == ("training", 2, "", False)


def test_a_line_that_a_crash_cut_short_is_passed_over_and_then_overwritten(tmp_path: Path) -> None:
    Record(tmp_path).append("start")
    with (tmp_path / RECORD).open("a") as file:
        file.write('{"event": "epo')
    assert [event["event"] for event in read_events(tmp_path)] == ["start"]
    Record(tmp_path).append("epoch", epoch=1)
    lines = (tmp_path / RECORD).read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["start", "epoch"]


def test_no_value_that_json_lacks_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Record(tmp_path).append("epoch", loss=float("nan"))
    assert read_events(tmp_path) == []


def hold(path: Path, held: "multiprocessing.synchronize.Event") -> None:
    with exclusive(path):
        held.set()
        multiprocessing.Event().wait()


def test_a_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held = context.Event()
    holder = context.Process(target=hold, args=(tmp_path / "lock", held), daemon=True)
    holder.start()
    assert held.wait(60)
    with pytest.raises(BlockingIOError), exclusive(tmp_path / "lock", wait=False):
        pass
    holder.kill()
    with exclusive(tmp_path / "lock", wait=True):
        pass
