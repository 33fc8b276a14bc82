import json
import multiprocessing
from pathlib import Path

import pytest

from bat_core.errors import InputError
from sweeps.engine.storage.locks import exclusive
from sweeps.engine.sweep.records import RECORD, Record, read_events, read_status


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


DAMAGED = {
    "NULs, as a file system leaves them after a crash": b"\0" * 4096,
    "noise": bytes(range(128, 256)) + b"\xff\xfe{",
    "half a line": b'{"event": "epoch", "time": 1.0, "epo',
    "two lines that ran into one another": b'{"event": "start", "time": 1.0}{"event": "start", "time": 1.0}',
    "another shape": b"[1, 2]",
    "no event": b'{"time": 1.0}',
    "an event that is no word": b'{"event": ["epoch"], "time": 1.0}',
    "no time": b'{"event": "start"}',
    "a time that is no number": b'{"event": "start", "time": "now"}',
    "NaN": b'{"event": "start", "time": NaN}',
    "a number beyond all": b'{"event": "start", "time": 1e999}',
    "a whole number beyond all": b'{"event": "start", "time": 1' + b"0" * 400 + b"}",
    "more digits than Python reads": b'{"event": "start", "time": 1' + b"0" * 5000 + b"}",
    "too deep": b'{"event": "start", "time": 1.0, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a key twice": b'{"event": "start", "time": 1.0, "time": 2.0}',
    "an epoch without its number": b'{"event": "epoch", "time": 1.0}',
    "a loss that is no number": b'{"event": "epoch", "time": 1.0, "epoch": 9, "train_loss": "low"}',
    "a failure without its reason": b'{"event": "failed", "time": 1.0, "reason": null}',
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_line_costs_that_line_alone(tmp_path: Path, what: str) -> None:
    record = Record(tmp_path)
    record.append("start")
    with record.path.open("ab") as file:
        file.write(DAMAGED[what] + b"\n")
    record.append("epoch", epoch=1)
    record.append("finished", robust_acc=0.5)
    assert [event["event"] for event in read_events(tmp_path)] == ["start", "epoch", "finished"]
    status = read_status(tmp_path)
    assert (status.phase, status.attempts, [epoch["epoch"] for epoch in status.epochs]) == ("finished", 1, [1])
    assert status.unread == 1


def test_a_trial_whose_end_is_lost_runs_again_and_its_epochs_count_once(tmp_path: Path) -> None:
    record = Record(tmp_path)
    record.append("start")
    for epoch in (1, 2):
        record.append("epoch", epoch=epoch, train_loss=1.0)
    record.append("finished", robust_acc=0.5)
    record.path.write_bytes(record.path.read_bytes().replace(b'"finished"', b"\0" * 10))
    assert not read_status(tmp_path).done
    record.append("start")
    record.append("epoch", epoch=1, train_loss=2.0)
    assert [(epoch["epoch"], epoch["train_loss"]) for epoch in read_status(tmp_path).epochs] == [(1, 2.0)]


def test_a_record_that_ends_in_nuls_is_gone_on_with(tmp_path: Path) -> None:
    Record(tmp_path).append("start")
    with (tmp_path / RECORD).open("ab") as file:
        file.write(b"\0" * 512)
    assert read_status(tmp_path).unread == 0
    Record(tmp_path).append("epoch", epoch=1)
    assert [event["event"] for event in read_events(tmp_path)] == ["start", "epoch"]
    assert b"\0" not in (tmp_path / RECORD).read_bytes()


SOUND = {"time": 1.0, "suite": "s", "verdict": "clear", "flags": [], "versions": {"torch": "2"}, "reason": "r"}


@pytest.mark.parametrize(
    "changes",
    [
        *({"verdict": "../../outside"}, {"verdict": None}, {"verdict": []}, {"flags": "x"}, {"flags": [1]}),
        *({"versions": "2"}, {"versions": {"torch": None}}, {"passed_over": {"1": 2}}, {"passed_over": ["1"]}),
        *({"threats": []}, {"threats": {"l2": 0.4}}, {"threats": {"l2": {"robust_acc": "1", "n": 2, "suite": "s"}}}),
        *({"threats": {"l2": {"robust_acc": 0.4, "n": 2}}}, {"threats": {"l2": {"robust_acc": 0.4, "suite": "s"}}}),
        *({"suite": 1}, {"reason": {}}, {"time": "now"}, {"time": 2**70}, {"seconds": None}),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["start", "finished"])
def test_a_line_with_a_value_that_no_reader_knows_is_passed_over(tmp_path: Path, kind: str, changes: dict) -> None:
    lines = [{"event": kind, **SOUND}, {"event": kind, **SOUND, **changes}]
    (tmp_path / RECORD).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert read_events(tmp_path) == lines[:1]
    assert read_status(tmp_path).unread == 1


def test_a_record_that_is_a_link_to_itself_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / RECORD).symlink_to(tmp_path / RECORD)
    with pytest.raises(InputError, match="is a link that leads back to itself: remove it"):
        read_status(tmp_path)
