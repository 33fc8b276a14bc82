"""A mark shows that this user wrote a setting, and nobody else can make one."""

import json
import shutil
import stat

import pytest

from sweeps.engine.storage.marks import MARKS, is_marked, key_file, mark


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    return path


def test_a_setting_that_was_marked_is_known_and_no_other(folder):
    assert not is_marked(folder, "storage", "s3://a")
    mark(folder, "storage", "s3://a")
    mark(folder, "code", "x:y")
    assert is_marked(folder, "storage", "s3://a")
    assert is_marked(folder, "code", "x:y")
    assert not is_marked(folder, "storage", "s3://b")
    assert not is_marked(folder, "code", "s3://a")


def test_a_folder_that_its_own_user_copies_keeps_its_mark(folder, tmp_path):
    mark(folder, "storage", "s3://a")
    shutil.copytree(folder, tmp_path / "copy")
    assert is_marked(tmp_path / "copy", "storage", "s3://a")


def test_another_users_mark_shows_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "strangers"))
    mark(folder, "storage", "s3://a")
    assert is_marked(folder, "storage", "s3://a")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert not is_marked(folder, "storage", "s3://a")
    mark(folder, "other", "x")  # makes a key of one's own
    assert not is_marked(folder, "storage", "s3://a")


def test_a_mark_in_a_file_of_another_owner_shows_nothing(folder, monkeypatch):
    mark(folder, "storage", "s3://a")
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    assert not is_marked(folder, "storage", "s3://a")


def test_the_key_is_private_and_one_that_others_can_read_is_not_used(folder):
    mark(folder, "storage", "s3://a")
    assert stat.S_IMODE(key_file().stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file().parent.stat().st_mode) == 0o700
    assert [one.name for one in key_file().parent.iterdir()] == [key_file().name]
    key_file().chmod(0o644)
    assert not is_marked(folder, "storage", "s3://a")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"storage": 1}', '{"storage": "ä"}', "{" * 100_000, '{"storage": null}']
)
def test_a_file_of_marks_that_is_damaged_shows_nothing(folder, content):
    mark(folder, "storage", "s3://a")
    (folder / MARKS).write_text(content)
    assert not is_marked(folder, "storage", "s3://a")


def test_no_mark_is_kept_where_no_key_can_be(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    mark(folder, "storage", "s3://a")
    assert not is_marked(folder, "storage", "s3://a")


def test_the_mark_holds_neither_the_key_nor_the_value(folder):
    mark(folder, "storage", "s3://a")
    content = (folder / MARKS).read_bytes()
    assert key_file().read_bytes().hex().encode() not in content
    assert set(json.loads(content)) == {"storage"}
