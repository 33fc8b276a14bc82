"""Tiny data, trials and folders that tests share."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import hypothesis
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Dataset, load_dataset, to_unit
from bat_core.models import build_model
from tests.isolation import isolate
from tests.stored.robust_digits import FILE

HOME = Path(tempfile.mkdtemp(prefix="home-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
isolate(os.environ, HOME)
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # torch read it when it was imported
sys.dont_write_bytecode = False  # as PYTHONDONTWRITEBYTECODE may have had it
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("fixed")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """128 train, 32 val and 64 test digits."""
    return load_dataset("digits", train_size=128, val_size=32, test_size=64)


FOLDERS = {"imagenet": ("imagenet", "imagenette")}  # ten classes of it will do


class Trained(NamedTuple):
    """A model and test images that it was not trained on, float in [0, 1]."""

    model: nn.Module
    images: Tensor
    labels: Tensor


@pytest.fixture(scope="session")
def robust_digits() -> Trained:
    """A network that stands on 60 of 100 test digits at 40/255, read from a file that training once made."""
    dataset = load_dataset("digits", train_size=1000, val_size=32, test_size=100)
    model = build_model("small_cnn_8", num_classes=10, image_shape=(1, 8, 8))
    model.load_state_dict(load_file(FILE))
    return Trained(model.eval(), to_unit(dataset.test.images), dataset.test.labels)


@pytest.fixture
def make_trial():
    """A trial on `digits` that trains in a fraction of a second; verifying takes longer, and is left out."""

    def make(recipe="R-MC-LA", *, params=None, model="small_cnn_8", seed=0, verify=0, **train) -> TrialConfig:
        return TrialConfig(
            data=DataConfig(train_size=128, val_size=32, test_size=64),
            model=model,
            recipe=RecipeConfig(name=recipe, params={"eps": 40 / 255} if params is None else params),
            train=TrainConfig(**{"epochs": 3, "batch_size": 32, "val_steps": 2, "precision": "float32", **train}),
            attack=AttackConfig(eps=40 / 255, step_size=10 / 255, steps=(1, 2, 3), batch_size=32, verify=verify),
            seed=seed,
        )

    return make


@pytest.fixture(scope="session")
def s3_server():
    from tests.s3 import S3

    server = S3()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server, monkeypatch):
    """An S3 API on loopback, and credentials for it."""
    for name, value in (("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "secret")):
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(params=["s3", "folder"])
def store(request, tmp_path):
    """A store of each kind, empty."""
    from sweeps.engine.storage.object_store import Storage

    if request.param == "folder":
        return Storage.at(str(tmp_path / "store"))
    return Storage.at(request.getfixturevalue("s3").uri(tmp_path.name))


@pytest.fixture
def while_it_waits(monkeypatch):
    """Lets something happen when storage that failed is waited for, in place of waiting; returns the list of it."""
    to_come = []
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: to_come.pop(0)() if to_come else None)
    return to_come


@pytest.fixture
def impatient(monkeypatch):
    """Storage that fails is not waited for."""
    monkeypatch.setenv("BAT_SWEEPS_STORAGE_PATIENCE", "0")


@pytest.fixture(scope="session")
def real_data():
    """Loads a real data set once a session, from the folder that BAT_SWEEPS_DATA names."""
    loaded: dict[str, Dataset] = {}

    def load(name: str) -> Dataset:
        root = os.environ.get("BAT_SWEEPS_DATA")
        if root is None:
            pytest.skip(f"BAT_SWEEPS_DATA names no folder: {name} is not tested")
        folder = next((Path(root) / one for one in FOLDERS.get(name, (name,)) if (Path(root) / one).is_dir()), None)
        if folder is None:
            pytest.skip(f"the folder that BAT_SWEEPS_DATA names has no {name}/")
        if name not in loaded:
            loaded[name] = load_dataset(name, folder)
        return loaded[name]

    return load
