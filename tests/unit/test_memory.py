"""How many images fit: what a forward pass keeps, what the machine has, and the batch that follows."""

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from bat_core import memory
from bat_core.attacks import PGD
from bat_core.forward import eval_without_tf32
from bat_core.memory import OVERHEAD, SHARE, activation_bytes, free_memory, max_batch_size
from bat_core.models import build_model

IMAGES = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
CPU = torch.device("cpu")


def network(name="small_cnn_8"):
    return build_model(name, num_classes=10, image_shape=(3, 16, 16)).eval()


@pytest.mark.parametrize("name", ["small_cnn_16", pytest.param("preact_resnet18", marks=pytest.mark.slow)])
def test_what_is_kept_and_its_overhead_cover_what_an_attack_takes(name):
    model, x = network(name), torch.rand(16, 3, 16, 16)
    kept = activation_bytes(model, x)
    attack = PGD(eps=8 / 255, step_size=2 / 255, num_steps=2)
    with eval_without_tf32(model), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        attack(model, x, torch.zeros(16, dtype=torch.int64))
    held = most = 0
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    assert kept < most < OVERHEAD * kept


def test_what_is_kept_grows_with_the_images_and_leaves_the_model_as_it_was():
    model = network().train()
    one, four = (activation_bytes(model, torch.rand(count, 3, 16, 16)) for count in (1, 4))
    assert four == 4 * one
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_model_without_weights_or_gradient_keeps_its_images_alone():
    class Still(nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 10)

    assert activation_bytes(Still(), torch.rand(2, 3, 4, 4)) == 2 * 3 * 4 * 4 * 4
    assert max_batch_size(Still(), IMAGES, most=50) == 50


@pytest.mark.parametrize(
    ("images", "processes", "fits"),
    [(1000, 1, 250), (200, 1, 128), (128, 1, 128), (127, 1, 64), (600, 4, 128), (0, 1, 1), (-100, 1, 1)],
)
def test_the_batch_follows_from_the_free_memory(images, processes, fits, monkeypatch):
    model = network()
    each = OVERHEAD * activation_bytes(model, torch.rand(1, 3, 16, 16))
    monkeypatch.setattr(memory, "free_memory", lambda device: (images + 0.5) * each / SHARE)
    assert max_batch_size(model, IMAGES, most=250, processes=processes) == fits


def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    free = free_memory(CPU)
    assert free > 2**20
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) > 2**20
    (tmp_path / "memory.max").write_text("5000\n")
    assert free_memory(CPU) == 2000


def test_where_the_system_does_not_say_what_is_free_a_part_of_all_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_memory(CPU) > 2**20
