"""A trial that is kept in a store: resumed on another node, by one writer at a time."""

import io
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from bat_core.config import SecondThreat
from bat_core.errors import InputError
from bat_core.paths import below
from bat_core.verdicts import Verdicts
from bat_core.workers import Workers
from sweeps.engine.storage.object_store import Storage
from sweeps.engine.storage.retry import StorageError, TakenOverError
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.packed import HEAD, read_head, unpack
from sweeps.engine.sweep.records import RECORD, VERDICTS, VERIFIED, VERIFIED_SECOND, read_events, read_status
from sweeps.engine.sweep.remote import DriverLease
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial, trial_epochs
from sweeps.engine.sweep.trial_sync import GALLERY, AttemptHistory, StoreTrialSync, pull_trial
from tests.engine.sweep.test_trial import verifying

CPU = torch.device("cpu")
WEIGHTS = "model/model.safetensors"
RESULTS = {WEIGHTS, "model/config.json", "model/checksums.json", VERDICTS, GALLERY, RECORD}


@pytest.fixture
def store(s3, tmp_path):
    return Storage.at(s3.uri(tmp_path.name))


@pytest.fixture
def trial(make_trial):
    return Trial(id="one", config=make_trial(epochs=3))


@pytest.fixture
def driver(store):
    driver = DriverLease()
    driver.renew(store)
    return driver


@pytest.fixture
def epochs(store, driver, trial, digits, tmp_path):
    """Runs the trial on a node, an epoch at a time."""

    def run(node):
        home = tmp_path / node
        sync = StoreTrialSync(store, trial.id, home, driver=driver.token)
        return trial_epochs(trial, digits, home, TrialRuntime(device=CPU, workers=Workers(), sync=sync))

    return run


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The unpacked result of `whole`, made once for the module."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def whole(trial, digits, done):
    """What the trial leaves where nothing disturbs it."""
    run_trial(trial, digits, done, TrialRuntime(device=CPU))
    return done


def assert_ended_as(whole: Path, store, tmp_path: Path) -> None:
    pull_trial(store, "one", tmp_path / "driver")
    status = read_status(tmp_path / "driver")
    assert status.phase == "finished"
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, 3]
    for name in (WEIGHTS, VERDICTS):
        assert (tmp_path / "driver" / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_finished_trial_is_in_the_store_and_nothing_but_its_record_on_its_node(epochs, store, whole, tmp_path):
    assert len(list(epochs("a"))) == 3
    assert_ended_as(whole, store, tmp_path)
    (attempt,) = AttemptHistory.of(store, "one").attempts
    assert {stored.key for stored in store.files("trials")} == {f"trials/one/{attempt}/{name}" for name in RESULTS}
    assert {path.name for path in (tmp_path / "a").iterdir()} == {RECORD, ".lock"}
    assert list(epochs("a")) == list(epochs("b")) == []  # finished, on this node and on another


def test_what_the_verifying_suite_found_is_in_the_store_too(epochs, store, trial, digits, tmp_path, driver):
    verified = Trial(id="verified", config=verifying(trial.config, 2))
    sync = StoreTrialSync(store, verified.id, tmp_path / "a", driver=driver.token)
    run_trial(verified, digits, tmp_path / "a", TrialRuntime(device=CPU, sync=sync))
    pull_trial(store, verified.id, tmp_path / "driver")
    assert len(Verdicts.read(tmp_path / "driver" / VERIFIED)) == 2


def test_what_the_second_norm_left_is_in_the_store_too(epochs, store, trial, digits, tmp_path, driver):
    verified = Trial(id="both", config=verifying(trial.config, 2, second=SecondThreat(norm="l2", eps=0.4)))
    sync = StoreTrialSync(store, verified.id, tmp_path / "a", driver=driver.token)
    run_trial(verified, digits, tmp_path / "a", TrialRuntime(device=CPU, sync=sync))
    assert not (tmp_path / "a" / VERIFIED_SECOND).exists()
    pull_trial(store, verified.id, tmp_path / "driver")
    assert len(Verdicts.read(tmp_path / "driver" / VERIFIED_SECOND)) == 2


def test_another_node_goes_on_where_one_stopped(epochs, store, whole, tmp_path):
    first = epochs("a")
    next(first), next(first)
    shutil.rmtree(tmp_path / "a")  # with its node
    assert [metrics["epoch"] for metrics in epochs("b")] == [3]
    assert_ended_as(whole, store, tmp_path)
    assert read_status(tmp_path / "driver").attempts == 2


def stored_checkpoints(store) -> dict[str, str]:
    """The keys of the checkpoints in the store, by their names."""
    keys = [stored.key for stored in store.files("trials") if "/checkpoints/" in stored.key]
    return {read_head(store.head(key, HEAD))[0]: key for key in keys}


def test_the_two_newest_checkpoints_are_in_the_store(epochs, store):
    running = epochs("a")
    for kept in ({"epoch_0001"}, {"epoch_0001", "epoch_0002"}, {"epoch_0002", "epoch_0003"}):
        next(running)
        assert stored_checkpoints(store).keys() == kept


def test_checkpoints_move_to_the_attempt_that_goes_on(epochs, store):
    next(epochs("a"))
    next(epochs("b"))
    old, new = AttemptHistory.of(store, "one").attempts
    found = {(name, key.split("/")[2]) for name, key in stored_checkpoints(store).items()}
    assert found == {("epoch_0001", new), ("epoch_0002", new)}
    assert store.exists(f"trials/one/{old}/{RECORD}")


def damage(store, key: str, name: str) -> None:
    """Flip a bit in the middle of a file in a packed checkpoint, or in the header before it."""
    content = bytearray(store.read(key))
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        member = tar.next() if name == "header" else tar.getmember(f"epoch_0002/{name}")
        content[150 if name == "header" else member.offset_data + member.size // 2] ^= 0x01
    store.send(lambda out: out.write(content), key)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "config.json", "checksums.json"])
def test_a_checkpoint_that_the_store_damaged_is_named_and_the_one_before_used(name, epochs, store, whole, tmp_path):
    first = epochs("a")
    next(first), next(first)
    damage(store, stored_checkpoints(store)["epoch_0002"], name)
    list(epochs("b"))
    pull_trial(store, "one", tmp_path / "driver")
    start = [event for event in read_events(tmp_path / "driver") if event["event"] == "start"][-1]
    assert start["from_epoch"] == 1
    assert list(start["passed_over"]) == ["epoch_0002"]
    assert "damaged" in start["passed_over"]["epoch_0002"]
    assert (tmp_path / "driver" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


@pytest.mark.parametrize("how", ["header", "cut", "nothing"])
def test_a_checkpoint_whose_name_cannot_be_read_is_passed_over(how, epochs, store, whole, tmp_path):
    first = epochs("a")
    next(first), next(first)
    key = stored_checkpoints(store)["epoch_0002"]
    if how == "header":
        damage(store, key, "header")
    else:
        store.send(lambda out: out.write(b"" if how == "nothing" else store.read(key)[:700]), key)
    list(epochs("b"))
    pull_trial(store, "one", tmp_path / "driver")
    start = [event for event in read_events(tmp_path / "driver") if event["event"] == "start"][-1]
    assert start["from_epoch"] == 1
    assert list(start["passed_over"]) == ["epoch_unreadable_1"]
    assert (tmp_path / "driver" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", ["../../evil", "epoch_0002/../../evil", "/evil", "epoch_0002/checksums.json/x"])
def test_a_name_in_a_packed_checkpoint_leads_nowhere_else(name, tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for one in ("epoch_0002/checksums.json", name):
            member = tarfile.TarInfo(one)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    (tmp_path / "node").mkdir()
    unpack(io.BytesIO(content.getvalue()), below(tmp_path / "node", "epoch_0002"))
    assert {path.name for path in tmp_path.iterdir()} == {"node"}
    assert {path.name for path in (tmp_path / "node").iterdir()} == {"epoch_0002"}
    assert not Path("/evil").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_packed_checkpoint_with_anything_but_files_is_refused(kind, tmp_path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        member = tarfile.TarInfo("epoch_0002/checksums.json")
        member.type, member.linkname = kind, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(InputError, match="is not a file"):
        unpack(io.BytesIO(content.getvalue()), below(tmp_path, "epoch_0002"))
    assert read_head(content.getvalue()) is None


def test_a_checkpoint_that_the_store_lacks_is_not_there(epochs, store, tmp_path):
    first = epochs("a")
    next(first), next(first)
    store.drop(stored_checkpoints(store)["epoch_0002"])
    next(epochs("b"))
    start = [event for event in read_events(tmp_path / "b") if event["event"] == "start"][-1]
    assert (start["from_epoch"], "passed_over" in start) == (1, False)


def test_a_node_that_has_a_checkpoint_does_not_fetch_it_again(epochs, store, tmp_path, monkeypatch):
    next(epochs("a"))
    fetched = []
    monkeypatch.setattr("sweeps.engine.sweep.trial_sync.unpack", lambda *given: fetched.append(given))
    next(epochs("a"))
    assert not fetched


def test_a_nodes_own_checkpoint_that_the_store_lacks_is_not_gone_on_from(epochs, store, tmp_path):
    first = epochs("a")
    next(first), next(first)
    first.close()
    store.drop(stored_checkpoints(store)["epoch_0002"])
    next(epochs("a"))
    assert [event["from_epoch"] for event in read_events(tmp_path / "a") if event["event"] == "start"] == [0, 1]


def test_who_outlived_its_sweep_stops_and_its_successor_goes_on(epochs, store, whole, tmp_path):
    lingering = epochs("a")
    next(lingering)
    successor = epochs("b")
    next(successor)
    with pytest.raises(
        TakenOverError, match=r"attempt-0002-\w+ has taken over trial one in .*: attempt-0001-\w+ stops"
    ):
        next(lingering)
    list(successor)
    assert_ended_as(whole, store, tmp_path)
    assert "failed" not in {event["event"] for event in read_events(tmp_path / "driver")}


def test_what_it_pushed_before_it_saw_that_is_read_by_nobody(epochs, store, whole, tmp_path, monkeypatch):
    lingering = epochs("a")
    next(lingering)
    successor = epochs("b")
    next(successor)
    with monkeypatch.context() as patch:
        patch.setattr(StoreTrialSync, "_check_newest", lambda self: None)
        assert [metrics["epoch"] for metrics in lingering] == [2, 3]
    list(successor)
    assert_ended_as(whole, store, tmp_path)


def test_a_driver_that_was_replaced_has_no_trial_begun(epochs, store, driver):
    store.drop(driver.key)
    with pytest.raises(TakenOverError, match="another driver has taken over"):
        next(epochs("a"))
    assert store.files("trials") == []


def test_what_the_driver_adds_to_a_record_takes_the_trial_over(epochs, store, driver, trial, tmp_path):
    running = epochs("a")
    next(running)
    SweepFolder(tmp_path / "driver", store, driver.token).append_event(trial, "stopped", reason="halving")
    with pytest.raises(TakenOverError):
        next(running)
    pull_trial(store, "one", tmp_path / "elsewhere")
    status = read_status(tmp_path / "elsewhere")
    assert (status.phase, status.reason, len(status.epochs)) == ("stopped", "halving", 1)


def test_a_store_that_stays_away_fails_the_trial_which_goes_on_when_it_is_back(
    s3, epochs, store, whole, tmp_path, impatient
):
    running = epochs("a")
    next(running)
    s3.stop()
    try:
        with pytest.raises(
            StorageError, match=r"cannot be .*Could(n't| not) connect to server, for 0 seconds; when the storage"
        ):
            next(running)
    finally:
        s3.start()
    pull_trial(store, "one", tmp_path / "seen")
    assert read_status(tmp_path / "seen").phase == "training"  # readable, and nothing of it lost
    assert [epoch["epoch"] for epoch in read_status(tmp_path / "seen").epochs] == [1]
    list(epochs("b"))
    assert_ended_as(whole, store, tmp_path)


def test_a_store_that_is_away_for_a_while_costs_nothing(s3, epochs, store, whole, tmp_path, while_it_waits):
    running = epochs("a")
    next(running)
    s3.stop()
    while_it_waits.append(s3.start)
    list(running)
    assert not while_it_waits
    assert_ended_as(whole, store, tmp_path)
    assert read_status(tmp_path / "driver").attempts == 1


def work(rank: int, meeting: str, trial, digits, uri: str, homes: Path, driver: str) -> None:
    """One of two workers, each on a node of its own."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
    sync = StoreTrialSync(Storage(uri), trial.id, homes / str(rank), driver=driver)
    run_trial(trial, digits, homes / str(rank), TrialRuntime(device=CPU, sync=sync))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("before", [0, 1])
def test_workers_on_two_nodes_join_their_shares_and_go_on_from_one_checkpoint(
    before, epochs, store, driver, trial, digits, tmp_path
):
    for _, _ in zip(range(before), epochs("before"), strict=False):  # so many epochs, elsewhere
        pass
    meeting = f"file://{tmp_path / 'meeting'}"
    torch.multiprocessing.spawn(
        work, (meeting, trial, digits, store.uri, tmp_path / "node", driver.token), nprocs=2, join=True
    )
    pull_trial(store, "one", tmp_path / "driver")
    status = read_status(tmp_path / "driver")
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, 3]
    began = [event["from_epoch"] for event in read_events(tmp_path / "driver") if event["event"] == "start"]
    assert began == [0, 1][: before + 1]
    assert len(Verdicts.read(tmp_path / "driver" / VERDICTS)) == status.result["n"] == len(digits.test)
    assert not [stored.key for stored in store.files() if "/shards/" in stored.key or "/checkpoints/" in stored.key]
