"""--config: a file gives options, the command line wins, and what a run writes repeats it."""

import sys

import pytest

from bat_core.errors import InputError
from sweeps.engine.cli.app import application, command
from sweeps.engine.cli.config_file import read_config, repeating_config, take_config
from sweeps.engine.evaluation.options import EvaluateOptions
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.scales import setting_of
from sweeps.engine.search.options import SearchOptions
from sweeps.eps_budget import EpsBudgetOptions

BOTH = {
    "c.yaml": "epochs: 3\nseeds: [4, 5]\ndata-dir: here\n",
    "c.toml": 'epochs = 3\nseeds = [4, 5]\ndata_dir = "here"\n',
}


def parsed(kind, words=(), config=None):
    """The options of a command, and the MODELs before them."""
    nothing = kind()

    def main(*models: str, options: kind = nothing) -> int:
        return models, options

    return application(main, config=config)(list(words), exit_on_error=False, print_error=False)


@pytest.mark.parametrize("name", BOTH)
def test_a_file_gives_options_and_the_command_line_wins(tmp_path, name):
    (tmp_path / name).write_text(BOTH[name])
    _, options = parsed(EpsBudgetOptions, ["--seeds", "9", "--epochs", "7"], tmp_path / name)
    assert (options.epochs, options.seeds, str(options.data_dir)) == (7, (9,), "here")
    assert set(options.given) == {"epochs", "seeds", "data_dir"}
    _, options = parsed(EpsBudgetOptions, [], tmp_path / name)
    assert (options.epochs, options.seeds) == (3, (4, 5))


def test_models_come_from_the_file_unless_the_command_line_has_some(tmp_path):
    (tmp_path / "c.yaml").write_text("models: [a, b]\nn: 4\n")
    assert parsed(EvaluateOptions, [], tmp_path / "c.yaml")[0] == ("a", "b")
    models, options = parsed(EvaluateOptions, ["c"], tmp_path / "c.yaml")
    assert (models, options.n) == (("c",), 4)


CASES = [
    (EpsBudgetOptions, ["--eps-x", "5/255", "40/255", "--download", "--seeds", "3", "--steps", "1", "7"]),
    (SearchOptions, ["--set", "eps=4/255", "--range", "beta=4:64", "mu=1,2", "--num-trials", "3", "--verify", "9"]),
    (EvaluateOptions, ["--suite", "quick", "--n", "5", "--save-adversarial", "--no-cycles", "--eps", "8/255"]),
]


@pytest.mark.parametrize(("kind", "words"), CASES)
def test_what_a_run_writes_repeats_it(tmp_path, kind, words):
    models, options = parsed(kind, ["one: 1", "-two"][:1] + words)
    (tmp_path / "config.yaml").write_text(repeating_config(options, models, command="x"))
    again = parsed(kind, [], tmp_path / "config.yaml")
    assert again == (models, options)
    assert again[1].given == options.given


def test_a_tables_scale_is_not_written_as_if_it_was_given(tmp_path):
    _, options = parsed(TableOptions, ["--epochs", "2"])
    written = options.at(setting_of("smoke", "cifar10"))
    assert written.given == ("epochs",)
    (tmp_path / "config.yaml").write_text(repeating_config(written, command="x"))
    assert parsed(TableOptions, [], tmp_path / "config.yaml")[1] == options


def test_places_and_passwords_are_not_repeated():
    _, options = parsed(
        EpsBudgetOptions, ["--output", "there", "--storage-path", "s3://b/p", "--address", "ray://u:secret@h"]
    )
    text = repeating_config(options, command="x")
    assert "there" not in text
    assert "s3://" not in text
    assert "secret" not in text


BAD = {
    "epochs: [a": "is not valid YAML",
    "epochs: {a: 1}": "epochs must be a value or a list of values",
    "- 1": "must have options",
    "3: 4": "is not the name of an option",
    "a: !!python/object/apply:os.system ['true']": "is not valid YAML",
    "a: &a [*a]": "must be a value",
}


@pytest.mark.parametrize("text", BAD)
def test_a_file_of_another_form_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=BAD[text]):
        read_config(tmp_path / "c.yaml")


@pytest.mark.parametrize("text", ["epoch: 3", "epochs: many"])
def test_an_unknown_option_or_value_is_one_sentence(tmp_path, text, monkeypatch, capsys):
    from sweeps.eps_budget import main

    (tmp_path / "c.yaml").write_text(text)
    monkeypatch.setattr(sys, "argv", ["eps_budget.py"])
    with pytest.raises(SystemExit) as ended:
        command(main, ["--config", str(tmp_path / "c.yaml")])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("error: ")
    assert "c.yaml" in said or "many" in said
    assert len(said.splitlines()) == 1


def test_code_that_only_the_file_names_is_not_imported(tmp_path, monkeypatch, capsys):
    from sweeps.eps_budget import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "harm.py").write_text("raise SystemExit('imported')")
    (tmp_path / "c.yaml").write_text("model: harm:net\nepochs: 1\nseeds: 0\n")
    monkeypatch.setattr(sys, "argv", ["eps_budget.py", "--config", "c.yaml"])
    with pytest.raises(SystemExit) as ended:
        command(main)
    assert ended.value.code == 2
    assert "nothing shows that you named it" in capsys.readouterr().err


def test_where_the_file_is_named(tmp_path):
    assert take_config(["a", "--config", "c", "--x", "1"])[0] == ["a", "--x", "1"]
    assert str(take_config(["--config=c"])[1]) == "c"
    assert take_config(["--", "--config", "c"]) == (["--", "--config", "c"], None)
    for words in (["--config"], ["--config", "a", "--config", "b"], ["--config="]):
        with pytest.raises(InputError, match="names one file"):
            take_config(words)
    with pytest.raises(InputError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")
