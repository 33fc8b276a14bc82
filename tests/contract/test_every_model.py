"""What every model that discovery finds must keep to."""

import pytest
import torch

from bat_core.models import build_model, model_names

SMALL = {"wrn_28_10": "wrn_10_1", "resnet50": "resnet18"}  # a member of the family that is built in no time
SHAPE = (3, 32, 32)

every_model = pytest.mark.parametrize("name", [SMALL.get(name, name) for name in model_names()])


def build(name, seed=0, num_classes=10):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(name, num_classes=num_classes, image_shape=SHAPE)


def images(count=3):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))


@every_model
@pytest.mark.parametrize("num_classes", [2, 10])
def test_it_gives_logits_and_lets_gradients_through(name, num_classes):
    model = build(name, num_classes=num_classes)
    assert model.training
    x = images().requires_grad_()
    logits = model.eval()(x)
    assert logits.shape == (3, num_classes)
    assert logits.isfinite().all()
    (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    assert gradient.isfinite().all()
    assert all(row.any() for row in gradient)


@every_model
def test_a_seed_decides_it(name):
    one, same, other = (build(name, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@every_model
def test_in_evaluation_an_image_knows_nothing_of_its_batch(name):
    model = build(name).eval().double()
    x = images(4).double()
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=0, atol=1e-10)


@every_model
def test_evaluating_changes_nothing_and_training_reaches_each_weight(name):
    model = build(name).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model(images())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.train()(images()).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@every_model
def test_it_takes_images_as_they_are_and_in_channels_last(name):
    model, x = build(name).eval().double(), images().double()
    before = x.clone()
    expected = model(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected, rtol=0, atol=1e-10)
