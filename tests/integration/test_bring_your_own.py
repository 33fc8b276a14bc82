"""The commands of docs/bring-your-own.md and of the starter, copied and run, one after the other, in one folder."""

import ast
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from bat_core.checkpoint import load_model
from bat_core.trainable import check_trainable
from bat_core.workers import Workers
from tests.integration.running import Place, attempt

ROOT = Path(__file__).parents[2]
PAGE, STARTER = ROOT / "docs" / "bring-your-own.md", ROOT / "examples" / "starter.py"
SECTIONS = ["My model", "My weights", "My images", "My recipe"]


def commands():
    """Each section's command, in words."""
    sections = re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    blocks = {title: re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE) for title, text in sections}
    return {title: words(block) for title, found in blocks.items() for block in found}


def words(text):
    return shlex.split(text.replace("\\\n", " "))


def starters_command():
    text = ast.get_docstring(ast.parse(STARTER.read_text())) or ""
    return words(text[text.index("PYTHONPATH") :])


def run(place, command):
    """Run a command of a page in the place, which has `examples` as the project's folder has."""
    path, uv, verb, script, *arguments = command
    assert (path, uv, verb, script.partition("/")[0]) == ("PYTHONPATH=examples", "uv", "run", "sweeps")
    process = place.start(script.removeprefix("sweeps/"), *arguments, PYTHONPATH="examples")
    printed, _ = process.communicate()
    return process.returncode, printed


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("project"))
    shutil.copytree(STARTER.parent, place.path / "examples")
    return place


@pytest.fixture
def starter(monkeypatch):
    monkeypatch.syspath_prepend(str(STARTER.parent))


def test_the_page_has_four_commands():
    assert list(commands()) == SECTIONS


def test_the_starters_network_and_recipe_can_be_trained(starter, make_trial, digits):
    config = make_trial("starter:recipe", params={}, model="starter:net")
    check_trainable(config, num_classes=10, image_shape=digits.image_shape, workers=Workers(size=2))


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("title", SECTIONS)
def test_a_command_of_the_page_runs(project, title, starter):
    command = commands()[title]
    if title in ("My weights", "My images") and not (project.path / "outputs" / "my-model").exists():
        assert run(project, commands()["My model"])[0] == 0
    code, printed = run(project, command)
    assert code == 0, printed
    output = project.path / command[command.index("--output") + 1]
    if script_of(command) == "evaluate.py":
        (summary,) = output.glob("*/summary.json")
        assert 0 <= json.loads(summary.read_text())["robust_acc"] <= 1
        return
    (trial,) = (output / "trials").iterdir()
    model, config = load_model(trial)
    assert config.model == "starter:net" or config.recipe.name == "starter:recipe"
    assert sum(parameter.numel() for parameter in model.parameters()) > 0
    assert "starter" in json.loads((output / "user_code.json").read_text())["sha256"]


def script_of(command):
    return command[3].removeprefix("sweeps/")


@pytest.mark.ray
@pytest.mark.slow
def test_the_starters_own_command_trains_and_judges_all_three(project, starter):
    command = starters_command()
    code, printed = run(project, command)
    assert code == 0, printed
    trials = project.path / command[command.index("--output") + 1] / "trials"
    assert sorted(trial.name for trial in trials.iterdir()) == ["eps8-seed0", "undefended-seed0"]
    config = load_model(trials / "eps8-seed0")[1]
    assert (config.model, config.data.name, config.recipe.name) == ("starter:net", "starter:images", "starter:recipe")


REFUSED = {
    "a module that is missing": (["--model", "absent:net"], "there is no 'absent' in"),
    "a factory that is missing": (["--model", "starter:wide"], "module 'starter' has no 'wide'"),
    "torchvision's on gray images": (["--model", "torchvision:resnet18"], "needs colour images, not 1x8x8"),
    "a recipe that is missing": (["--recipe", "starter:wide"], "module 'starter' has no 'wide'"),
    "a recipe without budget": (["--recipe", "starter:Net"], "parameter 'num_classes' needs a default"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_before_anything_is_written(case, starter, empty, monkeypatch):
    options, said = REFUSED[case]
    code, printed = attempt(monkeypatch, "eps_budget.py", *options, "--output", "out")
    assert (code, said in printed, "Traceback" in printed) == (2, True, False), printed
    assert printed.startswith("error: ")
    assert not Path("out").exists()


def test_a_table_that_compares_networks_takes_them_by_name(starter, empty, monkeypatch):
    code, printed = attempt(monkeypatch, "table_9.py", "--model", "starter:net", "--output", "out")
    assert (code, "table 9 compares 3 networks; name them with --networks" in printed) == (2, True), printed
    code, printed = attempt(monkeypatch, "table_9.py", "--networks", "starter:net", "--output", "out")
    assert (code, "--networks gives 1: table 9 compares 3 networks" in printed) == (2, True), printed
    code, printed = attempt(monkeypatch, "table_1.py", "--networks", "starter:net", "a:b", "--output", "out")
    assert (code, "table 1 has one network, named by --model" in printed) == (2, True), printed


def test_a_search_does_not_drop_a_model_or_recipe_in_silence(starter, empty, monkeypatch):
    code, printed = attempt(monkeypatch, "search.py", "--space", "model", "--model", "starter:net", "--output", "out")
    assert (code, "space 'model' sets the network" in printed) == (2, True), printed
    code, printed = attempt(monkeypatch, "search.py", "--recipe", "starter:recipe", "--output", "out")
    assert (code, "space 'bat' sets the recipe" in printed) == (2, True), printed
