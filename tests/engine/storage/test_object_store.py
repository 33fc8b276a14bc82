"""Files in a store: whole or not at all, waited for while it fails, and one sentence when it fails for good."""

import pytest

from bat_core.errors import InputError
from sweeps.engine.storage.object_store import Storage
from sweeps.engine.storage.retry import StorageError, retry_storage


def test_what_is_pushed_is_pulled(store, tmp_path):
    (tmp_path / "a").write_bytes(b"first")
    store.push(tmp_path / "a", "x/y/a")
    store.write("second", "x/b")
    store.pull("x/y/a", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == b"first"
    assert list((tmp_path / "deep").iterdir()) == [tmp_path / "deep" / "copy"]
    assert store.read("x/b") == b"second"
    assert [(stored.key, stored.size) for stored in store.files()] == [("x/b", 6), ("x/y/a", 5)]
    assert [stored.key for stored in store.under("x").files("y")] == ["y/a"]
    assert store.names("x") == ["b", "y"]
    assert store.names("nowhere") == store.files("nowhere") == []


def test_what_is_pushed_again_has_changed(store):
    store.write("one", "a")
    before = store.files()
    store.write("three", "a")
    assert store.read("a") == b"three"
    assert store.files() != before


def test_files_and_all_below_a_key_are_dropped(store):
    for key in ("a", "x/a", "x/y/b", "xx"):
        store.write("here", key)
    assert store.exists("a")
    store.drop("a")
    store.drop("x")
    store.drop("nowhere")
    assert [stored.key for stored in store.files()] == ["xx"]
    assert not store.exists("a")
    assert not store.exists("x")


def test_an_endpoint_may_come_from_the_environment(s3, monkeypatch):
    Storage.at(s3.uri("environment")).write("here", "a")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3.address}")
    assert Storage.at("s3://bucket/environment").read("a") == b"here"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("s3://nowhere/x?{}", "bucket does not exist"),
        ("s3://me:secret@bucket/x", "contains a password"),
        ("s3://bucket/x?scheme=http&wrong=1", "wrong"),
        ("gopher://bucket/x", "use s3:// or file://, or a folder"),
        ("/dev/null/x", "is not a folder"),
    ],
)
def test_a_store_that_cannot_be_is_refused_in_one_sentence(uri, said, s3, impatient):
    with pytest.raises(InputError, match=said) as refused:
        Storage.at(uri.format(f"endpoint_override={s3.address}&scheme=http"))
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("--storage-path")


def test_a_server_that_is_away_is_waited_for(s3, while_it_waits):
    store = Storage.at(s3.uri("away"))
    s3.stop()
    while_it_waits += [lambda: None, s3.start]
    store.write("here", "a")
    assert not while_it_waits
    assert store.read("a") == b"here"


def test_a_server_that_stays_away_is_named_with_what_failed(s3, impatient):
    store = Storage.at(s3.uri("gone"))
    s3.stop()
    try:
        with pytest.raises(StorageError) as failed:
            store.under("trials").write("here", "a")
    finally:
        s3.start()
    said = str(failed.value)
    assert said.startswith("a cannot be written in 's3://bucket/gone/trials': ")
    assert "connect to server" in said  # "Could not" or "Couldn't", by the version of curl
    assert said.endswith("when the storage works again, use --resume")
    assert "\n" not in said


def test_a_folder_that_is_no_longer_mounted_is_not_written_into(tmp_path, impatient):
    store = Storage.at(str(tmp_path / "store"))
    (tmp_path / "store").rmdir()
    for use in (lambda: store.write("here", "a"), store.files, store.names, lambda: store.exists("a")):
        with pytest.raises(StorageError, match="is it mounted"):
            use()
    assert not (tmp_path / "store").exists()


def test_a_push_that_fails_leaves_what_was_there(s3, tmp_path, impatient):
    store = Storage.at(s3.uri("kept"))
    store.write("before", "a")
    with pytest.raises(StorageError):
        store.push(tmp_path / "missing", "a")
    assert store.read("a") == b"before"


def test_what_is_no_fault_of_storage_is_not_tried_again():
    calls = []

    def wrong():
        calls.append(1)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        retry_storage(wrong, "nothing", "nowhere")
    assert len(calls) == 1
