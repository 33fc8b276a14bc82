"""Machines for the cluster launcher: namespaces on a bridge of their own, with sshd, and a laptop beside them."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import psutil
import pytest

from tests.isolation import shell

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("hosts.sh")
ADDRESSES = {"head": "10.77.0.11", "worker": "10.77.0.12"}
NEEDED = {"sshd": "openssh-server", "ssh": "openssh-client", "rsync": "rsync", "nc": "netcat-openbsd", "ip": "iproute2"}
SSHD = """
Port 22
Subsystem sftp internal-sftp
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""
PROFILE = """
{isolated}
export PATH={venv}/bin:$PATH
"""
WITHOUT_A_NETWORK = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # 0 is pip's word for no isolation


@dataclass(frozen=True)
class Hosts:
    """Two machines, `head` and `worker`, and the one that commands are typed on.

    Args:
        init: the first process of them all.
    """

    folder: Path
    init: int

    @property
    def shared(self) -> Path:
        """What the machines have at /mnt/shared."""
        return self.folder / "shared"

    def command(self, *command: str | Path) -> list[str]:
        """What runs a command where the person sits."""
        enter = [
            "nsenter",
            "--target",
            str(self.init),
            "--net",
            "--pid",
            "--mount",
            "--uts",
            "--",
            "env",
            f"--chdir={ROOT}",
        ]
        return [*enter, *map(str, command)]

    def environment(self, **more: str) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return os.environ | {"HOME": str(self.folder / "client"), "PATH": path} | more

    def start(self, *command: str | Path, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*command),
            env=self.environment(**environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str | Path, **environment: str) -> tuple[int, str]:
        """The exit code of a command that the person types in the project's folder, and what it printed."""
        process = self.start(*command, **environment)
        printed, _ = process.communicate()
        return process.returncode, printed

    def typed(self, *command: str | Path, **environment: str) -> str:
        """What a command printed that is to succeed."""
        code, printed = self.run(*command, **environment)
        assert code == 0, printed
        return printed

    @contextmanager
    def forwarding(self, *command: str | Path, port: int) -> Iterator[None]:
        """A command that forwards a port to where the person sits, while the body runs."""
        process = self.start(*command)
        try:
            wait_until(lambda: not self.run("nc", "-z", "127.0.0.1", str(port))[0], psutil.Process(process.pid))
            yield
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.communicate()

    def wait_for(self, host: str, command: str) -> None:
        """Return when a command succeeds on a machine."""
        wait_until(lambda: not self.run(*self.login(host), command)[0], psutil.Process(self.init))

    def login(self, host: str) -> list[str | Path]:
        options = ["-i", self.folder / "key", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        return ["ssh", "-q", *options, f"root@{ADDRESSES[host]}"]

    def on(self, host: str, command: str) -> str:
        """What a command printed on a machine, in a shell as Ray has it there."""
        return self.typed(*self.login(host), f"source ~/.bashrc; {command}")


def wait_until(moment: Callable[[], bool], process: psutil.Process) -> None:
    """Look again and again while `process` lives."""
    while not moment():
        assert process.is_running(), "ended before its time"
        time.sleep(1)


def what_is_missing() -> str | None:
    """Why there can be no hosts here, or None."""
    missing = sorted(package for program, package in NEEDED.items() if shutil.which(program) is None)
    if missing:
        return f"Debian's {', '.join(missing)} not installed"
    if os.geteuid():
        return "only root may make hosts of namespaces"
    bridge = "mount --make-rprivate / && ip link add hosts type bridge && ip link add to-host type veth peer name eth0"
    tried = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--mount-proc", "sh", "-c", bridge],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else None


@contextmanager
def running_hosts(folder: Path) -> Iterator[Hosts]:
    """The machines while the body runs; skips the test where they cannot be had."""
    if reason := what_is_missing():
        pytest.skip(reason)
    furnish(folder)
    machines = [f"{name}={address}" for name, address in ADDRESSES.items()]
    unshare = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "--mount-proc", "--kill-child"]
    with (folder / "hosts.log").open("w") as log:
        outer = subprocess.Popen([*unshare, "bash", SCRIPT, folder, *machines], stdout=log, stderr=log)
    try:
        process = psutil.Process(outer.pid)
        wait_until(lambda: bool(process.children()), process)
        hosts = Hosts(folder, process.children()[0].pid)
        for address in ADDRESSES.values():
            wait_until(lambda address=address: not hosts.run("nc", "-z", address, "22")[0], process)
        yield hosts
    finally:
        outer.kill()
        outer.wait()


def furnish(folder: Path) -> None:
    """Keys, homes, and on each machine a Python that has the packages of this one, but not the project."""
    here = sysconfig.get_path("purelib")
    isolated = shell(OMP_NUM_THREADS="1", RAY_DEDUP_LOGS="0", **WITHOUT_A_NETWORK)
    (folder / "shared").mkdir()
    for key in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
    (folder / "sshd_config").write_text(SSHD)
    (folder / "client").mkdir()
    for name in ADDRESSES:
        home = folder / name
        venv = home / "bat-venv"
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        packages = sysconfig.get_path("purelib", vars={"base": str(venv)})
        Path(packages, "this-environment.pth").write_text(f"import sys; sys.path.insert(0, {here!r})")
        for script in ("ray", "mlflow"):
            lend_script(script, venv)
        (home / ".profile").write_text(PROFILE.format(isolated=isolated, venv=venv))
        (home / ".bashrc").touch()


def lend_script(name: str, venv: Path) -> None:
    """A command of this environment, run by the interpreter of another."""
    entry, *_ = entry_points(group="console_scripts", name=name)
    script = venv / "bin" / name
    script.write_text(f"#!{venv}/bin/python\nfrom {entry.module} import {entry.attr} as main\nmain()\n")
    script.chmod(0o755)


def fill_in(text: str, values: Mapping[str, str]) -> str:
    """The text with what stands in CAPITALS replaced."""
    for name, value in values.items():
        assert name in text
        text = text.replace(name, value)
    return text
