"""The transfer matrix as a person makes it: kill -9 at any shard, then --resume; and what MLflow has of it."""

import random

import pytest
from mlflow.tracking import MlflowClient

from tests.integration.running import Place, kill_tree_when

NETS = '''
"""Digits by ridge regression on different training images: in float64, the same each time."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from bat_core.data import load_dataset, to_unit


@functools.cache
def solved(start):
    train = load_dataset("digits").train.take(slice(start, start + 400))
    x, y = to_unit(train.images).flatten(1).double(), F.one_hot(train.labels, 10).double()
    return torch.linalg.solve(x.T @ x + torch.eye(64), x.T @ y)


class Ridge(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.weight = nn.Parameter(solved(start))

    def forward(self, x):
        return 10 * x.flatten(1).double() @ self.weight


def one(): return Ridge(0)
def two(): return Ridge(400)
def three(): return Ridge(800)
'''
pytestmark = pytest.mark.slow
MODELS = ("ridges:one", "ridges:two", "ridges:three")
SETTINGS = ("--dataset", "digits", "--eps", "40/255", "--batch-size", "10", "--gpus-per-worker", "0")
ITS_OWN = {"transfer.json", ".marks.json", "config.yaml", "report.html"}  # with the matrix's id, folder or time
SHARDS = 3 * 40  # three sources, 397 images


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("transfer"))
    (place.path / "ridges.py").write_text(NETS)
    code, printed = place.run("transfer.py", *MODELS, *SETTINGS, "--output", "undisturbed")
    assert code == 0, printed
    return place


def files(place: Place, name: str) -> dict[str, bytes]:
    folder = place.path / name
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ITS_OWN
    }


def test_a_matrix_killed_at_random_shards_resumes_to_the_same_bytes(where: Place) -> None:
    moments = sorted(random.Random(0).sample(range(1, SHARDS * 3 // 4), 2))
    folder = where.path / "killed" / "crafted"
    arguments = [*MODELS, *SETTINGS, "--output", "killed"]
    for moment in moments:
        process = where.start("transfer.py", *arguments)
        kill_tree_when(process, lambda moment=moment: len(list(folder.glob("*/*.parquet"))) >= moment)
        arguments = ["--resume", "killed", "--gpus-per-worker", "0"]
    assert not (where.path / "killed" / "cells.csv").exists()
    assert len(list(folder.glob("*/*.parquet"))) < SHARDS

    code, printed = where.run("transfer.py", *arguments)
    assert code == 0, printed
    assert len(list(folder.glob("*/*.parquet"))) == SHARDS
    assert files(where, "killed") == files(where, "undisturbed")


def test_done_again_it_prints_the_same_and_mlflow_still_has_one_run(where: Place) -> None:
    client = MlflowClient(where.uri)

    def runs():
        experiment = client.get_experiment_by_name("transfer")
        found = client.search_runs([experiment.experiment_id])
        return [run for run in found if run.info.run_name == "undisturbed"]

    (before,) = runs()
    code, printed = where.again("transfer.py", "--resume", "undisturbed", "--gpus-per-worker", "0")
    assert code == 0, printed
    tables, _, rest = printed.partition("Results: ")
    assert max(map(len, tables.splitlines())) <= 80
    assert "ed flag" in tables
    assert "experiment transfer" in rest.splitlines()[-1]
    (run,) = runs()
    assert run.to_dictionary() == before.to_dictionary()
    assert run.info.status == "FINISHED"
    kept = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert kept == {"transfer.json", "table.md", "cells.csv", "transfer.png", "transfer.svg", "report.html"}
    assert run.data.tags["bat.suite"] == "FGSM+CE20, not verified (n = 397)"
    assert "ot verified" in run.data.tags["mlflow.note.content"]
    assert run.data.params["models"] == "ridges.one, ridges.two, ridges.three"


@pytest.mark.ray
def test_processes_that_share_the_work_leave_the_same_matrix(where: Place) -> None:
    settings = [*SETTINGS[:-4], "--batch-size", "100", "--gpus-per-worker", "0", "--workers", "2"]
    code, printed = where.run("transfer.py", *MODELS, *settings, "--output", "shared")
    assert code == 0, printed
    assert files(where, "shared")["cells.csv"] == files(where, "undisturbed")["cells.csv"]
