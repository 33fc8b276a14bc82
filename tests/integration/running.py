"""Run a sweep as a person does: its script, in a process of its own, in an empty folder."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from sweeps.engine.records import TrialStatus, read_status
from sweeps.engine.sweep import Sweep, SweepFolder

SWEEPS = Path(__file__).parents[2] / "sweeps"


@dataclass(frozen=True)
class Place:
    """A working folder with a tracking database of its own."""

    path: Path

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path / 'tracking.db'}"

    def start(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        environment = os.environ | {"MLFLOW_TRACKING_URI": self.uri, "OMP_NUM_THREADS": "1"}
        environment.pop("RAY_ADDRESS", None)
        return subprocess.Popen(
            [sys.executable, str(SWEEPS / script), *arguments],
            cwd=self.path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, script: str, *arguments: str) -> tuple[int, str]:
        process = self.start(script, *arguments)
        printed, _ = process.communicate()
        return process.returncode, printed

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
        return {trial.id: read_status(self.folder.trial(trial)) for trial in self.spec.trials}

    def weights(self) -> dict[str, bytes]:
        return {
            trial.id: (self.folder.trial(trial) / "model" / "model.safetensors").read_bytes()
            for trial in self.spec.trials
        }

    def file(self, name: str) -> bytes:
        return (self.folder.path / name).read_bytes()


def kill_tree_when(process: subprocess.Popen[str], moment: Callable[[], bool]) -> None:
    """SIGKILL to a process and all it started, as soon as `moment()` holds."""
    while not moment():
        assert process.poll() is None, process.communicate()[0]
    root = psutil.Process(process.pid)
    tree = [*root.children(recursive=True), root]
    for member in tree:
        member.kill()
    psutil.wait_procs(tree)
    process.wait()
