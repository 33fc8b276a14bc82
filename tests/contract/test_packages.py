"""What is installed with the project, what is declared, and what a command loads when it starts."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib

from tests.contract.imports import CORE_MAY, ROOT, foreign, imported, sources


def installed_with(requirements):
    """The top-level modules of these distributions and of all that they require."""
    found, waiting = set(), list(requirements)
    while waiting:
        name = re.split(r"[^\w.-]", waiting.pop(), maxsplit=1)[0].lower().replace("_", "-")
        if name not in found:
            found.add(name)
            try:
                needed = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:  # for another system
                continue
            waiting += [one for one in needed if "extra ==" not in one]
    owners = importlib.metadata.packages_distributions()
    return {module for module, names in owners.items() if found & {name.lower().replace("_", "-") for name in names}}


def test_the_core_runs_where_only_its_own_needs_are_installed():
    """As `pip install bat-sweeps` without an extra: every other package is made to be missing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = installed_with(project["dependencies"]) | {"bat_core"}
    assert allowed >= CORE_MAY | {"safetensors", "PIL"}
    assert not allowed & {
        "ray",
        "optuna",
        "mlflow",
        "sklearn",
        "scipy",
        "pandas",
        "matplotlib",
        "pyautoattack",
        "sweeps",
    }
    missing = set(importlib.metadata.packages_distributions()) - allowed | {"sweeps", "search_spaces"}
    program = f"""
import pkgutil, sys
for name in {sorted(missing)}: sys.modules[name] = None
import bat_core
for module in pkgutil.walk_packages(bat_core.__path__, "bat_core."): __import__(module.name)
import torch
from bat_core.attacks import ATTACKS, pgd
from bat_core.data import dataset_names, load_dataset
from bat_core.errors import InputError
from bat_core.evaluate import evaluate
from bat_core.models import build_model, model_names
from bat_core.recipes import recipe_names
from bat_core.suites import SUITES, get_suite
assert all(get_suite(name, eps=0.1).entries for name in SUITES)
assert ATTACKS.names() and dataset_names() and model_names() and recipe_names()
model = build_model("small_cnn_4", num_classes=5, image_shape=(1, 8, 8)).eval()
images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
labels = model(images / 255).argmax(1)
evaluate(model, images, labels, attack=get_suite("quick", eps=0.1))
for act, extra in (
    (lambda: load_dataset("digits"), "platform"),
    (lambda: evaluate(model, images, labels, attack=get_suite("standard", eps=0.1)), "autoattack"),
):
    try:
        act()
    except InputError as error:
        assert f"pip install 'bat-sweeps[{{extra}}]'" in str(error), error
    else:
        raise AssertionError(extra)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_command_without_its_packages_names_the_extra_that_has_them():
    for missing in ("cyclopts", "ray"):
        program = f"import sys; sys.modules[{missing!r}] = None; import sweeps.search"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == (
            f"error: the commands need the extra 'platform', of which {missing} cannot be found:"
            " pip install 'bat-sweeps[platform]'\n"
        )


def test_every_package_that_is_imported_is_declared():
    """pip installs what is declared; what another package happens to bring may go with its next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    owners = importlib.metadata.packages_distributions()

    def declared(requirements):
        names = {re.split(r"[^\w.-]", one, maxsplit=1)[0].lower() for one in requirements}
        return names | {module for module, found in owners.items() if names & {name.lower() for name in found}}

    core = declared(project["dependencies"])
    extras = project["optional-dependencies"]
    every = core | declared(one for name in extras if name != "all" for one in extras[name])
    ours = {"bat_core", "search_spaces", "sweeps"}
    assert {n for path in sources("bat_core") for n in foreign(imported(path, nested=False))} - ours <= core
    assert {n for path in sources("sweeps", "bat_core") for n in foreign(imported(path))} - ours <= every


def test_a_scripts_own_folder_is_off_the_import_path():
    """`import evaluate` in a user's module means the user's or a library's, not the script."""
    program = """
import sys
assert sys.path[0].endswith("sweeps")
import sweeps
assert not [entry for entry in sys.path if entry.endswith("sweeps")]
"""
    for folder in ("sweeps", "tests/../sweeps"):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}){program}"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


HEAVY = {"torch", "torchvision", "numpy", "pyarrow", "ray", "mlflow", "optuna", "matplotlib", "pandas", "sklearn"}


def test_a_command_answers_help_without_importing_what_takes_seconds():
    program = f"""
import contextlib, io, runpy, sys
from pathlib import Path
for script in sorted(Path("sweeps").glob("*.py")):
    if script.stem == "__init__":
        continue
    sys.argv = [str(script), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "Usage" in shown.getvalue(), script
    loaded = {HEAVY!r} & set(sys.modules)
    assert not loaded, (script, loaded)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
