"""Communication between the driver and its running trials, through Ray's key-value store.

A trial sends heartbeats and checks whether to pause. The driver requests pauses (Ctrl-C, a node that is about to
leave) and fails trials that hang.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import ray
from ray import tune
from ray._private.state import state as cluster_state
from ray.experimental.internal_kv import _internal_kv_exists, _internal_kv_get, _internal_kv_put
from ray.tune.experiment import Trial as TuneTrial

from sweeps.engine.storage.periodic import every
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import TrialStatus, read_status
from sweeps.engine.sweep.spec import Sweep
from sweeps.engine.sweep.trial import TrialControl

POLL_EVERY = 1.0  # seconds between polls of the store
HEARTBEAT_EVERY = 5.0  # seconds between heartbeats
GRACE = 60.0  # seconds for trials to save their state; clouds give as much before they reclaim a machine
NOTHING_STARTS = 300.0  # seconds in which no trial runs, before it is said
MAX_STALL_STEP = 5.0  # seconds per poll that count as a stall, since the driver itself may have been delayed

stopping = threading.Event()  # the driver was asked to stop
_terminated = threading.Event()  # this process was asked to end


class ControlStore:
    """The key-value store shared by the driver and the trials of one sweep."""

    def __init__(self, sweep_id: str) -> None:
        self._namespace = f"bat-sweeps-{sweep_id}"

    def put(self, key: str, value: str = "") -> None:
        """Set a key."""
        _internal_kv_put(key, value, namespace=self._namespace)

    def exists(self, key: str) -> bool:
        """Whether a key is set."""
        return bool(_internal_kv_exists(key, namespace=self._namespace))

    def get(self, key: str) -> bytes | None:
        """A key's value; None if it is not set."""
        value: bytes | None = _internal_kv_get(key, namespace=self._namespace)
        return value


STOP = "stop"


def leaving(node: str) -> str:
    """The key that marks a node as about to leave."""
    return f"leaving/{node}"


def progress(trial_id: str) -> str:
    """The key for a trial's heartbeat count."""
    return f"progress/{trial_id}"


def abandoned(trial_id: str) -> str:
    """The key that marks a trial as not to be retried."""
    return f"given-up/{trial_id}"


class RayTrialControl(TrialControl):
    """Sends a trial's heartbeats, and polls for pause requests."""

    def __init__(self, sweep_id: str, trial_id: str) -> None:
        self._store, self._trial_id = ControlStore(sweep_id), trial_id
        self._leaving = leaving(ray.get_runtime_context().get_node_id())
        self._done, self._reported, self._polled, self._wanted = 0, 0.0, 0.0, False

    def heartbeat(self) -> None:
        self._done += 1
        if time.monotonic() - self._reported >= HEARTBEAT_EVERY:
            self._reported = time.monotonic()
            self._store.put(progress(self._trial_id), str(self._done))

    def should_pause(self) -> bool:
        if _terminated.is_set():
            return True
        if time.monotonic() - self._polled >= POLL_EVERY:
            self._polled = time.monotonic()
            self._wanted = self._store.exists(STOP) or self._store.exists(self._leaving)
        return self._wanted

    def stop_requested(self) -> bool:
        """Whether the whole sweep should stop."""
        return self._store.exists(STOP)

    def abandoned(self) -> bool:
        """Whether the trial must not be retried, even if Ray would."""
        return self._store.exists(abandoned(self._trial_id))

    def abandon(self) -> None:
        """Mark the trial as not to be retried: it would fail again."""
        self._store.put(abandoned(self._trial_id))


def save_before_exit(at_work: Callable[[], bool]) -> None:
    """On SIGTERM, let a trial that is `at_work` save its state before this process ends. Call in the main thread."""
    default = signal.getsignal(signal.SIGTERM)

    def terminate(number: int, frame: FrameType | None) -> None:
        _terminated.set()
        if not at_work() and callable(default):
            default(number, frame)

    signal.signal(signal.SIGTERM, terminate)


@contextlib.contextmanager
def stop_on_signals(say: Callable[[str], None]) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM in the body: the first saves all running trials and stops, the second stops at once."""
    stopping.clear()

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if stopping.is_set():
            raise KeyboardInterrupt
        stopping.set()
        say(f"stopping: saving running trials first, for up to {GRACE:.0f} s; press Ctrl-C again to stop at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class TuneSupervisor(tune.Callback, tune.Stopper):  # type: ignore[misc]
    """Supervises the trials: stops them on request, fails those that hang, and pauses those whose node is leaving.

    It looks at the running trials in a thread of its own: Tune's event loop, for which GPUs wait, only tells it which
    trials run.

    Args:
        stall: seconds without progress after which a trial fails; None disables the check.
        say: tells the user that no trial has started for minutes: Ray tries for ever to start a process that cannot.
    """

    def __init__(
        self, sweep: Sweep, folder: SweepFolder, *, stall: float | None, say: Callable[[str], None] = print
    ) -> None:
        self._sweep, self._folder, self._stall, self._say = sweep, folder, stall, say
        self._idle = 0.0
        self._store = ControlStore(sweep.id)
        self._looked = time.monotonic()
        self._stop_requested: float | None = None
        self._seen: dict[str, tuple[Any, float]] = {}
        self._started: dict[str, TuneTrial] = {}
        self._stopped = False
        self._error: Exception | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What Tune stores of it: a copy speaks to nobody's console."""
        return self.__dict__ | {"_say": print}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
        return False

    def stop_all(self) -> bool:
        return self._stopped

    def on_trial_start(self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any) -> None:  # noqa: ARG002
        self._started[trial.trial_id] = trial

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:  # noqa: ARG002
        if self._error is not None:
            raise self._error

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look at the running trials every second while the body runs."""
        with every(POLL_EVERY, self._look_safely, name="supervisor"):
            yield

    def _look_safely(self) -> bool:
        """Look, or keep the error for Tune's loop to raise. Returns whether to go on."""
        try:
            self.look()
        except Exception as error:
            self._error = error
        return self._error is None

    def look(self) -> None:
        """Look once at the running trials."""
        now = time.monotonic()
        since, self._looked = now - self._looked, now
        running = self._running()
        if stopping.is_set():
            self._stop(running, now)
            return
        for node in cluster_state.get_draining_nodes():
            self._store.put(leaving(node))
        self._check_idle(running, min(since, MAX_STALL_STEP))
        for trial in running if self._stall else ():
            self._check_stall(trial, min(since, MAX_STALL_STEP))

    def _running(self) -> list[TuneTrial]:
        """The trials that run; those that have ended are forgotten."""
        known = list(self._started.items())  # in one step: Tune's loop may add to it
        for trial_id, trial in known:
            if trial.is_finished():
                self._started.pop(trial_id, None)
        return [trial for _, trial in known if trial.status == TuneTrial.RUNNING]

    def _stop(self, running: Sequence[TuneTrial], now: float) -> None:
        """Give training trials time to save their state. Trials under attack have nothing to save."""
        if self._stop_requested is None:
            self._stop_requested = now
            self._store.put(STOP)
        training = [trial for trial in running if self._status(trial).phase == "training"]
        if training and now - self._stop_requested < GRACE:
            return
        for trial in running:
            _kill(trial)
        self._stopped = True

    def _check_idle(self, running: Sequence[TuneTrial], since: float) -> None:
        """Say once, each time, that nothing has run for long."""
        before, self._idle = self._idle, 0.0 if running else self._idle + since
        if before <= NOTHING_STARTS < self._idle:
            self._say(
                f"no trial has run for {NOTHING_STARTS / 60:g} minutes: nodes are still starting, resources are taken,"
                " or Ray cannot start its worker processes (raylet.err in Ray's logs says why)"
            )

    def _check_stall(self, trial: TuneTrial, since: float) -> None:
        name = trial.config["trial"]
        status = self._status(trial)
        if status.phase not in {"training", "attacking"}:
            self._seen.pop(name, None)
            return
        mark = (self._store.get(progress(name)), len(status.epochs), status.attack, status.attempts)
        known, still = self._seen.get(name, (None, 0.0))
        still = still + since if known == mark else 0.0
        self._seen[name] = (mark, still)
        if self._stall and still > self._stall:
            self._store.put(abandoned(name))
            reason = f"hangs: no progress for {self._stall / 60:g} minutes; killed"
            self._folder.append_event(self._folder.find(self._sweep, name), "failed", reason=reason)
            _kill(trial)

    def _status(self, trial: TuneTrial) -> TrialStatus:
        return read_status(self._folder.trial(self._folder.find(self._sweep, trial.config["trial"])))


def _kill(trial: TuneTrial) -> None:
    if actor := trial.temporary_state.ray_actor:
        ray.kill(actor)
