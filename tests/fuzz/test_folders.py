"""Folders of strangers, each with one thing changed, in every command that reads them.

Nothing is written outside the folder, nothing hangs, and what is refused is refused in one sentence.
"""

import contextlib
import io
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bat_core.checkpoint import load_model
from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import load_dataset
from sweeps.engine.cli.app import command
from sweeps.engine.evaluation.options import EvaluateOptions, TransferOptions
from sweeps.engine.evaluation.run import run_evaluation
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
from sweeps.engine.transfer.run import run_transfer
from tests.engine.search.trials import LINE, Lab, search_of
from tests.fuzz.folders import change, copy_of, state

LIMIT = 60  # seconds after which a command is said to hang: it takes less than one
LONGEST = 2000  # characters of a sentence


class ClusterStarted(BaseException):
    """A command accepted the folder and went on to run trials."""


class Hangs(BaseException):
    """A command did not end."""


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_valid(tmp_path_factory.mktemp("valid"))


def make_valid(root: Path) -> dict[str, Path]:
    """A sweep, a search, an evaluation and a transfer matrix, each whole."""
    dataset = load_dataset("digits", train_size=64, val_size=32, test_size=16)
    config = TrialConfig(
        data=DataConfig(train_size=64, val_size=32, test_size=16),
        model="small_cnn_8",
        recipe=RecipeConfig(name="R-MC-LA", params={"eps": 40 / 255}),
        train=TrainConfig(epochs=1, batch_size=32, val_steps=1, precision="float32"),
        attack=AttackConfig(eps=40 / 255, step_size=10 / 255, steps=(1, 2), losses=("ce",), verify=4),
    )
    trials = (Trial(id="eps8-seed0", config=config), Trial(id="eps8-seed1", config=replace(config, seed=1)))
    sweep = Sweep(
        name="eps_budget", command="x", data_dir=None, pixel=dataset.pixel, resources=Resources(), trials=trials
    )
    folder = SweepFolder(root / "sweep")
    folder.create(sweep)
    for trial in trials:
        run_trial(trial, dataset, folder.trial(trial), TrialRuntime(device=torch.device("cpu")))
    lab = Lab(
        root / "search", search_of(LINE, num_trials=3, base=replace(config, attack=replace(config.attack, split="val")))
    )
    lab.search.write(lab.folder)
    study = lab.open()
    for robust in (0.3, 0.4, 0.5):
        lab.finish(trial := study.propose(), 1 - robust, robust)
        study.settle(trial)
    models = [str(folder.trial(trial)) for trial in trials]
    shared = {"n": 4, "eps": 40 / 255, "gpus_per_worker": 0.0, "batch_size": 4}
    with stubbed(root), contextlib.redirect_stdout(io.StringIO()):
        for output, script in (("sweep", "eps_budget.py"), ("search", "search.py")):
            assert run_script(script, "--resume", str(root / output)) == (0, "")
        run_evaluation(models[:1], EvaluateOptions(suite="quick", output=root / "evaluation", **shared))
        run_transfer(models, TransferOptions(output=root / "transfer", **shared))
    return {name: root / name for name in ("sweep", "search", "evaluation", "transfer")}


@contextlib.contextmanager
def stubbed(working_folder: Path) -> Iterator[None]:
    """Without a cluster, MLflow and drawing, whose own tests are elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(working_folder)

        def start(*_: object, **__: object) -> None:
            raise ClusterStarted

        patch.setattr("sweeps.engine.ray_backend.cluster.cluster", start)
        patch.setattr("sweeps.engine.tracking.background.BackgroundSync._sync", read_for_mlflow)
        patch.setattr("sweeps.engine.evaluation.run.EvaluationJob.log", lambda *_: None)
        patch.setattr("sweeps.engine.transfer.run.TransferJob.log", lambda *_: None)
        patch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **__: file.write(b"drawn"))
        patch.setattr("sweeps.engine.search.plots.static.page", lambda *_: "drawn")
        yield


def read_for_mlflow(sync) -> None:
    """What a synchronisation reads of a folder."""
    folder, sweep = sync._folder, sync._sweep
    report = folder.report()
    for trial, status in folder.statuses(sweep):
        if status.result:
            load_model(folder.trial(trial) / "model")
    for file in report.files if report else ():
        folder.file(file).exists()


def run_script(script: str, *arguments: str) -> tuple[int, str]:
    """A command in this process. Returns its exit code and what it said to stderr."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", [script, *arguments])
        with pytest.raises(SystemExit) as stopped:
            MAINS[script]()
    return int(stopped.value.code or 0), said.getvalue()


def _main(module: str) -> Callable[[], None]:
    def run() -> None:
        command(__import__(f"sweeps.{module}", fromlist=["main"]).main)

    return run


MAINS = {f"{name}.py": _main(name) for name in ("eps_budget", "search", "table_4", "evaluate", "transfer", "mirror")}


def load(folder: Path, /) -> int:
    """Load a model, as a script of the user's own does."""
    load_model(folder)
    return 0


MAINS["load_model"] = lambda: command(load)


HERE = "--n 2 --gpus-per-worker 0 --output {}/../made"
READ_BY = {  # {} is the folder
    "sweep": (
        "eps_budget.py --resume {}",
        "mirror.py {}",
        f"evaluate.py {{}} --suite quick --checks none {HERE}",
        f"transfer.py {{}}/trials/eps8-seed0 {{}}/trials/eps8-seed1/model {HERE}",
        "table_4.py --resume {}",
        "load_model {}/trials/eps8-seed0",
    ),
    "search": (
        "search.py --resume {}",
        "mirror.py {}",
        "search.py --warm-start {} --output {}/../made --space bat",
    ),
    "evaluation": ("evaluate.py --resume {} --gpus-per-worker 0",),
    "transfer": ("transfer.py --resume {} --gpus-per-worker 0",),
}
FOLDERS = int(os.environ.get("BAT_SWEEPS_FOLDERS", "120"))  # 2000 take four minutes
CASES = [(kind, line) for kind, lines in READ_BY.items() for line in lines]


def test_nothing_outside_is_written_nothing_hangs_and_one_sentence_is_said(
    valid: dict[str, Path], tmp_path: Path
) -> None:
    failures = []
    for number in range(FOLDERS):
        if trouble := tried(number, valid, tmp_path / str(number)):
            failures.append(trouble)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("number", [824, 1843], ids=["a split that there is not", "a journal of one line"])
def test_folders_that_once_ended_in_a_traceback(number: int, valid: dict[str, Path], tmp_path: Path) -> None:
    assert tried(number, valid, tmp_path / "arena") is None


def tried(number: int, valid: dict[str, Path], arena: Path) -> str | None:
    """One folder, changed and read. Returns what went wrong."""
    draw = random.Random(number)
    kind, line = CASES[number % len(CASES)]
    outside = arena / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file.txt").write_text("the user's own\n")
    (outside / "folder" / "file.txt").write_text("the user's own\n")
    (arena / "cwd").mkdir()
    folder = copy_of(valid[kind], arena / "unpacked" / kind)
    changed = change(folder, outside, draw)
    before = state(outside)
    script, *arguments = (word.replace("{}", str(folder)) for word in line.split())
    what = f"number {number}: {' '.join([script, *arguments[:2]]).replace(str(arena), '')} with {changed}"
    printed = io.StringIO()
    try:
        with stubbed(arena / "cwd"), watched(), contextlib.redirect_stdout(printed):
            code, said = run_script(script, *arguments)
    except ClusterStarted:
        code, said = 0, ""
    except Hangs:
        return f"{what}: hangs"
    except BaseException as error:
        return f"{what}: {type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if state(outside) != before:
        return f"{what}: wrote outside"
    made_beside = {path.name for path in arena.iterdir()} | {
        f"unpacked/{path.name}" for path in (arena / "unpacked").iterdir()
    }
    if strange := made_beside - {"outside", "cwd", "unpacked", f"unpacked/{kind}", "unpacked/made"}:
        return f"{what}: made {sorted(strange)}"
    if strange := {path.name for path in (arena / "cwd").iterdir()} - {"mlflow.db"}:
        return f"{what}: made {sorted(strange)} in the working folder"
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if code not in (0, 1, 2, 130) or (code == 2 and (len(errors) != 1 or len(said) > LONGEST)):
        return f"{what}: exit code {code}, and {said[:500]!r}"
    return None


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Raise in the main thread after LIMIT seconds, also out of a call of the system that waits."""

    def stop(*_: object) -> None:
        raise Hangs

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
