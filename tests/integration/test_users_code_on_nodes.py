"""A cluster's nodes get the modules of users from the driver, and are asked beforehand whether they can use them."""

import json

import pytest

from tests.integration.conftest import TINY
from tests.integration.running import Place, nodes

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skip(reason="nodes on one machine import a module from the driver's folder: needs two machines"),
]
NETS = """
import sys

from torch import nn

import widths

if "default_worker" in sys.argv[0]:  # of Ray: its nodes must not need the driver's folder
    assert "py_modules" in __file__ and "py_modules" in widths.__file__, __file__


def net(num_classes, image_shape):
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, widths.FIRST, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(widths.FIRST * height * width, num_classes),
    )


def only_here(num_classes):
    if "default_worker" in sys.argv[0]:
        raise RuntimeError("no licence on this node")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""
ONE = ("--eps-x", "40/255", "--seeds", "0", "--reference", "none")


@pytest.fixture(scope="module")
def two_nodes():
    with nodes(2) as cluster:
        yield cluster


@pytest.fixture
def place(tmp_path):
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "widths.py").write_text("FIRST = 4\n")
    return Place(tmp_path)


def test_two_nodes_train_one_network_of_a_users_module(place, two_nodes):
    options = ("--num-workers", "2", "--address", two_nodes.address, "--output", "out")
    code, printed = place.run("eps_budget.py", "--model", "nets:net", *TINY, *ONE, *options)
    assert code == 0, printed
    output = place.sweep("out")
    assert [status.phase for status in output.statuses().values()] == ["finished"]
    assert set(json.loads(output.file("user_code.json"))["sha256"]) == {"nets", "widths"}


def test_a_node_that_cannot_build_the_network_is_named_before_anything_is_written(place, two_nodes):
    options = ("--address", two_nodes.address, "--output", "out")
    code, printed = place.run("eps_budget.py", "--model", "nets:only_here", *TINY, *ONE, *options)
    assert code == 2, printed
    assert "error: on node " in printed
    assert "RuntimeError: no licence on this node" in printed
    assert not (place.path / "out").exists()
