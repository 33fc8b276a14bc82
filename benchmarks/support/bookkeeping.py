"""CPU seconds of what a driver does with its trials besides running them, on sweeps that `made_sweeps` writes."""

import contextlib
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from ray.tune.experiment import Trial as TuneTrial

from support.made_sweeps import Made, made_sweep, record_of, search_of
from sweeps.engine.evaluation.model_sources import find_models
from sweeps.engine.paper.figure_1 import draw
from sweeps.engine.ray_backend import control
from sweeps.engine.search.pace import Pace
from sweeps.engine.search.snapshot import Snapshot, flat_for
from sweeps.engine.sweep.records import RECORD, read_status
from sweeps.engine.tracking import sync

RUNNING = 1000  # trials that run while the supervisor looks, or all if there are fewer
LOOKS = 3


def find(count: int) -> dict[str, float]:
    """`evaluate.py SWEEP` finds the models of a sweep."""
    with _made(count) as made:
        return {"cpu": _cpu(lambda: find_models([str(made.folder.path)], weights=None, downloads=made.folder.path))}


def look(count: int) -> dict[str, float]:
    """The mirror looks at a sweep in which nothing is new. The server is a stub."""
    with _made(count) as made, contextlib.ExitStack() as stack:
        mirror = sync.SweepSync(*made.reopened(), uri=f"sqlite:///{made.folder.path}/mlflow.db")
        parent = SimpleNamespace(run=SimpleNamespace(info=SimpleNamespace(run_id="parent")))
        mirror.runs = SimpleNamespace(  # type: ignore[assignment]
            known_to_server=lambda: True, look_up=lambda: None, parent=lambda: parent, folder=made.folder
        )  # fmt: skip
        stack.enter_context(patch.object(sync, "TrialRun"))
        mirror.sync()
        return {"cpu": _least(mirror.sync)}


def supervise(count: int) -> dict[str, float]:
    """The supervisor looks at running trials, in a sweep of `count`."""
    with _made(count) as made, contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(control, "cluster_state"))
        supervisor = control.TuneSupervisor(*made.reopened(), stall=3600.0)
        supervisor._store = SimpleNamespace(get=lambda _: b"1", put=lambda *_: None)  # type: ignore[assignment]
        ids = [f"trial-{at:05d}" for at in range(count)][-RUNNING:]
        for one in ids:
            trial: Any = SimpleNamespace(
                trial_id=one, status=TuneTrial.RUNNING, config={"trial": one}, is_finished=lambda: False
            )
            supervisor.on_trial_start(1, [], trial)
        supervisor.look()
        return {"cpu": _least(supervisor.look)}


def view(count: int) -> dict[str, float]:
    """A search looks at its own trials before it proposes another: its clock, and how long its front has been flat."""
    with _made(count, search=True) as made:
        sweep, folder = made.reopened()

        def looked() -> None:
            flat_for(Snapshot.of(sweep, search_of(count), folder))

        looked()
        return {"cpu": _least(looked)}


def whole_search(count: int) -> dict[str, float]:
    """All looks of a search at its clock and its front, one before each of `count` proposals."""
    with _made(count, search=True) as made:
        sweep, folder = made.reopened()
        trials = folder.trials(sweep)
        hidden = folder.path.parent / "hidden"
        (folder.path / "trials").rename(hidden)
        (folder.path / "trials").mkdir()

        pace, seen = Pace(sweep, folder), []  # type: tuple[Pace, list[Trial]]

        def all_looks() -> None:
            for trial in trials:
                (hidden / trial.id).rename(folder.path / "trials" / trial.id)
                seen.append(trial)
                pace.look(seen)
                assert pace.hours >= 0
                assert pace.flat >= 0

        return {"cpu": _cpu(all_looks)}


def figure(count: int) -> dict[str, float]:
    """Figure 1 is drawn. `mib` is what that adds to the peak memory of its process."""
    with _made(count) as made:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cpu = _cpu(lambda: draw(*made.reopened()))
        return {"cpu": cpu, "mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


def status(epochs: int) -> dict[str, float]:
    """The record of one trial of so many epochs is read."""
    with _made(1) as made:
        (trial,) = made.sweep.trials
        home = made.folder.trial(trial)
        (home / RECORD).unlink()
        (home / RECORD).write_bytes(record_of(trial, 0.0, epochs, 1000, 0))
        return {"cpu": _cpu(lambda: read_status(home))}


def live_record(epochs: int) -> dict[str, float]:
    """The record of one trial is read after each of its epochs."""
    with _made(1) as made:
        (trial,) = made.sweep.trials
        home = made.folder.trial(trial)
        lines = record_of(trial, 0.0, epochs, 1000, 0).splitlines(keepends=True)
        (home / RECORD).unlink()
        cpu = 0.0
        for line in lines:
            with (home / RECORD).open("ab") as file:
                file.write(line)
            cpu += _cpu(lambda: read_status(home))
        return {"cpu": cpu}


TRIALS: dict[str, Callable[[int], dict[str, float]]] = {
    "evaluate.py finds a sweep's models": find,
    "the mirror's look with nothing new": look,
    "the supervisor's look": supervise,
    "a search's report looks at its trials": view,
    "all looks of a search": whole_search,
    "Figure 1": figure,
}
EPOCHS: dict[str, Callable[[int], dict[str, float]]] = {
    "reading a record once": status,
    "reading a record after each epoch": live_record,
}


@contextlib.contextmanager
def _made(count: int, *, search: bool = False) -> Iterator[Made]:
    with tempfile.TemporaryDirectory() as folder:
        yield made_sweep(Path(folder) / "sweep", count, search=search)


def _cpu(act: Callable[[], object]) -> float:
    began = time.process_time()
    act()
    return time.process_time() - began


def _least(act: Callable[[], object]) -> float:
    return min(_cpu(act) for _ in range(LOOKS))
