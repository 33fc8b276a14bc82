"""What --help shows: the command's own options first, shared ones by name, within the terminal's width."""

import re
import sys

import pytest

from sweeps import __main__ as entry
from sweeps.engine.cli.app import command
from sweeps.engine.cli.names import described_names


def helped(monkeypatch, capsys, script, *words, width=80):
    main = __import__(f"sweeps.{script}", fromlist=["main"]).main
    monkeypatch.setattr(sys, "argv", [f"{script}.py"])
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit) as ended:
        command(main, words, name=f"bat-sweeps {script}")
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("script", ["eps_budget", "search", "evaluate", "transfer", "table_5", "mirror"])
@pytest.mark.parametrize("width", [80, 60])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_ragged(monkeypatch, capsys, script, width):
    lines = helped(monkeypatch, capsys, script, "--help-all", width=width).splitlines()
    examples = [line for line in lines if line.startswith("  bat-sweeps ")]
    assert [line for line in lines if len(line) > width and line not in examples] == []
    assert not [line for line in lines if re.match(r"\s+\w+$", line) and len(line) < 6]


def test_a_commands_own_options_come_first_and_shared_ones_are_named(monkeypatch, capsys):
    said = helped(monkeypatch, capsys, "search", "--help")
    assert said.index("--num-trials INT") < said.index("--dataset STR") < said.index("--batch-size")
    assert "Images per update" not in said
    assert "Images per update" in helped(monkeypatch, capsys, "search", "--help-all")
    assert len(said.splitlines()) < 110
    assert "bat-sweeps search --space bat --space schedule --finalists 3" in said


def test_a_searchs_own_meaning_of_shared_options_is_told(monkeypatch, capsys):
    said = " ".join(helped(monkeypatch, capsys, "search", "--help-all").split())
    assert "Validation images to verify" in said
    assert "0 disables. Default: 200" not in said
    assert "Default: 300 on digits, else a tenth" in said


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["bat-sweeps", *words])
    with pytest.raises(SystemExit) as ended:
        entry.run()
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def test_one_command_has_all_scripts(monkeypatch, capsys):
    code, said, _ = run(monkeypatch, capsys)
    assert code == 0
    for name in ("figure-1", "search", "evaluate", "transfer", "table N", "mirror", "list"):
        assert f"  {name} " in said
        words = ["table", "5"] if name == "table N" else [name]
        code, page, _ = run(monkeypatch, capsys, *words, "--help")
        assert (code, page.startswith(f"Usage: bat-sweeps {' '.join(words)}")) == (0, True)


def test_a_wrong_command_is_one_sentence(monkeypatch, capsys):
    code, _, said = run(monkeypatch, capsys, "serch")
    assert (code, "did you mean 'search'" in said) == (2, True)
    for words in (["table"], ["table", "10"]):
        code, _, said = run(monkeypatch, capsys, *words)
        assert (code, len(said.splitlines())) == (2, 1)


def test_the_version_is_told(monkeypatch, capsys):
    from bat_core import __version__

    for words in (["--version"], ["search", "--version"]):
        assert run(monkeypatch, capsys, *words)[:2] == (0, f"bat-sweeps {__version__}\n")


@pytest.mark.parametrize("kind", ["recipes", "models", "datasets", "attacks", "suites", "spaces"])
def test_every_name_is_listed_with_a_line_of_words(kind):
    rows = described_names(kind)
    assert len(rows) >= 3
    for name, said in rows:
        assert len(said.split()) >= 2, name
        assert "\n" not in said
        assert "Built-in" not in said
