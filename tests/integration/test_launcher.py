"""The cluster launcher on machines of namespaces: what docs/cluster.md tells a person to type."""

import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow.tracking import MlflowClient

from sweeps.engine.sweep.folder import SweepFolder
from tests.integration.hosts import ADDRESSES, ROOT, Hosts, fill_in, running_hosts
from tests.integration.running import Output

pytestmark = [pytest.mark.ray, pytest.mark.slow]
PUBLISHED = ROOT / "clusters" / "on_prem.yaml"
ONE_TRIAL = (
    *("--train-size", "128", "--val-size", "32", "--test-size", "32", "--epochs", "1", "--steps", "1", "--verify", "0"),
    *("--eps-x", "40/255", "--seeds", "0", "--reference", "none"),
)
DASHBOARD = "http://127.0.0.1:8265"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with running_hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def cluster(hosts: Hosts) -> Path:
    """The published file with addresses, user and key filled in, and the cluster that it describes, up."""
    values = {
        "HEAD_ADDRESS": ADDRESSES["head"],
        "WORKER_ADDRESSES": ADDRESSES["worker"],
        "YOU": "root",
        "~/.ssh/id_ed25519": str(hosts.folder / "key"),
    }
    file = hosts.folder / "on_prem.yaml"
    file.write_text(fill_in(PUBLISHED.read_text(), values))
    hosts.typed("ray", "get-auth-token", "--generate")
    hosts.typed("ray", "up", "--yes", file)
    return file


def sweep_of(hosts: Hosts, name: str) -> None:
    """Look at what a finished sweep of one trial left on the shared file system, and in MLflow."""
    output = Output(SweepFolder(hosts.shared / name))
    assert [status.phase for status in output.statuses().values()] == ["finished"]
    assert output.file("figure_1.png").startswith(b"\x89PNG")
    client = MlflowClient(f"sqlite:///{hosts.shared / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(f"eps_budget-{name}")
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.run_name for run in runs} >= {"eps8-seed0"}
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_ray_submit_trains_one_model_on_both_machines_with_the_drivers_code(hosts: Hosts, cluster: Path) -> None:
    hosts.wait_for("worker", "pgrep -x raylet")
    hosts.on("worker", "echo 'raise RuntimeError(\"old code\")' > ~/bat-sweeps/bat_core/__init__.py")
    whole_machines = ("--num-workers", "2", "--cpus-per-worker", str(os.cpu_count()))
    sweep = ("--output", "/mnt/shared/submitted", *whole_machines)
    hosts.typed("ray", "submit", cluster, "sweeps/eps_budget.py", "--", *ONE_TRIAL, *sweep)
    sweep_of(hosts, "submitted")


def test_ray_job_submit_goes_through_the_forwarded_dashboard(hosts: Hosts, cluster: Path) -> None:
    sweep = f"python ~/bat-sweeps/sweeps/eps_budget.py --output /mnt/shared/job {' '.join(ONE_TRIAL)}"
    submit = ("ray", "job", "submit", "--address", DASHBOARD, "--", "sh", "-c", sweep)
    with hosts.forwarding("ray", "dashboard", cluster, port=8265):
        code, said = hosts.run(*submit, RAY_AUTH_MODE="disabled")
        assert code
        assert "Missing authentication token" in said
        hosts.typed(*submit, RAY_AUTH_MODE="token")
    sweep_of(hosts, "job")


def test_a_sweep_joins_the_cluster_that_runs_where_it_is_started(hosts: Hosts, cluster: Path) -> None:
    sweep = f"python ~/bat-sweeps/sweeps/eps_budget.py {' '.join(ONE_TRIAL)}"
    printed = hosts.on("head", f"env -u RAY_AUTH_MODE {sweep} --output /mnt/shared/joined")
    assert f"existing Ray cluster at address: {ADDRESSES['head']}:6379" in printed
    sweep_of(hosts, "joined")


def test_a_sweep_without_the_token_is_told_what_it_lacks(hosts: Hosts, cluster: Path) -> None:
    sweep = "python ~/bat-sweeps/sweeps/eps_budget.py --output /mnt/shared/refused"
    printed = hosts.on("head", f"HOME=/mnt/shared {sweep} --address {ADDRESSES['head']}:6379; echo exit $?")
    *_, said, code = printed.splitlines()
    assert said.startswith("error: ")
    assert "it requires RAY_AUTH_MODE=token and its token in ~/.ray/auth_token" in said
    assert code == "exit 2"


def test_strangers_reach_neither_dashboard_nor_mlflow_nor_ray(hosts: Hosts, cluster: Path) -> None:
    for port, open_to_all in ((22, True), (6379, True), (8265, False), (5000, False)):
        assert (hosts.run("nc", "-z", ADDRESSES["head"], str(port))[0] == 0) is open_to_all
        if not open_to_all:
            hosts.on("head", f"nc -z 127.0.0.1 {port}")
    status = ("ray", "status", "--address", f"{ADDRESSES['head']}:6379")
    assert "2 local.cluster.node" in hosts.typed(*status, RAY_AUTH_MODE="token")
    code, said = hosts.run(*status, RAY_AUTH_MODE="disabled")
    assert code
    assert "InvalidAuthToken" in said


def test_packages_that_do_not_agree_are_named_where_the_project_is_installed(hosts: Hosts, cluster: Path) -> None:
    """As `ray up` runs it on a machine whose own configuration has pip keep to versions that the project cannot use."""
    (command,) = (line for line in yaml.safe_load(cluster.read_text())["setup_commands"] if "pip install" in line)
    constrained = f"echo 'numpy<2' > ~/constraints.txt; export PIP_CONSTRAINT=~/constraints.txt; {command}"
    code, said = hosts.run(*hosts.login("head"), f"bash --login -c {shlex.quote(constrained)}")
    assert code
    assert "bat-sweeps" in said
    assert "The user requested (constraint) numpy<2" in said


def test_mlflow_is_seen_through_a_forwarded_port(hosts: Hosts, cluster: Path) -> None:
    look = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:5000/health').read().decode())"
    with hosts.forwarding("ray", "attach", cluster, "--port-forward", "5000", port=5000):
        assert hosts.typed(sys.executable, "-c", look) == "OK\n"


def test_ray_down_ends_ray_and_leaves_mlflow(hosts: Hosts, cluster: Path) -> None:
    hosts.typed("ray", "down", "--yes", cluster)
    left = hosts.on("head", "pgrep -x raylet; pgrep -x gcs_server; nc -z 127.0.0.1 5000 && echo mlflow")
    assert left == "mlflow\n"
