"""Runs a check on every node of the cluster."""

from collections.abc import Callable

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bat_core.errors import InputError

PATIENCE = 600  # seconds for all nodes: each starts a process and imports torch


def check_nodes(check: Callable[[], None]) -> None:
    """Run `check` once on each node that is alive, at the same time on all of them.

    Raises:
        InputError: the check raised one on a node, named by its address, or a node could not run it.
    """

    def run() -> None:  # Ray takes functions only, and `check` may be a partial
        check()

    task = ray.remote(num_cpus=0, max_retries=0)(run)
    waiting = {}
    for node in ray.nodes():
        if node["Alive"]:
            where = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            waiting[task.options(scheduling_strategy=where).remote()] = node["NodeManagerAddress"]
    for answer, address in waiting.items():
        try:
            ray.get(answer, timeout=PATIENCE)
        except RayTaskError as error:
            raise InputError(f"on node {address}: {error.cause}") from error
        except GetTimeoutError as error:
            raise InputError(
                f"node {address} did not answer within {PATIENCE} seconds: remove or restart it"
            ) from error
        except RayError as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(f"node {address} cannot run the user's code: {reason}") from error
