"""The cluster that a sweep starts and leaves."""

import os
import subprocess
import sys
import tempfile

import pytest

from tests.integration.running import RAY_FOLDER

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LEAVE = """
import gc, weakref
from sweeps.engine.ray_backend import cluster

class Holder:
    def __init__(self, reference):
        self.reference, self.itself = reference, self

def shutdown(real=cluster.ray.shutdown):
    print("held:", held() is not None, "collecting:", gc.isenabled())
    real()

cluster.ray.shutdown = shutdown
gc.disable()  # what the body leaves behind is still there when it ends
with cluster.cluster(address=None):
    held = weakref.ref(Holder(cluster.ray.put(0)))
    print("held:", held() is not None)
    gc.set_threshold(10**9)
    gc.enable()
print("collecting:", gc.isenabled(), "ray:", cluster.ray.is_initialized())
"""


HOLD = """
from sweeps.engine.ray_backend import cluster
with cluster.cluster(address=None):
    print("there", flush=True)
    input()
"""
ASK = """
from sweeps.engine.ray_backend import cluster
ray = cluster.ray

@ray.remote(num_cpus=0)
def nodes():
    from ray.util.state import list_nodes
    return [node.node_id for node in list_nodes()]

with cluster.cluster(address=None):
    print(ray.get(nodes.remote()) == [ray.get_runtime_context().get_node_id()])
"""


def alone(folder: str) -> dict[str, str]:
    """The environment of a process that finds no other cluster than those whose files lie in the folder."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | {"RAY_TMPDIR": folder}


def run(script: str) -> list[str]:
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env=alone(RAY_FOLDER),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=300,
    )
    return ran.stdout.splitlines()


def test_a_process_asks_its_own_clusters_dashboard_where_there_are_two() -> None:
    """Ray Train ends the workers of a trial that another cluster, which it happened to ask, does not know."""
    with tempfile.TemporaryDirectory(prefix="ray-") as elsewhere:
        other = subprocess.Popen(
            [sys.executable, "-c", HOLD], env=alone(elsewhere),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert other.stdout.readline() == "there\n"
        printed = run(ASK)
        other.communicate("\n")
    assert printed == ["True"]


def test_no_reference_is_left_to_other_threads_while_ray_shuts_down() -> None:
    """One let go of in that moment ends the process, with exit code 1: a search lost after hours."""
    assert run(LEAVE) == ["held: True", "held: False collecting: False", "collecting: True ray: False"]
