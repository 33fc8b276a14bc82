"""What a command does with errors that nothing below it has answered: one sentence and an exit code."""

import errno
import os

import pytest

from sweeps.engine.cli.app import command


def run(error, monkeypatch, capsys, *arguments):
    """Run a command that raises `error`. Returns its exit code and what it wrote to stderr."""

    def main() -> int:
        """Fail."""
        raise error

    monkeypatch.setattr("sys.argv", ["command", *arguments])
    with pytest.raises(SystemExit) as stopped:
        command(main)
    return stopped.value.code, capsys.readouterr().err


@pytest.mark.parametrize("number", [errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.EISDIR])
def test_a_file_that_cannot_be_used_is_one_sentence(number, monkeypatch, capsys):
    error = OSError(number, os.strerror(number), "a/file")
    code, said = run(error, monkeypatch, capsys)
    assert (code, said) == (2, f"error: a/file: {os.strerror(number)}; --debug shows where it was used\n")
    code, said = run(error, monkeypatch, capsys, "--debug")
    assert code == 2
    assert "Traceback (most recent call last)" in said


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_failing_storage_is_no_invalid_input(number, monkeypatch, capsys):
    code, said = run(OSError(number, os.strerror(number), "a/file"), monkeypatch, capsys)
    assert code == 1
    assert said.count("\n") == 1
    assert "--resume" in said


def test_an_error_about_no_file_is_a_fault_of_ours(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(ConnectionRefusedError):
        run(ConnectionRefusedError(errno.ECONNREFUSED, "refused"), monkeypatch, capsys)
