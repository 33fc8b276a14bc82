"""The cluster that a sweep starts and leaves."""

import os
import subprocess
import sys

import pytest

from tests.integration.running import RAY_FOLDER

pytestmark = pytest.mark.ray

LEAVE = """
import gc, weakref
from sweeps.engine import ray_runner

class Holder:
    def __init__(self, reference):
        self.reference, self.itself = reference, self

def shutdown(real=ray_runner.ray.shutdown):
    print("held:", held() is not None, "collecting:", gc.isenabled())
    real()

ray_runner.ray.shutdown = shutdown
gc.disable()  # what the body leaves behind is still there when it ends
with ray_runner.cluster(address=None):
    held = weakref.ref(Holder(ray_runner.ray.put(0)))
    print("held:", held() is not None)
    gc.set_threshold(10**9)
    gc.enable()
print("collecting:", gc.isenabled(), "ray:", ray_runner.ray.is_initialized())
"""


def test_no_reference_is_left_to_other_threads_while_ray_shuts_down() -> None:
    """One let go of in that moment ends the process, with exit code 1: a search lost after hours."""
    environment = os.environ | {"RAY_TMPDIR": RAY_FOLDER}
    environment.pop("RAY_ADDRESS", None)
    ran = subprocess.run(
        [sys.executable, "-c", LEAVE], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    assert ran.stdout.splitlines() == ["held: True", "held: False collecting: False", "collecting: True ray: False"]
