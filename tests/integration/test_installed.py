"""The wheel, in a folder without the checkout: what `pip install` gives."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("bat_core", "search_spaces", "sweeps")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as the wheel installs it. It is found before the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def run(site: Path, tmp_path: Path):
    """Runs Python in an empty folder that has a folder `sweeps` of its own."""
    (tmp_path / "sweeps").mkdir()

    def python(*arguments: str | Path) -> str:
        environment = os.environ | {"PYTHONPATH": str(site), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return python


def test_the_wheel_has_every_module_and_says_that_it_is_typed(site: Path) -> None:
    for package in PACKAGES:
        in_checkout = {path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py")}
        assert {path.relative_to(site) for path in (site / package).rglob("*.py")} == in_checkout
        assert (site / package / "py.typed").exists()
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == set(PACKAGES)


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


NETS = """
import evaluate, search, transfer, mirror
import torch
from torch import nn
assert evaluate.MINE == search.MINE == transfer.MINE == mirror.MINE == 1
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.mark.parametrize("way", ["module", "script"])
def test_a_users_modules_named_like_commands_are_the_users(run, site: Path, tmp_path: Path, way: str) -> None:
    for name in ("evaluate", "search", "transfer", "mirror"):
        (tmp_path / f"{name}.py").write_text("MINE = 1")
    (tmp_path / "nets.py").write_text(NETS)
    command = ("-m", "sweeps.evaluate") if way == "module" else (site / "sweeps" / "evaluate.py",)
    options = ("--dataset", "digits", "--n", "4", "--suite", "quick", "--checks", "none", "--output", "out")
    printed = run(*command, "nets:net", *options)
    assert "Results: out (" in printed
    assert len(list(tmp_path.glob("out/*/summary.json"))) == 1


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
"""
    assert run("-c", load).strip() == "(2, 10) False"
