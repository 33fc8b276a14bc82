"""A warm Python: scripts run in forks of one process that has imported what they need.

A fork is a process like any other, with its own session, working folder, environment and standard streams; only its
imports, ten seconds of a core, were done before. `python -m tests.integration.warm SOCKET` is the process that forks.
"""

import atexit
import contextlib
import functools
import gc
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

MODULES = (
    "sweeps.engine.ray_backend",  # first, as in every command: it sets what Ray reads when it is imported
    "sweeps.engine.evaluation.run",
    "sweeps.engine.paper.run",
    "sweeps.engine.search.run",
    "sweeps.engine.transfer.run",
    "sweeps.eps_budget",
    "mlflow.pyfunc",
    "ray.train.torch",
    "ray.tune",
    "sklearn.datasets",
    "torchvision",
)
CLIENT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
asked = json.dumps({{"argv": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}).encode()
socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
server.sendall(asked)
answer = server.recv(16, socket.MSG_WAITALL)
code = os.waitstatus_to_exitcode(int.from_bytes(answer[8:], "big"))
sys.exit(code if code >= 0 else 128 - code)
"""


class Fork:
    """A script in a fork of the warm process, with `subprocess.Popen`'s interface. It leads a session."""

    def __init__(self, argv: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        self.returncode: int | None = None
        asked = json.dumps({"argv": list(argv), "folder": str(folder), "environment": dict(environment)}).encode()
        reads, writes = os.pipe()
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(str(server()))
        with Path(os.devnull).open() as nothing:
            socket.send_fds(self._server, [len(asked).to_bytes(8, "big")], [nothing.fileno(), writes, writes])
        os.close(writes)
        self._server.sendall(asked)
        self.stdout: TextIO = open(reads)  # noqa: PTH123, SIM115 (closed by `communicate`)
        self.pid = self._number()

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while the script runs."""
        if self.returncode is None:
            self._server.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self._server.recv(1, socket.MSG_PEEK)
                self.wait()
            self._server.setblocking(True)
        return self.returncode

    def wait(self) -> int:
        """Wait for the end of the script. Returns its exit code."""
        if self.returncode is None:
            self._server.setblocking(True)
            self.returncode = os.waitstatus_to_exitcode(self._number())
        return self.returncode

    def communicate(self) -> tuple[str, None]:
        """All that the script printed, to both streams, and nothing."""
        with self.stdout:
            printed = self.stdout.read()
        self.wait()
        return printed, None

    def _number(self) -> int:
        return int.from_bytes(self._server.recv(8, socket.MSG_WAITALL), "big")


@functools.cache
def server() -> Path:
    """The socket of this process's own warm process, which is started by the first call."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    path = folder / "socket"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.warm", str(path)],
        cwd=Path(__file__).parents[2], env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def end() -> None:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return path


def client(folder: Path) -> Path:
    """An executable that takes a script and its arguments like `python`, and runs them in a fork."""
    file = folder / "python"
    file.write_text(CLIENT.format(python=sys.executable, path=str(server())))
    file.chmod(0o755)
    return file


def serve(path: str) -> None:
    """Fork for every request, until the process is ended."""
    for name in MODULES:
        __import__(name)
    gc.collect()
    gc.freeze()  # forks do not copy what lies here by collecting it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended forks need no attention
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> None:
    """Run one request in a fork, tell its process id and, when it has ended, its status; and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, *_ = socket.recv_fds(connection, 8, 3)
    content = b""
    while len(content) < int.from_bytes(size, "big"):
        content += connection.recv(2**16)
    child = os.fork()
    if child == 0:
        connection.close()
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        run(json.loads(content))
        sys.exit()
    for stream in streams:
        os.close(stream)
    with contextlib.suppress(BrokenPipeError):  # whoever asked has gone
        connection.sendall(child.to_bytes(8, "big"))
        connection.sendall(os.waitpid(child, 0)[1].to_bytes(8, "big"))
    os._exit(0)


def run(asked: dict) -> None:
    """Run a script as Python would; how it ends is how this process ends."""
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    script, *_ = sys.argv = asked["argv"]
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [str(Path(script).parent), *filter(None, added), *sys.path]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
