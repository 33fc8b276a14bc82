"""A tracking server that can be killed, held and replaced, and a proxy that spoils what passes through it."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.databases import blank_database

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as query:
        query.bind((HOST, 0))
        return query.getsockname()[1]


@dataclass
class Server:
    """`mlflow server` over an SQLite file in `folder`, on loopback."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self, database: str = "tracking") -> None:
        """Returns once it answers."""
        place = self.folder / database
        place.mkdir(parents=True, exist_ok=True)
        blank_database(place / "tracking.db")
        with (place / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.port)),
                    *("--backend-store-uri", f"sqlite:///{place / 'tracking.db'}", "--workers", "1"),
                    *("--artifacts-destination", str(place / "artifacts")),
                ],
                cwd=place,
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not self._answers():
            assert self.process.poll() is None, (place / "server.log").read_text()
            time.sleep(0.05)

    def signal(self, number: signal.Signals) -> None:
        """To the server and all that it started."""
        assert self.process
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        if self.process:
            self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False


@dataclass
class Proxy:
    """Stands before a server. `on` says which requests (a part of their path) are spoilt by `fault`.

    "refuse": answered by 500, and not passed on. "hold": passed on once `release` is called. "late": passed
    on at once, and answered once `release` is called. "slow": answered after `delay` seconds.

    `calls` are all requests: path and body. `most` is the largest number of requests that were there at once.
    """

    server: Server
    port: int = 0
    fault: str = ""
    on: str = ""
    delay: float = 0.0
    spoilt: threading.Event = field(default_factory=threading.Event)
    passed: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)
    calls: list[tuple[str, bytes]] = field(default_factory=list)
    most: int = 0
    there: list[str] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return f"http://{HOST}:{self.port}"

    def spoil(self, fault: str, on: str = "", *, delay: float = 0.0) -> None:
        self.spoilt.clear()
        self.passed.clear()
        self.released.clear()
        self.fault, self.on, self.delay = fault, on, delay

    def mend(self) -> None:
        """From now on all passes; what is held stays held."""
        self.fault = ""

    def release(self) -> None:
        """What is held goes on."""
        self.released.set()

    @contextmanager
    def running(self) -> Iterator["Proxy"]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy.calls.append((self.path, body))
                proxy.there.append(self.path)
                proxy.most = max(proxy.most, len(proxy.there))
                try:
                    self._handle(body)
                finally:
                    proxy.there.remove(self.path)

            def _handle(self, body: bytes) -> None:
                fault = proxy.fault if proxy.on in self.path else ""
                if fault == "refuse":
                    proxy.spoilt.set()
                    return self._answer(500, b"broken", "text/plain")
                if fault == "hold":
                    proxy.spoilt.set()
                    proxy.released.wait()
                status, content, kind = self._pass_on(body)
                if fault == "late":
                    proxy.spoilt.set()
                    proxy.released.wait()
                if fault == "slow":
                    proxy.spoilt.set()
                    time.sleep(proxy.delay)
                if fault in {"hold", "late"}:
                    proxy.passed.set()
                return self._answer(status, content, kind)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815 (the names of the base class)

            def _pass_on(self, body: bytes) -> tuple[int, bytes, str]:
                connection = http.client.HTTPConnection(HOST, proxy.server.port)
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                return answer.status, answer.read(), answer.headers.get("Content-Type", "")

            def _answer(self, status: int, content: bytes, kind: str) -> None:
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", kind)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    return  # whoever asked has gone

            def log_message(self, *_: object) -> None:
                return

        with ThreadingHTTPServer((HOST, 0), Handler) as listener:
            listener.daemon_threads = True
            listener.block_on_close = False
            self.port = listener.server_address[1]
            threading.Thread(target=listener.serve_forever, daemon=True).start()
            yield self
            self.released.set()
            listener.shutdown()
