"""What Ray's autoscaler makes of ray_cluster.yaml's node types: docs/cluster.md promises no more than is seen here."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import CloudResourceMonitor
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

CLUSTER = yaml.safe_load((Path(__file__).parents[2] / "ray_cluster.yaml").read_text())
G6_2XLARGE = {"CPU": 8, "GPU": 1}  # what Ray finds out from AWS
A_TRIAL = {"CPU": 1, "GPU": 1}


@pytest.fixture
def monitor() -> CloudResourceMonitor:
    return CloudResourceMonitor()


def launched(monitor: CloudResourceMonitor, *, trials: int, spot: int | None = None) -> dict[str, int]:
    """The nodes that are asked for when so many trials wait; `spot` in place of gpu_spot's max_workers."""
    types = {
        name: NodeTypeConfig(
            name=name,
            min_worker_nodes=given.get("min_workers", 0),
            max_worker_nodes=spot if spot and name == "gpu_spot" else given["max_workers"],
            resources=given["resources"] or G6_2XLARGE,
            priority=given.get("priority", 0),
        )
        for name, given in CLUSTER["available_node_types"].items()
    }
    request = SchedulingRequest(
        node_type_configs=types,
        resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(A_TRIAL)] * trials),
        disable_launch_config_check=True,
        max_num_nodes=CLUSTER["max_workers"] + 1,
        cloud_resource_availabilities=monitor.get_resource_availabilities(),
        recoverable_resource_availabilities=monitor.get_recoverable_resource_availabilities(),
    )
    nobody = SimpleNamespace(log_cluster_scheduling_update=lambda **_: None)
    return {one.instance_type: one.count for one in ResourceDemandScheduler(nobody).schedule(request).to_launch}


def happened(monitor: CloudResourceMonitor, status: int) -> None:
    monitor.notify([InstanceUpdateEvent(instance_type="gpu_spot", new_instance_status=status)])


def test_spot_comes_first_and_on_demand_beyond_its_number(monitor: CloudResourceMonitor) -> None:
    assert launched(monitor, trials=3) == {"gpu_spot": 3}
    assert launched(monitor, trials=3, spot=2) == {"gpu_spot": 2, "gpu_on_demand": 1}


def test_spot_nodes_that_never_came_up_put_spot_behind(monitor: CloudResourceMonitor) -> None:
    happened(monitor, Instance.ALLOCATION_TIMEOUT)
    assert launched(monitor, trials=3) == {"gpu_on_demand": 3}


def test_a_refused_launch_does_not_yet(monitor: CloudResourceMonitor) -> None:
    """Red with a newer Ray? Then spot falls back by itself, and docs/cluster.md can say so."""
    happened(monitor, Instance.ALLOCATION_FAILED)
    assert launched(monitor, trials=3) == {"gpu_spot": 3}
