"""What the README tells a person to type: it exists, it is understood, and its Python runs."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from bat_core.checkpoint import save_model
from bat_core.fit import fit
from tests.integration.running import attempt

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MODEL, IMAGES = '"outputs/eps_budget-digits-.../trials/eps8-seed0"', 'load_dataset("digits")'


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands():
    """Each command of the shell's, in words, without comments."""
    for block in blocks("sh"):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                yield words


@pytest.fixture(scope="module")
def helps():
    """What each script in the README says of itself, and so of its options."""
    scripts = {word.removeprefix("sweeps/") for words in commands() for word in words if word.startswith("sweeps/")}
    assert scripts >= {"eps_budget.py", "evaluate.py", "search.py", "table_5.py"}
    told = {}
    for script in scripts:
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
            code, _ = attempt(patch, script, "--help")
        assert code == 0
        told[script] = printed.getvalue()
    return told


def test_its_commands_have_options_that_their_scripts_have(helps):
    unknown = [
        f"{script}: {option}"
        for words in commands()
        for script in [word.removeprefix("sweeps/") for word in words if word.startswith("sweeps/")]
        for option in words
        if option.startswith("--") and len(option) > 2 and option not in helps[script]
    ]
    assert unknown == []


def test_its_make_targets_are_there_and_ci_runs_its_test_command():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    made = {words[1] for words in commands() if words[0] == "make"}
    assert made == {"figure-1", "test", "test-all"}
    assert made <= set(targets)
    assert "make test-all" in (ROOT / ".ci" / "run").read_text().splitlines()


def test_its_python_runs_on_a_model_of_a_sweep(tmp_path, make_trial, digits, capsys):
    config = make_trial(epochs=1)
    (report,) = fit(config, digits)
    save_model(tmp_path / "model", report.state, config, digits)
    (program,) = blocks("python")
    assert MODEL in program
    assert IMAGES in program
    few = 'load_dataset("digits", train_size=128, val_size=32, test_size=16)'
    exec(program.replace(MODEL, repr(str(tmp_path))).replace(IMAGES, few), {})
    by_pgd, verified = capsys.readouterr().out.splitlines()
    clean, robust, curve = by_pgd.split(maxsplit=2)
    assert 0 <= float(verified) <= float(robust) <= float(clean) <= 1
    assert len(re.findall(r"[\d.]+", curve)) == len(config.attack.steps)
