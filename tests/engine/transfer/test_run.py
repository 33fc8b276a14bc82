"""The command that makes a transfer matrix: what it leaves, goes on with, and refuses."""

import functools
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import sweeps
from bat_core.data import load_dataset, to_unit
from bat_core.errors import InputError
from sweeps.engine.evaluation.job import Job
from sweeps.engine.evaluation.options import TransferOptions
from sweeps.engine.storage.locks import exclusive
from sweeps.engine.transfer.craft import MatrixFolder, finished_shards
from sweeps.engine.transfer.run import run_transfer
from tests.engine.transfer import matrices


@functools.cache
def solved(first, last):
    train = load_dataset("digits").train.take(slice(first, last))
    x, y = to_unit(train.images).flatten(1).double(), F.one_hot(train.labels, 10).double()
    return torch.linalg.solve(x.T @ x + torch.eye(64), x.T @ y)


class Ridge(nn.Module):
    """Digits by ridge regression on some of the training images."""

    def __init__(self, first, last):
        super().__init__()
        self.weight = nn.Parameter(solved(first, last).clone())

    def forward(self, x):
        return 10 * x.flatten(1).double() @ self.weight


def even():
    return Ridge(0, 600)


def odd():
    return Ridge(600, None)


def unseeded():
    model = Ridge(0, 600)
    model.weight.data += 1e-3 * torch.rand(64, 10)
    return model


def factory(made):
    return f"{__name__}:{made.__name__}"


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "_log", lambda *_: None)
    return tmp_path


RIDGES = (factory(even), factory(odd))
OPTIONS = {"dataset": "digits", "n": 60, "eps": 40 / 255, "gpus_per_worker": 0.0}


def test_a_command_leaves_tables_pictures_and_verdicts_and_goes_on_where_it_stopped(empty, capsys):
    options = TransferOptions(**OPTIONS, batch_size=25, output=empty / "out")
    assert run_transfer(RIDGES, options) == 0
    left = {path.name for path in (empty / "out").iterdir()}
    assert left == {
        "transfer.json", "cells.csv", "table.md", "transfer.png", "transfer.svg", "crafted", ".lock", ".marks.json",
        "config.yaml", "report.html",
    }  # fmt: skip
    printed = capsys.readouterr().out
    assert "CE20: accuracy in %, not verified" in printed
    folder = MatrixFolder(empty / "out")
    matrix = folder.load()
    assert (matrix.n, matrix.step_size, matrix.eps) == (60, 10 / 255, 40 / 255)
    assert len(finished_shards(matrix, folder)) == 2 * 3
    before = {path: path.read_bytes() for path in (empty / "out").rglob("*") if path.is_file()}
    folder.shard(matrix.names[1], slice(25, 50)).unlink()
    (empty / "out" / "cells.csv").unlink()
    assert run_transfer((), TransferOptions(resume=str(empty / "out"), gpus_per_worker=0.0)) == 0
    assert {path: path.read_bytes() for path in (empty / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("models", "changes", "sentence"),
    [
        ((), {}, "name at least two MODELs"),
        (RIDGES[:1], {}, "is the only model: a transfer matrix needs at least two"),
        ((RIDGES[0], RIDGES[0]), {}, "are the same model: name each once"),
        ((RIDGES[0], factory(unseeded)), {}, "has different weights each time it is built"),
        (RIDGES, {"eps": 8.0}, "--eps=8 is outside (0, 1]: images are in [0, 1], so write 8/255"),
        (RIDGES, {"split": "train"}, "unknown --split 'train'"),
        (RIDGES, {"n": 9999}, "--n=9999 is more than the 397 images"),
        (RIDGES, {"dataset": None}, "name them with --dataset"),
        ((f"{matrices.__name__}:first", RIDGES[0]), {}, "the model does not accept 1x8x8 images"),
    ],
)
def test_input_that_cannot_be_used_leaves_nothing_behind(empty, models, changes, sentence):
    with pytest.raises(InputError) as refused:
        run_transfer(models, TransferOptions(**OPTIONS | changes, output=empty / "out"))
    assert sentence in str(refused.value)
    assert list(empty.iterdir()) == []


def test_what_a_resumed_matrix_refuses(empty):
    out = empty / "out"
    run_transfer(RIDGES, TransferOptions(**OPTIONS, output=out))
    with pytest.raises(InputError, match="already contains a transfer matrix: use --resume"):
        run_transfer(RIDGES, TransferOptions(**OPTIONS, output=out))
    with pytest.raises(InputError, match="--n cannot be given with --resume: the transfer matrix keeps its original"):
        run_transfer((), TransferOptions(n=5, resume=str(out)))
    with pytest.raises(InputError, match="is not a valid transfer matrix folder"):
        run_transfer((), TransferOptions(resume=str(empty)))
    with exclusive(out / ".lock"), pytest.raises(InputError, match=r"the transfer matrix in .* is already running"):
        run_transfer((), TransferOptions(resume=str(out), gpus_per_worker=0.0))


def test_trouble_with_mlflow_is_one_line_and_costs_nothing(tmp_path, monkeypatch, capsys):
    from sweeps.engine.transfer import mlflow_log

    def away(*_, **__):
        raise ConnectionError("connection refused\nand more")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mlflow_log, "log_transfer", away)
    monkeypatch.setattr(sys, "argv", ["/bin/bat-sweeps", "transfer", "x"])
    monkeypatch.setattr("shutil.which", lambda _: "/bin/bat-sweeps")
    assert run_transfer(RIDGES, TransferOptions(**OPTIONS, output=tmp_path / "out")) == 0
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert last == (
        "MLflow did not take everything (ConnectionError: connection refused and more); try again with bat-sweeps"
        " transfer --resume out"
    )
    assert (tmp_path / "out" / "cells.csv").exists()


def test_ctrl_c_says_what_is_kept_and_prints_the_whole_command(tmp_path, monkeypatch, capsys):
    from sweeps.engine.transfer import run

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "work", stopped)
    monkeypatch.setattr(sys, "argv", ["sweeps/transfer.py", "x"])
    monkeypatch.setattr(sys, "executable", "/a b/python")
    with pytest.raises(KeyboardInterrupt):
        run_transfer(RIDGES, TransferOptions(**OPTIONS, output=tmp_path / "it's"))
    last = capsys.readouterr().out.strip().splitlines()[-1]
    said, _, command = last.partition("; resume with ")
    assert said == "stopped: 0% of the attacks are done and kept"
    assert shlex.split(command) == ["/a b/python", "sweeps/transfer.py", "--resume", "it's"]


def test_a_part_of_a_search_is_resumed_by_the_search(tmp_path, monkeypatch, capsys):
    from sweeps.engine.transfer import run
    from sweeps.engine.transfer.run import TransferJob

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "work", stopped)
    monkeypatch.setattr(sys, "argv", ["/bin/bat-sweeps", "search", "--resume", "s"])
    monkeypatch.setattr("shutil.which", lambda _: "/bin/bat-sweeps")
    with pytest.raises(KeyboardInterrupt):
        TransferJob(RIDGES, TransferOptions(**OPTIONS, output=tmp_path / "part"), part_of=tmp_path / "whole").run()
    assert capsys.readouterr().out.strip().endswith("; resume with bat-sweeps search --resume whole")


def test_help_names_the_options_and_bad_input_is_one_sentence(empty, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["transfer.py", "--help"])
    assert code_of_script() == 0
    said = capsys.readouterr().out
    for option in ("dataset", "data-dir", "eps", "step-size", "n", "seed", "batch-size", "output", "resume"):
        assert f"--{option}" in said
    monkeypatch.setattr(sys, "argv", ["transfer.py", RIDGES[0], "--dataset", "digits", "--gpus-per-worker", "0"])
    assert code_of_script() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert len(said.splitlines()) == 1


def code_of_script():
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(Path(sweeps.__file__).parent / "transfer.py"), run_name="__main__")
    return stopped.value.code
