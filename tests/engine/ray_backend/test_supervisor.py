"""The supervisor looks at running trials only, in a thread of its own, and not in Tune's event loop."""

import pickle
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.tune.experiment import Trial as TuneTrial

from sweeps.engine.ray_backend import control
from sweeps.engine.ray_backend.control import TuneSupervisor
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import Record, read_status
from sweeps.engine.sweep.spec import Resources, Sweep, Trial

COUNT = 20


@pytest.fixture(autouse=True)
def killed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    monkeypatch.setattr(control, "cluster_state", SimpleNamespace(get_draining_nodes=dict))
    monkeypatch.setattr(control, "_kill", lambda trial: names.append(trial.config["trial"]))
    control.stopping.clear()
    return names


@pytest.fixture
def sweep(make_trial, tmp_path) -> tuple[Sweep, SweepFolder]:
    trials = tuple(Trial(id=f"t{at}", config=make_trial(seed=at)) for at in range(COUNT))
    folder = SweepFolder(tmp_path / "sweep")
    sweep = Sweep(name="s", command="", data_dir=None, pixel=1 / 255, resources=Resources(), trials=trials)
    folder.create(sweep)
    for trial in trials:
        Record(folder.trial(trial)).append("start")
    return sweep, folder


def tune_trial(name: str, status: str = TuneTrial.RUNNING) -> Any:
    made = SimpleNamespace(trial_id=f"tune-{name}", config={"trial": name}, status=status)
    made.is_finished = lambda: made.status in {TuneTrial.TERMINATED, TuneTrial.ERROR}
    return made


@pytest.fixture
def supervisor(sweep) -> TuneSupervisor:
    made = TuneSupervisor(*sweep, stall=3600.0)
    kept: dict[str, str] = {}
    made._store = SimpleNamespace(get=kept.get, put=lambda key, value="": kept.update({key: value}))  # type: ignore[assignment]
    return made


def test_only_the_records_of_running_trials_are_read(supervisor: TuneSupervisor, monkeypatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(control, "read_status", lambda home: (seen.append(home.name), read_status(home))[1])
    running, over = tune_trial("t3"), tune_trial("t4")
    for trial in (running, over, tune_trial("t5", TuneTrial.PENDING)):
        supervisor.on_trial_start(1, [], trial)
    supervisor.look()
    over.status = TuneTrial.TERMINATED
    supervisor.look()
    assert seen == ["t3", "t4", "t3"]
    assert "tune-t4" not in supervisor._started


def test_a_trial_that_hangs_is_failed_and_killed(supervisor: TuneSupervisor, sweep, killed, monkeypatch) -> None:
    monkeypatch.setattr(control, "MAX_STALL_STEP", 3601.0)
    supervisor.on_trial_start(1, [], tune_trial("t3"))
    supervisor.look()
    supervisor._looked -= 3601.0  # so long ago
    supervisor.look()
    assert killed == ["t3"]
    assert read_status(sweep[1].trial(sweep[0].trials[3])).reason == "hangs: no progress for 60 minutes; killed"


def test_tune_may_store_it_whatever_it_speaks_through(sweep) -> None:
    lock = threading.RLock()
    made = TuneSupervisor(*sweep, stall=3600.0, say=lambda text: print(lock, text))
    assert pickle.loads(cloudpickle.dumps(made))._stall == 3600.0


def test_that_no_trial_starts_is_said_once(supervisor: TuneSupervisor, monkeypatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(supervisor, "_say", said.append)
    monkeypatch.setattr(control, "MAX_STALL_STEP", 200.0)
    trial = tune_trial("t3", TuneTrial.PENDING)

    def wait(looks: int) -> None:
        for _ in range(looks):
            supervisor._looked -= 200.0
            supervisor.look()

    wait(1)
    assert not said
    wait(3)
    (once,) = said
    assert once.startswith("no trial has run for 5 minutes: ")
    trial.status = TuneTrial.RUNNING
    supervisor.on_trial_start(1, [], trial)
    wait(3)
    assert len(said) == 1
    trial.status = TuneTrial.TERMINATED
    wait(2)
    assert len(said) == 2


def test_tunes_loop_does_not_wait_for_a_look(supervisor: TuneSupervisor, monkeypatch) -> None:
    """Of a look that takes for ever, Tune's loop notices nothing."""
    looking, done = threading.Event(), threading.Event()
    monkeypatch.setattr(control, "POLL_EVERY", 0.0)
    monkeypatch.setattr(supervisor, "look", lambda: (looking.set(), done.wait()))
    with supervisor.watching():
        assert looking.wait(60)
        supervisor.on_trial_start(1, [], tune_trial("t1"))
        supervisor.on_step_end(1, [])
        assert not supervisor.stop_all()
        done.set()


def test_the_error_of_a_look_ends_the_sweep(supervisor: TuneSupervisor, monkeypatch) -> None:
    def broken() -> None:
        raise RuntimeError("Ray is gone")

    monkeypatch.setattr(supervisor, "look", broken)
    assert supervisor._look_safely() is False
    with pytest.raises(RuntimeError, match="Ray is gone"):
        supervisor.on_step_end(1, [])
