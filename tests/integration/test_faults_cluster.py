"""A cluster of three nodes loses workers and a node: see docs/reliability.md."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from ray._private.node import Node
from ray.cluster_utils import Cluster
from safetensors.torch import load_file, save_file
from torch import distributed as dist

from bat_core.config import TrialConfig
from bat_core.data import load_dataset
from bat_core.fit import fit
from bat_core.workers import Workers
from sweeps.engine.sweep.trial import MODEL
from tests.integration.running import Place, nodes, wait_until
from tests.integration.test_faults import IMAGES, LONG, events

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[Cluster]:
    with nodes(3) as cluster:
        yield cluster


def node_of(cluster: Cluster, pid: int) -> Node:
    """The node whose raylet started a process."""
    raylet = psutil.Process(pid).parent()
    assert raylet is not None
    (node,) = (node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid == raylet.pid)
    return node


def test_two_workers_go_on_without_a_worker_and_without_a_node(
    apart: Place, three_nodes: Cluster, tmp_path: Path
) -> None:
    output = apart.sweep("nodes")
    options = ("--seeds", "0", "--num-workers", "2", "--address", three_nodes.address, "--output", "nodes")
    process = apart.start("eps_budget.py", *LONG, *options)
    trial_id = "eps8-seed0"

    def attempt_has_trained(attempt: int) -> bool:
        status = output.statuses().get(trial_id)
        starts = events(output, trial_id, "start")
        return status is not None and status.attempts == attempt and len(status.epochs) >= starts[-1]["from_epoch"] + 2

    kept = []
    for attempt in (1, 2):
        wait_until(lambda attempt=attempt: attempt_has_trained(attempt), process)
        first_rank = events(output, trial_id, "start")[-1]["pid"]
        if attempt == 1:
            psutil.Process(first_rank).kill()
        else:
            three_nodes.remove_node(node_of(three_nodes, first_rank), allow_graceful=False)
        kept.append(len(output.statuses()[trial_id].epochs))
    printed, _ = process.communicate()
    assert process.returncode == 0, printed

    _, *again = events(output, trial_id, "start")
    assert [start["from_epoch"] >= epochs for start, epochs in zip(again, kept, strict=True)] == [True, True]
    assert [event["epoch"] for event in events(output, trial_id, "epoch")] == list(range(1, 17))
    (trial,) = output.spec.trials
    torch.multiprocessing.spawn(fit_undisturbed, (trial.config, tmp_path), nprocs=2)
    expected = load_file(tmp_path / "model.safetensors")
    found = load_file(output.folder.trial(trial) / MODEL / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_trial_saves_what_it_is_at_and_leaves_a_node_that_is_about_to_go(apart: Place, three_nodes: Cluster) -> None:
    output = apart.sweep("preempted")
    options = ("--seeds", "0", "--address", three_nodes.address, "--output", "preempted")
    process = apart.start("eps_budget.py", *LONG, *options)
    trial_id = "eps8-seed0"
    wait_until(lambda: len(output.statuses()) == 1 and len(output.statuses()[trial_id].epochs) >= 2, process)
    pid = events(output, trial_id, "start")[0]["pid"]
    node = node_of(three_nodes, pid)
    psutil.Process(pid).suspend()  # the notice takes seconds to give, and the trial is not to end before
    notice = (
        "--reason",
        "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message",
        "spot",
        "--deadline-remaining-seconds",
        "60",
    )
    drain = ("drain-node", "--address", three_nodes.address, "--node-id", node.node_id, *notice)
    subprocess.run([sys.executable, "-m", "ray.scripts.scripts", *drain], check=True, capture_output=True)
    psutil.Process(pid).resume()
    printed, _ = process.communicate()
    assert process.returncode == 0, printed

    (saved,) = events(output, trial_id, "paused")
    _, again = events(output, trial_id, "start")
    assert (again["from_epoch"], again["from_batch"]) == (saved["epoch"], saved["batch"])
    assert [event["epoch"] for event in events(output, trial_id, "epoch")] == list(range(1, 17))


def fit_undisturbed(rank: int, config: TrialConfig, folder: Path) -> None:
    """One of two workers that nothing happens to."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    *_, last = fit(config, load_dataset("digits", **IMAGES), workers=Workers.current())
    if rank == 0:
        save_file(
            {name: value.contiguous() for name, value in last.state.model.state_dict().items()},
            folder / "model.safetensors",
        )
    dist.destroy_process_group()
