"""The wheel, installed by pip into an environment of its own, in a folder without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import bat_core

ROOT = Path(__file__).parents[2]
PACKAGES = ("bat_core", "search_spaces", "sweeps")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """A new environment into which pip installs the wheel. It borrows its dependencies from this one's packages.

    This environment's own installation of the project, which leads to the checkout, is not borrowed: of a folder that
    a `.pth` file names, the `.pth` files are not read.
    """
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    (site_of(folder) / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def site_of(environment: Path) -> Path:
    """Where an environment's packages are."""
    (site,) = environment.glob("lib/python*/site-packages")
    return site


@pytest.fixture(scope="module")
def site(environment: Path) -> Path:
    return site_of(environment)


@pytest.fixture
def run(environment: Path, tmp_path: Path):
    """Runs the environment's Python in an empty folder that has a folder `sweeps` of its own."""
    (tmp_path / "sweeps").mkdir()

    def python(*arguments: str | Path) -> str:
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [str(environment / "bin" / "python"), *map(str, arguments)],
            cwd=tmp_path, env=variables | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return python


def test_the_wheel_has_every_module_and_says_that_it_is_typed(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name) for name in archive.namelist()}
    for package in PACKAGES:
        in_checkout = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        assert {name for name in names if name.parts[0] == package and name.suffix == ".py"} == in_checkout
        assert Path(package, "py.typed") in names
    assert {name.parts[0] for name in names if not name.parts[0].endswith(".dist-info")} == set(PACKAGES)


def test_pip_knows_what_was_installed_and_what_it_requires(run, site: Path) -> None:
    program = """
import importlib.metadata, json
found = importlib.metadata.distribution("bat-sweeps")
print(json.dumps([str(found.locate_file("")), found.version, found.metadata.get_all("Provides-Extra"), found.requires]))
"""
    where, version, extras, requirements = json.loads(run("-c", program))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (Path(where), version) == (site, bat_core.__version__)
    assert set(extras) == set(project["optional-dependencies"])
    always = {Requirement(one) for one in requirements if ";" not in one}
    assert always == {Requirement(one) for one in project["dependencies"]}


def test_every_command_answers(run, site: Path) -> None:
    program = """
import contextlib, io, pkgutil, runpy, sys
import sweeps
names = [one.name for one in pkgutil.iter_modules(sweeps.__path__) if not one.ispkg]
for name in names:
    sys.argv = [name, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        runpy.run_module(f"sweeps.{name}", run_name="__main__", alter_sys=True)
    assert "Usage" in shown.getvalue(), name
print(sweeps.__file__, *names)
"""
    where, *names = run("-c", program).split()
    assert where == str(site / "sweeps" / "__init__.py")
    assert {"eps_budget", "evaluate", "mirror", "search", "table_1", "transfer"} <= set(names)


NET = """
import torch
from torch import nn
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
MINE = """
import evaluate, search, transfer, mirror
assert evaluate.MINE == search.MINE == transfer.MINE == mirror.MINE == 1
"""


@pytest.mark.parametrize("way", ["module", "script"])
def test_a_users_modules_named_like_commands_are_the_users(run, site: Path, tmp_path: Path, way: str) -> None:
    for name in ("evaluate", "search", "transfer", "mirror"):
        (tmp_path / f"{name}.py").write_text("MINE = 1")
    (tmp_path / "nets.py").write_text(MINE + NET)
    command = ("-m", "sweeps.evaluate") if way == "module" else (site / "sweeps" / "evaluate.py",)
    options = ("--dataset", "digits", "--n", "4", "--suite", "quick", "--checks", "none", "--output", "out")
    printed = run(*command, "nets:net", *options)
    assert "Results: out (" in printed
    assert len(list(tmp_path.glob("out/*/summary.json"))) == 1


def test_a_library_named_like_a_command_is_the_library(run, site: Path, tmp_path: Path) -> None:
    """As Hugging Face's `evaluate`, installed beside the project and imported by a user's module."""
    library = site / "evaluate" / "__init__.py"
    library.parent.mkdir()
    library.write_text("LIBRARY = 1")
    (tmp_path / "nets.py").write_text("import evaluate\nassert evaluate.LIBRARY\n" + NET)
    try:
        options = ("--dataset", "digits", "--n", "4", "--suite", "quick", "--checks", "none", "--output", "out")
        assert "Results: out (" in run(site / "sweeps" / "evaluate.py", "nets:net", *options)
    finally:
        shutil.rmtree(library.parent)


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_runs_and_its_model_loads_from_mlflow(run, tmp_path: Path) -> None:
    tiny = ("--epochs", "1", "--seeds", "0", "--eps-x", "40/255", "--reference", "none", "--train-size", "64")
    few = ("--val-size", "16", "--test-size", "16", "--steps", "1", "--verify", "0", "--model", "small_cnn_4")
    run("-m", "sweeps.eps_budget", *tiny, *few, "--output", "out")
    run("-m", "sweeps.mirror", "out")
    load = """
import mlflow, numpy, sweeps
(model,) = mlflow.search_logged_models(output_format="list", experiment_ids=[
    one.experiment_id for one in mlflow.search_experiments()])
loaded = mlflow.pyfunc.load_model(model.model_uri)
print(loaded.predict(numpy.zeros((2, 1, 8, 8), dtype=numpy.float32)).shape, loaded.get_raw_model().training)
print(model.name, loaded.predict(loaded.input_example).shape, loaded.metadata.signature.outputs.inputs[0].shape)
"""
    shapes, named = run("-c", load).strip().splitlines()
    assert shapes == "(2, 10) False"
    assert named == "eps8-seed0 (1, 10) (-1, 10)"
