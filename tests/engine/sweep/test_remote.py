"""The driver of a sweep in a store: alone there, in sync with its workers, found again from an empty disk."""

import json
import shutil
from dataclasses import replace

import pytest
from rich.console import Console

from bat_core.errors import InputError
from bat_core.workers import Workers
from sweeps.engine.cli.options import SweepOptions
from sweeps.engine.storage.object_store import Storage, Stored
from sweeps.engine.storage.retry import StorageError, TakenOverError
from sweeps.engine.sweep import remote as module
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import Record, read_status
from sweeps.engine.sweep.remote import DriverLease, StoreFollower, hold_lease, open_sweep
from sweeps.engine.sweep.spec import SPEC, Report, Resources, Sweep, Trial
from sweeps.engine.sweep.trial_sync import StoreTrialSync

CONSOLE = Console(quiet=True)


@pytest.fixture
def trial(make_trial):
    return Trial(id="one", config=make_trial())


@pytest.fixture
def sweep(trial, store):
    return Sweep(
        name="sweep",
        command="",
        data_dir=None,
        pixel=1 / 255,
        resources=Resources(),
        trials=(trial,),
        storage=store.uri,
    )


@pytest.fixture
def folder(sweep, store, tmp_path):
    folder = SweepFolder(tmp_path / "driver", store)
    folder.create(sweep)
    return folder


def record(folder, trial, home):
    """A worker's record."""
    attempt = folder.trial_sync(trial, home)
    attempt.begin(Workers())
    return Record(home, attempt.push_record)


def test_what_workers_record_reaches_the_driver(folder, trial, tmp_path):
    with hold_lease(folder, CONSOLE) as driven:
        worker = record(driven, trial, tmp_path / "node")
        follower = StoreFollower(driven, driven.store, DriverLease(driven.driver), CONSOLE)
        worker.append("start")
        follower.poll()
        assert read_status(folder.trial(trial)).phase == "training"
        worker.append("epoch", epoch=1)
        follower.poll()
        assert len(read_status(folder.trial(trial)).epochs) == 1
        worker.append("failed", reason="why")
        driven.refresh(trial)
        assert read_status(folder.trial(trial)).reason == "why"


def test_a_driver_that_begins_sees_what_is_recorded(folder, trial, tmp_path):
    with hold_lease(folder, CONSOLE) as driven:
        record(driven, trial, tmp_path / "node").append("start")
    assert not folder.trial(trial).exists()
    with hold_lease(folder, CONSOLE):
        assert read_status(folder.trial(trial)).phase == "training"


def test_a_second_driver_is_refused_until_the_first_has_ended(folder, tmp_path):
    other = replace(folder, path=tmp_path / "other")
    with hold_lease(folder, CONSOLE):
        with pytest.raises(InputError, match=r"is driven by process \d+ on .*, last seen \d+ s ago: wait for it"):
            hold_lease(other, CONSOLE).__enter__()
        assert len(folder.store.names("drivers")) == 1
    with hold_lease(other, CONSOLE):
        pass
    assert folder.store.names("drivers") == []


ELSEWHERE = DriverLease(host="elsewhere")


def test_a_driver_that_is_known_to_be_dead_is_not_waited_for(folder, monkeypatch):
    dead = DriverLease(process=2**22 + 1)  # above Linux's largest
    dead.renew(folder.store)
    with hold_lease(folder, CONSOLE):
        assert not folder.store.exists(dead.key)


def test_a_driver_of_another_machine_is_obeyed_while_it_is_heard_of(folder, monkeypatch):
    ELSEWHERE.renew(folder.store)
    with pytest.raises(InputError, match="on elsewhere"):
        hold_lease(folder, CONSOLE).__enter__()
    monkeypatch.setattr(module, "LEASE", 0.0)
    with hold_lease(folder, CONSOLE):
        assert not folder.store.exists(ELSEWHERE.key)


def test_a_driver_that_was_silent_for_too_long_and_was_replaced_stops(folder, monkeypatch, trial, tmp_path):
    with hold_lease(folder, CONSOLE) as replaced:
        follower = StoreFollower(replaced, replaced.store, DriverLease(replaced.driver), CONSOLE)
        follower.poll()
        monkeypatch.setattr(module, "LEASE", 0.0)
        monkeypatch.setattr(module, "RENEWAL", 0.0)
        monkeypatch.setattr(DriverLease, "has_ended", lambda self: False)
        with hold_lease(replace(folder, path=tmp_path / "other"), CONSOLE):
            with pytest.raises(TakenOverError, match="another driver has taken over"):
                follower.poll()
            with pytest.raises(TakenOverError, match="another driver has taken over"):
                record(replaced, trial, tmp_path / "node")


def test_a_sweep_is_found_from_an_empty_disk(folder, sweep, trial, tmp_path):
    (folder.path / "figure.csv").write_text("numbers")
    folder.write_report(Report(files=("figure.csv",), sentence="so it is"))
    (folder.path / "val-1" / "one").mkdir(parents=True)
    (folder.path / "val-1" / "one" / "summary.json").write_text("{}")
    folder.copy_to_store("val-1")
    proposed = replace(trial, id="two")
    folder.propose(proposed)
    shutil.rmtree(folder.path)
    found = open_sweep(folder.store.uri, tmp_path / "fresh")
    assert found == SweepFolder(tmp_path / "fresh", folder.store)
    assert found.load() == sweep
    assert found.report() == Report(files=("figure.csv",), sentence="so it is")
    assert (found.path / "figure.csv").read_text() == "numbers"
    assert (found.path / "val-1" / "one" / "summary.json").read_text() == "{}"
    assert found.trials(replace(sweep, open=True)) == (trial, proposed)


def test_a_folder_knows_its_store(folder):
    assert open_sweep(str(folder.path), None) == folder


def test_a_folder_without_a_store_is_as_it_is(sweep, tmp_path):
    plain = SweepFolder(tmp_path / "plain")
    plain.create(replace(sweep, storage=None))
    assert open_sweep(str(plain.path), None) == plain
    with hold_lease(plain, CONSOLE) as driven:
        assert driven == plain
    assert plain.home(sweep.trials[0], sweep, 0) == plain.trial(sweep.trials[0])


def test_what_cannot_be_gone_on_with_is_refused(folder, sweep, tmp_path, store):
    nowhere = Storage(store.uri.replace(tmp_path.name, f"{tmp_path.name}-empty")).uri
    with pytest.raises(InputError, match="no sweep there"):
        open_sweep(nowhere, tmp_path / "new")
    other = SweepFolder(tmp_path / "other")
    other.create(replace(sweep, id="another", storage=None))
    with pytest.raises(InputError, match="contains a different sweep than"):
        open_sweep(store.uri, other.path)


def test_a_new_sweep_needs_an_empty_store(folder, store, tmp_path):
    with pytest.raises(InputError, match="is not empty: use --resume"):
        SweepOptions(output=tmp_path / "new", storage_path=store.uri).new_folder("sweep")


def test_output_may_be_named_beside_a_store_that_is_resumed():
    SweepOptions(resume="s3://bucket/x", output="here").refuse_with_resume()
    with pytest.raises(InputError, match="--output cannot be given"):
        SweepOptions(resume="folder", output="here").refuse_with_resume()


def test_a_sweeps_folder_that_is_gone_is_not_made_anew(sweep, trial, tmp_path, impatient):
    plain = SweepFolder(tmp_path / "gone")
    with pytest.raises(StorageError, match=r"there is no sweep in .*gone"):
        plain.home(trial, sweep, 0)
    assert not plain.path.exists()


def test_results_arrive_before_the_record_that_speaks_of_them(folder, trial, tmp_path, monkeypatch):
    with hold_lease(folder, CONSOLE) as driven:
        home = tmp_path / "node"
        attempt = driven.trial_sync(trial, home)
        assert isinstance(attempt, StoreTrialSync)
        attempt.begin(Workers())
        (home / "model").mkdir(parents=True)
        for name in ("model/checksums.json", "verdicts.parquet"):
            (home / name).write_text(json.dumps(name))
        attempt.push_results()
        Record(home, attempt.push_record).append("finished")
        seen = []
        pull = Storage.pull
        monkeypatch.setattr(Storage, "pull", lambda self, key, to: (seen.append(to.name), pull(self, key, to)))
        driven.refresh(trial)
    assert seen == ["checksums.json", "verdicts.parquet", "record.jsonl"]
    assert SPEC not in seen


@pytest.fixture
def strangers(folder, sweep, tmp_path, monkeypatch):
    """A copy of a sweep's folder, as its maker packed it; where its maker's key is not."""
    shutil.copytree(folder.path, tmp_path / "unpacked")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "my-state"))
    return tmp_path / "unpacked"


def test_a_folder_that_was_unpacked_does_not_say_where_its_sweep_is_kept(strangers, store):
    with pytest.raises(InputError, match=r"nothing shows that you chose that place.*--storage-path"):
        open_sweep(str(strangers), None)
    assert open_sweep(str(strangers), None, store.uri) == SweepFolder(strangers, store)
    assert open_sweep(str(strangers), None) == SweepFolder(strangers, store), "it was named once"


def test_a_place_that_was_changed_is_neither_asked_nor_made(folder, tmp_path, monkeypatch):
    for uri in ("s3://bucket/x?endpoint_override=127.0.0.1:9&scheme=http", (tmp_path / "made").as_uri()):
        content = json.loads((folder.path / SPEC).read_text())
        (folder.path / SPEC).write_text(json.dumps(content | {"storage": uri}))
        with monkeypatch.context() as patch:
            patch.setattr("sweeps.engine.storage.object_store._connect", lambda _: pytest.fail("it was asked"))
            with pytest.raises(InputError, match="nothing shows that you chose that place"):
                open_sweep(str(folder.path), None)
    assert not (tmp_path / "made").exists()


def test_a_storage_path_must_be_that_of_the_sweep(strangers, folder, sweep, tmp_path):
    with pytest.raises(InputError, match="does not contain the sweep in"):
        open_sweep(str(strangers), None, str(tmp_path / "another"))
    plain = SweepFolder(tmp_path / "plain")
    plain.create(replace(sweep, storage=None))
    with pytest.raises(InputError, match="is kept in its folder: omit --storage-path"):
        open_sweep(str(plain.path), None, folder.store.uri)
    with pytest.raises(InputError, match="are two stores"):
        open_sweep(folder.store.uri, None, folder.store.uri)


@pytest.mark.parametrize("key", ["model/../../../../evil.txt", "../evil.txt", "/evil.txt", "a//b", "a\\..\\b", "C:/x"])
def test_a_key_of_a_store_that_leads_out_is_refused(folder, tmp_path, monkeypatch, key):
    listed = Storage.files
    monkeypatch.setattr(Storage, "files", lambda self, under="": [*listed(self, under), Stored(key, 1, 0)])
    before = {path for path in tmp_path.rglob("*") if "fresh" not in path.parts}
    with pytest.raises(InputError, match="must stay within its folder"):
        open_sweep(folder.store.uri, tmp_path / "fresh")
    assert {path for path in tmp_path.rglob("*") if "fresh" not in path.parts} == before


def test_an_attempt_with_a_strange_name_is_refused(folder, trial, tmp_path):
    folder.store.write("{}", f"trials/{trial.id}/attempt-x/record.jsonl")
    with pytest.raises(InputError, match="is not the name of an attempt"):
        folder.refresh(trial)
