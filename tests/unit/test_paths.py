"""Paths below a root, and writing that follows no link."""

import os
import socket
import stat

import pytest

from bat_core.errors import InputError
from bat_core.paths import (
    Rooted,
    append_to,
    atomic_file,
    below,
    check_regular,
    copy_folder,
    drop_torn_line,
    make_folder,
    new_folder,
    open_lock,
    read_regular,
    remove,
    remove_partial_files,
    write_atomically,
)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def outside(tmp_path):
    """A file of the user's own, which no test may change."""
    path = tmp_path / "outside" / "file.txt"
    path.parent.mkdir()
    path.write_text("the user's own\n")
    yield path
    assert path.read_text() == "the user's own\n"
    assert [one.name for one in path.parent.iterdir()] == ["file.txt"]


@pytest.mark.parametrize(
    "name",
    [
        *("..", ".", "", "/", "/etc/passwd", "a//b", "a/", "../x", "a/../../x", "model/../../../../evil.txt"),
        *("a\\b", "..\\x", "C:", "C:\\x", "c:x", "a\0b", "a\nb", "\ud800", "NUL", "nul.json", "a/COM1", "x" * 256),
        "ä" * 128,
    ],
)
def test_a_name_that_leads_out_or_has_another_meaning_elsewhere_is_refused(folder, name):
    with pytest.raises(InputError, match="must stay within its folder") as caught:
        below(folder, name)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", ["a", ".lock", "a/b/c.json", "attempt-0001-0a/model/x", "ä b", "NULL", "...", "x" * 255]
)
def test_other_names_are_taken(folder, name):
    assert below(folder, name) == folder / name
    assert below(folder, *name.split("/")) == folder / name


def test_a_link_that_leads_out_is_refused_at_every_level(folder, outside):
    (folder / "folder").symlink_to(outside.parent)
    (folder / "file").symlink_to(outside)
    (folder / "gone").symlink_to(folder.parent / "missing")
    for name in ("folder", "folder/file.txt", "folder/new", "file", "gone"):
        with pytest.raises(InputError, match="is a link that leads out of"):
            below(folder, name)


def test_a_link_within_the_root_and_a_root_that_is_a_link_are_taken(folder, tmp_path):
    (folder / "real").mkdir()
    (folder / "link").symlink_to("real")
    (tmp_path / "users-own-link").symlink_to(folder)
    write_atomically(below(tmp_path / "users-own-link", "link", "x"), "text")
    assert (folder / "real" / "x").read_text() == "text"


def test_a_link_in_place_of_a_file_is_replaced_not_followed(folder, outside):
    path = below(folder, "table.md")
    path.symlink_to(outside)
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert not path.is_symlink()


def test_a_link_with_the_name_of_an_old_temporary_file_is_not_followed(folder, outside):
    (folder / ".table.md.partial").symlink_to(outside)
    write_atomically(below(folder, "table.md"), "new")
    assert (folder / "table.md").read_text() == "new"


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(folder):
    path = below(folder, "x")
    write_atomically(path, "old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:  # noqa: PT012
        file.write(b"half")
        raise RuntimeError
    assert [one.name for one in folder.iterdir()] == ["x"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("open_own", [append_to, open_lock])
def test_a_file_that_is_appended_to_or_locked_is_not_a_link_nor_a_fifo_nor_a_folder(folder, outside, open_own):
    path = below(folder, "record.jsonl")
    path.symlink_to(outside)
    with pytest.raises(InputError, match="is a link, and it is not followed"):
        open_own(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="is not a regular file"):
        open_own(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="is not a regular file"):
        open_own(path)


def test_another_name_of_an_appended_file_keeps_its_content(folder, outside):
    path = below(folder, "record.jsonl")
    os.link(outside, path)
    with append_to(path) as file:
        file.write(b"more\n")
    assert path.read_text() == "the user's own\nmore\n"


def test_a_torn_line_is_cut_off_and_only_it(folder):
    path = below(folder, "record.jsonl")
    drop_torn_line(path)
    assert not path.exists()
    for content, left in (
        (b"", b""),
        (b"a\nb", b"a\n"),
        (b"torn", b""),
        (b"a\n", b"a\n"),
        (b"a\n" + b"b" * 3_000_000, b"a\n"),
    ):
        path.write_bytes(content)
        drop_torn_line(path)
        assert path.read_bytes() == left


def test_only_regular_files_of_a_bounded_size_are_read(folder):
    os.mkfifo(folder / "fifo")
    (folder / "huge").touch()
    os.truncate(folder / "huge", 1 << 40)
    for name, said in (("fifo", "is not a regular file"), ("huge", "has 1099511627776 bytes"), (".", "not a regular")):
        with pytest.raises(InputError, match=said):
            read_regular(folder / name)
    with pytest.raises(FileNotFoundError):
        read_regular(folder / "missing")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_what_is_new_belongs_to_its_owner_alone(folder):
    make_folder(below(folder, "a/b"))
    write_atomically(below(folder, "a/b/x"), "")
    append_to(below(folder, "a/b/y")).close()
    assert [mode(folder / name) for name in ("a", "a/b", "a/b/x", "a/b/y")] == [0o700, 0o700, 0o600, 0o600]


def test_a_file_that_is_replaced_keeps_the_permissions_that_its_owner_gave_it(folder):
    path = below(folder, "x")
    write_atomically(path, "1")
    path.chmod(0o644)
    write_atomically(path, "2")
    assert mode(path) == 0o644


def test_a_folder_that_is_shared_with_a_group_shares_what_is_made_in_it(folder):
    folder.chmod(0o2770)
    make_folder(below(folder, "a"))
    write_atomically(below(folder, "a/x"), "")
    append_to(below(folder, "a/y")).close()
    assert [mode(folder / name) for name in ("a", "a/x", "a/y")] == [0o2770, 0o660, 0o660]


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(folder, outside):
    path = below(folder, "model")
    (folder / ".model.partial").symlink_to(outside.parent)
    with new_folder(path) as new:
        write_atomically(below(new, "a"), "1")
    with pytest.raises(RuntimeError), new_folder(path) as new:
        raise RuntimeError
    assert [one.name for one in path.iterdir()] == ["a"]
    with new_folder(path) as new:
        write_atomically(below(new, "b"), "2")
    assert [one.name for one in path.iterdir()] == ["b"]


def test_a_link_is_removed_and_not_what_it_points_to(folder, outside):
    (folder / "link").symlink_to(outside.parent)
    remove(folder / "link")
    remove(folder / "link")
    assert not (folder / "link").is_symlink()


def test_a_copy_of_a_folder_has_no_links(folder, outside):
    (folder / "model").mkdir()
    (folder / "model" / "x").symlink_to(outside)
    with pytest.raises(InputError, match="is a link that leads out"):
        copy_folder(folder / "model", below(folder, "copy"))


def test_a_link_that_leads_back_to_itself_is_no_file_to_read(folder):
    for name, target in (("a", "a"), ("b", "c"), ("c", "b")):
        (folder / name).symlink_to(target)
        with pytest.raises(InputError, match=r"is a link, and it is not followed|leads back to itself"):
            append_to(below(folder, name))
    for name in ("a", "b"):
        for reader in (read_regular, check_regular):
            with pytest.raises(InputError, match="is a link that leads back to itself: remove it"):
                reader(folder / name)


def test_a_socket_is_no_file_to_read(folder, monkeypatch):
    monkeypatch.chdir(folder)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("x")
        with pytest.raises(InputError, match="is not a regular file"):
            read_regular(folder / "x")


def test_files_that_killed_writers_left_are_removed_and_no_others(tmp_path):
    (tmp_path / "below").mkdir()
    with atomic_file(Rooted(tmp_path / "below" / "a.bin")):
        (left,) = (tmp_path / "below").glob(".a.bin.*")
        left.with_name(left.name.replace("a.bin", "b.bin")).touch()  # another writer's, which could not clean up
    (tmp_path / "below" / ".kept").touch()
    remove_partial_files(tmp_path, but="below")
    assert left.with_name(left.name.replace("a.bin", "b.bin")).exists()
    remove_partial_files(tmp_path)
    assert sorted(path.name for path in (tmp_path / "below").iterdir()) == [".kept", "a.bin"]
