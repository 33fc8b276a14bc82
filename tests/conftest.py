"""Tiny data, trials and folders that tests share."""

import os
from pathlib import Path

import hypothesis
import pytest
import torch

from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Dataset, load_dataset

hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None, max_examples=50)
hypothesis.settings.load_profile("fixed")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    """128 train, 32 val and 64 test digits."""
    return load_dataset("digits", train_size=128, val_size=32, test_size=64)


@pytest.fixture
def make_trial():
    """A trial on `digits` that trains in a fraction of a second."""

    def make(recipe="R-MC-LA", *, params=None, model="small_cnn_8", seed=0, **train) -> TrialConfig:
        return TrialConfig(
            data=DataConfig(train_size=128, val_size=32, test_size=64),
            model=model,
            recipe=RecipeConfig(name=recipe, params={"eps": 40 / 255} if params is None else params),
            train=TrainConfig(**{"epochs": 3, "batch_size": 32, "val_steps": 2, "precision": "float32", **train}),
            attack=AttackConfig(eps=40 / 255, step_size=10 / 255, steps=(1, 2, 3), batch_size=32),
            seed=seed,
        )

    return make


@pytest.fixture(scope="session")
def real_data():
    """Loads a real data set once a session, from the folder that BAT_SWEEPS_DATA names."""
    loaded: dict[str, Dataset] = {}

    def load(name: str) -> Dataset:
        root = os.environ.get("BAT_SWEEPS_DATA")
        if root is None:
            pytest.skip(f"BAT_SWEEPS_DATA names no folder: {name} is not tested")
        folder = Path(root) / name
        if not folder.is_dir():
            pytest.skip(f"the folder that BAT_SWEEPS_DATA names has no {name}/")
        if name not in loaded:
            loaded[name] = load_dataset(name, folder)
        return loaded[name]

    return load
