"""Searches in a folder, with records written by hand: nothing is trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from bat_core.config import AttackConfig, DataConfig, TrialConfig
from search_spaces.base import Parameter, Point, Space, compose, get_space
from sweeps.engine.search.results import Score
from sweeps.engine.search.spec import Search
from sweeps.engine.search.study import SearchStudy
from sweeps.engine.search.trial_config import trial_config
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import RECORD, Record
from sweeps.engine.sweep.spec import SPEC, Resources, Sweep, Trial

PIXEL = 5 / 255
SPACE = compose([get_space("bat"), get_space("schedule")]).at(PIXEL)
BASE = TrialConfig(data=DataConfig(val_size=300), attack=AttackConfig(steps=(20,), split="val"))
LINE = Space(
    name="line",
    description="one number that no two draws share",
    parameters=(
        Parameter(name="lr", kind="float", description="", field_path="train.lr", default=0.1, low=0.01, high=0.5),
    ),
)


def search_of(space: Space = SPACE, **changes: Any) -> Search:
    """A search that draws at random, so that what it draws depends on nothing but its seed."""
    decided: dict[str, Any] = {
        "space": space, "base": BASE, "objective": "clean+robust", "sampler": "random", "seed": 0, "num_trials": 40,
        "max_hours": None, "flat": None, "halving": None, "final": None, "skip_dominated": True,
    }  # fmt: skip
    return Search(**decided | changes)


def sweep_of(num_workers: int = 1) -> Sweep:
    resources = Resources(num_workers=num_workers)
    return Sweep(name="search", command="", data_dir=None, pixel=PIXEL, resources=resources, trials=(), open=True)


class Lab:
    """A search's folder, made if it is not there; its study as often as it is opened; what becomes of its trials."""

    def __init__(self, path: Path, search: Search | None = None, num_workers: int = 1) -> None:
        self.folder, self.search = SweepFolder(path), search or search_of()
        if not (path / SPEC).exists():
            self.folder.create(sweep_of(num_workers))
        self.sweep = self.folder.load()

    def open(self, **changes: Any) -> SearchStudy:
        return SearchStudy(replace(self.search, **changes), self.sweep, self.folder)

    def begin(self, trial: Trial, *, time: float = 0.0, epochs: int = 1, seconds: float = 60.0) -> Record:
        record = Record(self.folder.trial(trial))
        record.append("start", time=time)
        for epoch in range(epochs):
            record.append("epoch", epoch=epoch + 1, seconds=seconds, time=time + seconds * (epoch + 1))
        return record

    def finish(
        self, trial: Trial, clean: float = 0.9, robust: float = 0.5, *, time: float = 0.0, **result: Any
    ) -> None:
        epochs, seconds = result.pop("epochs", 1), result.pop("seconds", 60.0)
        said = {
            "clean_acc": clean, "robust_acc": robust, "pgd_acc": robust + 0.02, "n": 300, "robust_n": 200,
            "suite": "PGD-20+quick", "verdict": "clear", "flags": [], "time": time + epochs * seconds,
        }  # fmt: skip
        self.begin(trial, time=time, epochs=epochs, seconds=seconds).append("finished", **said | result)

    def end(self, trial: Trial, how: str, reason: str = "no reason") -> None:
        """Stopped or failed, after a minute."""
        self.begin(trial).append(how, reason=reason, time=60.0)

    def leave_out(self, trial: Trial, clean: float, bound: float, by: str = "trial-000") -> None:
        """Stopped after PGD, before it was verified."""
        reason = f"cannot enter the front: clean {clean:.1%} and at most {bound:.1%} robust (PGD), and {by} has more"
        self.begin(trial).append("stopped", reason=reason, clean_acc=clean, robust_bound=bound, time=60.0)

    def propose(self, number: int = 0, point: Point | None = None, *, role: str = "search") -> Trial:
        """A trial on disk that no study knows of."""
        point = self.search.space.default_point() if point is None else point
        config = trial_config(self.search.space, point, self.search.base)
        trial = Trial(id=f"trial-{number:03d}", config=config, role=role, point=point)
        self.folder.propose(trial)
        return trial


def score_of(clean: float, robust: float, *, name: str = "", masked: bool = False, **changes: Any) -> Score:
    """A finished trial that nobody ran."""
    known: dict[str, Any] = {
        "trial": Trial(id=name or f"{clean:g}-{robust:g}", config=BASE, role="search"),
        "clean_acc": clean, "robust_acc": robust, "pgd_acc": robust, "n": 300, "robust_n": 200, "suite": "s",
        "masking_status": "masked" if masked else "clear", "flags": (), "hours": 1.0, "ended": 0.0,
    }  # fmt: skip
    return Score(**known | changes)


def events(folder: Path, *said: tuple[str, float]) -> Path:
    """A trial's folder with a record of (event, time)."""
    folder.mkdir(parents=True)
    lines = [json.dumps({"event": event, "time": time, "reason": "", "epoch": 1}) + "\n" for event, time in said]
    (folder / RECORD).write_text("".join(lines))
    return folder
