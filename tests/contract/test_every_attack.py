"""What every attack that discovery finds must keep to."""

import dataclasses
import inspect

import pytest
import torch
from torch import nn

from bat_core.attacks import ATTACKS

EPS = 8 / 255
USUAL = {"eps": EPS, "step_size": EPS / 4, "num_steps": 3}


def make(name, **settings):
    kind, captured = ATTACKS.find(name)
    fields = {field.name for field in dataclasses.fields(kind)}
    required = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    assert required <= USUAL.keys(), "add the new required setting to USUAL"
    return kind(**{key: value for key, value in USUAL.items() if key in fields}, **captured, **settings)


@pytest.fixture
def problem():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
        x = torch.cat([torch.rand(4, 3, 6, 6), torch.zeros(1, 3, 6, 6), torch.ones(1, 3, 6, 6)])
    return model, x, torch.arange(6) % 5


every_attack = pytest.mark.parametrize("name", ATTACKS.names())
every_target = pytest.mark.parametrize("target", [None, "mc", "ll", "random"])


@every_attack
@every_target
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_stays_in_the_ball(name, target, dtype, problem, generator):
    model, x, y = problem
    x = x.to(dtype)
    x_adv = make(name, target=target)(model.to(dtype), x, y, generator=generator)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == dtype
    assert (x_adv - x).abs().max().item() <= EPS
    assert (x_adv.double() - x.double()).abs().max().item() <= EPS
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert not torch.equal(x_adv, x)


@every_attack
@every_target
def test_a_generator_decides_it(name, target, problem):
    model, x, y = problem
    runs = [make(name, target=target)(model, x, y, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*runs)


@every_attack
def test_it_leaves_model_and_images_as_they_were(name, problem, generator):
    model, x, y = problem
    state, before = {key: value.clone() for key, value in model.state_dict().items()}, x.clone()
    x_adv = make(name)(model, x, y, generator=generator)
    assert not x_adv.requires_grad
    assert torch.equal(x, before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@every_attack
def test_it_raises_the_loss(name, problem, generator):
    model, x, y = problem
    x_adv = make(name)(model, x, y, generator=generator)
    before, after = (nn.functional.cross_entropy(model(z), y) for z in (x, x_adv))
    assert after > before


@every_attack
@pytest.mark.parametrize("eps", [8, 0, -1, float("nan")])
def test_it_refuses_a_budget_outside_its_range(name, eps):
    kind, _ = ATTACKS.find(name)
    settings = {key: value for key, value in USUAL.items() if key in inspect.signature(kind).parameters}
    with pytest.raises(ValueError, match=r"attack\.eps="):
        kind(**{**settings, "eps": eps})
