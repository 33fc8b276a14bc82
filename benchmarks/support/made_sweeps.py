"""Sweeps of finished trials that nobody trained, written in seconds: what reads them cannot tell the difference."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from bat_core.checkpoint import save_model
from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig, to_dict
from bat_core.data import load_dataset
from bat_core.fit import initial_state
from bat_core.paths import Rooted
from bat_core.suites import evaluation_suite, trajectories
from bat_core.verdicts import UNBROKEN, Outcome, Verdicts
from search_spaces.base import compose, get_space
from sweeps.engine.search.spec import Search
from sweeps.engine.sweep.folder import TRIAL, SweepFolder
from sweeps.engine.sweep.records import RECORD, VERDICTS, VERIFIED
from sweeps.engine.sweep.spec import Resources, Sweep, Trial

PIXEL = 5 / 255
BUDGETS = 10  # training budgets of the grid; the other trials are seeds
SECONDS = 10.0  # of a trial


@dataclass(frozen=True, kw_only=True)
class Made:
    """A sweep's folder and spec."""

    sweep: Sweep
    folder: SweepFolder

    def reopened(self) -> tuple[Sweep, SweepFolder]:
        """The sweep and its folder, as another process finds them."""
        return self.folder.load(), self.folder


def made_sweep(path: Path, count: int, *, epochs: int = 10, images: int = 1000, search: bool = False) -> Made:
    """Write a sweep, or a search, of `count` finished trials. Their models and verdicts are links to the same files.

    Args:
        epochs: of each trial.  images: that each trial was evaluated on.
    """
    role = "search" if search else "grid"
    trials = tuple(Trial(id=f"trial-{at:05d}", config=_config(at, epochs), role=role) for at in range(count))
    sweep = Sweep(
        name="made", command="", data_dir=None, pixel=PIXEL, resources=Resources(),
        trials=() if search else trials, open=search,
    )  # fmt: skip
    folder = SweepFolder(path)
    folder.create(sweep)
    shared = _shared_files(path / "shared", trials[0].config, images)
    for at, trial in enumerate(trials):
        home = path / "trials" / trial.id
        (home / "model").mkdir(parents=True)
        for name, file in shared.items():
            os.link(file, home / name)
        (home / RECORD).write_bytes(record_of(trial, at * SECONDS, epochs, images, at))
        if search:
            (home / TRIAL).write_text(json.dumps(to_dict(trial)))
    return Made(sweep=sweep, folder=folder)


def search_of(count: int) -> Search:
    """The search whose trials `made_sweep` writes."""
    space = compose([get_space("bat")]).at(PIXEL)
    return Search(
        space=space, base=_config(0, 10), objective="clean+robust", sampler="random", seed=0, num_trials=count,
        max_hours=1e6, flat=count, halving=None, final=None,
    )  # fmt: skip


def record_of(trial: Trial, began: float, epochs: int, images: int, seed: int) -> bytes:
    """The record of a finished trial. Its accuracies depend on `seed`."""
    rng = np.random.default_rng(seed)
    clean, robust = float(rng.uniform(0.5, 0.9)), float(rng.uniform(0.1, 0.5))
    step = SECONDS / (epochs + 2)
    events: list[dict[str, object]] = [{"event": "start", "time": began, "hash": trial.config.hash}]
    events += [
        {
            "event": "epoch", "time": began + step * epoch, "epoch": epoch, "lr": 0.1, "train_loss": 1 / epoch,
            "train_acc": clean, "val_clean_acc": clean, "val_robust_acc": robust, "val_one_step_acc": robust,
            "seconds": step,
        }
        for epoch in range(1, epochs + 1)
    ]  # fmt: skip
    events.append({"event": "attack", "time": began + step * (epochs + 1), "done": images, "of": images})
    events.append(
        {
            "event": "finished", "time": began + SECONDS, "n": images, "split": "test", "clean_acc": clean,
            "pgd_acc": robust + 0.05, "robust_acc": robust, "robust_n": images,
            "suite": evaluation_suite(trial.config.attack).label_for("clear"), "verdict": "clear", "flags": [],
        }
    )  # fmt: skip
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def _config(at: int, epochs: int) -> TrialConfig:
    return TrialConfig(
        data=DataConfig(train_size=64, val_size=16, test_size=64),
        model="small_cnn_4",
        recipe=RecipeConfig(params={"eps": (1 + at % BUDGETS) * PIXEL}),
        train=TrainConfig(epochs=epochs),
        attack=AttackConfig(eps=8 * PIXEL, step_size=2 * PIXEL, steps=(1, 2, 5, 10, 20, 50, 100), verify=100),
        seed=at // BUDGETS,
    )


def _shared_files(folder: Path, config: TrialConfig, images: int) -> dict[str, Path]:
    """A model and verdicts, by their names in a trial's folder."""
    dataset = load_dataset("digits", train_size=64, val_size=16, test_size=64)
    save_model(Rooted(folder / "model"), initial_state(config, dataset, torch.device("cpu")), config, dataset)
    for name, suite in ((VERDICTS, trajectories(config.attack)), (VERIFIED, evaluation_suite(config.attack))):
        found = Verdicts(
            rows=np.arange(images), labels=np.arange(images) % 10, clean_correct=np.arange(images) % 20 > 0,
            outcomes={},
        )  # fmt: skip
        for entry in suite.entries:
            broken_at = np.where(np.arange(images) % 3, UNBROKEN, 1)
            final = np.repeat((broken_at == UNBROKEN)[:, None], len(entry.steps), axis=1)
            found = found.with_outcome(entry.name, Outcome(broken_at=broken_at, steps=entry.steps, final=final))
        found.write(Rooted(folder / name))
    return {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
