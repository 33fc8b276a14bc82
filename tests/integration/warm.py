"""A warm Python: scripts run in forks of one process that has imported what they need.

`python -m tests.integration.warm SOCKET` is that process. `client(folder, socket)` writes an executable that takes a
script and its arguments like `python` does, and runs them in a fork with its own working folder, environment and
standard streams.
"""

import json
import os
import runpy
import signal
import socket
import sys
import traceback
from pathlib import Path

MODULES = (
    "mlflow",
    "pyarrow.parquet",
    "sweeps.engine.evaluation.run",
    "sweeps.engine.search.run",
    "sweeps.engine.transfer.run",
    "sweeps.eps_budget",
    "sweeps.evaluate",
    "torchvision",
)
CLIENT = """#!{python} -SE
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
asked = json.dumps({{"argv": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}).encode()
socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
server.sendall(asked)
answer = server.recv(1)
sys.exit(answer[0] if answer else 1)
"""


def client(folder: Path, path: Path) -> Path:
    """An executable that runs scripts in forks of the process that listens at `path`."""
    file = folder / "python"
    file.write_text(CLIENT.format(python=sys.executable, path=str(path)))
    file.chmod(0o755)
    return file


def serve(path: str) -> None:
    """Fork for every request, until the process is ended."""
    for name in MODULES:
        __import__(name)
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
    """Run one request in this process, tell its exit code and end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    size, streams, *_ = socket.recv_fds(connection, 8, 3)
    content = b""
    while len(content) < int.from_bytes(size, "big"):
        content += connection.recv(2**16)
    asked = json.loads(content)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 (they are the process's own)
    connection.sendall(bytes([run(asked)]))
    os._exit(0)


def run(asked: dict) -> int:
    """The exit code of a script."""
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    script, *_ = sys.argv = asked["argv"]
    added = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [str(Path(script).parent), *filter(None, added), *sys.path]
    try:
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else int(stopped.code is not None)
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            code = code or 1
    return code & 255


if __name__ == "__main__":
    serve(sys.argv[1])
