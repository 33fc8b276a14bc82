"""Run a sweep as a person does: its script, in a process of its own, in an empty folder."""

import atexit
import contextlib
import io
import os
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from mlflow.tracking import MlflowClient
from ray.cluster_utils import Cluster

from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import TrialStatus, read_status
from sweeps.engine.sweep.spec import Sweep
from tests.databases import blank_database
from tests.integration.warm import Fork

SWEEPS = Path(__file__).parents[2] / "sweeps"
RAY_FOLDER = tempfile.mkdtemp(prefix="ray-")  # short: sockets lie in it
atexit.register(shutil.rmtree, RAY_FOLDER, ignore_errors=True)


@dataclass(frozen=True)
class Place:
    """A working folder with a tracking database of its own."""

    path: Path

    def __post_init__(self) -> None:
        blank_database(self.path / "tracking.db")

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path / 'tracking.db'}"

    def start(self, script: str, *arguments: str, **variables: str) -> Fork:
        environment = os.environ | {"MLFLOW_TRACKING_URI": self.uri, "OMP_NUM_THREADS": "1"}
        environment |= {"RAY_TMPDIR": RAY_FOLDER} | variables  # where no other cluster is to be found and joined
        return Fork([str(SWEEPS / script), *arguments], self.path, environment)

    def run(self, script: str, *arguments: str) -> tuple[int, str]:
        process = self.start(script, *arguments)
        printed, _ = process.communicate()
        return process.returncode, printed

    def again(self, script: str, *arguments: str) -> tuple[int, str]:
        """As `run`, in this process: for what finds all of its work done, and so starts no cluster."""
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.chdir(self.path)
            patch.setenv("MLFLOW_TRACKING_URI", self.uri)
            patch.setattr("ray.init", lambda *_, **__: pytest.fail("a cluster was started"))
            code, said = attempt(patch, script, *arguments)
        return code, printed.getvalue() + said

    def sweep(self, name: str) -> "Output":
        return Output(SweepFolder(self.path / name))


@dataclass(frozen=True)
class Output:
    """What a sweep left in its folder."""

    folder: SweepFolder

    @property
    def spec(self) -> Sweep:
        return self.folder.load()

    def statuses(self) -> dict[str, TrialStatus]:
        if not (self.folder.path / "sweep.json").exists():
            return {}
        return {trial.id: read_status(self.folder.trial(trial)) for trial in self.folder.trials(self.spec)}

    def weights(self) -> dict[str, bytes]:
        return {
            trial.id: (self.folder.trial(trial) / "model" / "model.safetensors").read_bytes()
            for trial in self.folder.trials(self.spec)
        }

    def file(self, name: str) -> bytes:
        return (self.folder.path / name).read_bytes()


def attempt(patch: pytest.MonkeyPatch, script: str, *arguments: str) -> tuple[int, str]:
    """Run a script in this process and working folder. Returns its exit code and what it said to stderr."""
    patch.setattr(sys, "argv", [script, *arguments])
    patch.setattr(sys, "path", list(sys.path))
    known, said = set(sys.modules), io.StringIO()
    with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SWEEPS / script), run_name="__main__")
    for name in set(sys.modules) - known:  # a module of the working folder is not that of the next one
        if (file := getattr(sys.modules[name], "__file__", None)) and Path(file).parent == Path.cwd():
            del sys.modules[name]
    return int(stopped.value.code or 0), said.getvalue()


@contextlib.contextmanager
def nodes(count: int) -> Iterator[Cluster]:
    """A Ray cluster in this machine's processes: a head without cores, and nodes of one core each."""
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": None}
    )
    for _ in range(count):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def snapshot(uri: str) -> dict[str, tuple]:
    """All that MLflow has of every run."""
    client = MlflowClient(uri)
    state = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            histories = {
                name: [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            }
            files = sorted(file.path for file in client.list_artifacts(run.info.run_id))
            outputs = len(run.outputs.model_outputs) if run.outputs else 0
            state[run.info.run_id] = (
                dict(run.data.tags),
                run.data.params,
                histories,
                files,
                run.info.end_time,
                outputs,
            )
    return state


def wait_until(moment: Callable[[], bool], process: Fork) -> None:
    """Look until `moment()` holds; the process must not end before."""
    while not moment():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)  # leaves the core to what is waited for


def kill_tree_when(process: Fork, moment: Callable[[], bool]) -> None:
    """SIGKILL to a process and all it started, as soon as `moment()` holds."""
    wait_until(moment, process)
    root = psutil.Process(process.pid)
    tree = [*root.children(recursive=True), root]
    for member in tree:
        with contextlib.suppress(psutil.NoSuchProcess):  # it went with one killed before it
            member.kill()
    psutil.wait_procs(tree)
    process.wait()
