"""What every recipe that discovery finds must keep to."""

import pytest
import torch

from bat_core.data import to_unit
from bat_core.errors import InputError
from bat_core.fit import fit, initial_state
from bat_core.forward import evaluation_mode
from bat_core.recipes import get_recipe, recipe_names, recipe_params
from bat_core.rng import BatchRNG

every_recipe = pytest.mark.parametrize("name", recipe_names())


@pytest.fixture
def batch(make_trial, digits):
    model = initial_state(make_trial(), digits, torch.device("cpu")).model
    return model, to_unit(digits.train.images[:32]), digits.train.labels[:32]


def craft(name, model, x, y, **params):
    with evaluation_mode(model):
        return get_recipe(name, **params).craft(model, x, y, BatchRNG(torch.Generator().manual_seed(0)))


@every_recipe
def test_one_epoch_trains_with_a_finite_loss(name, make_trial, digits):
    config = make_trial(name, params={}, epochs=1)
    state = initial_state(config, digits, torch.device("cpu"))
    before = [parameter.clone() for parameter in state.model.parameters()]
    (report,) = fit(config, digits, state=state)
    assert 0 < report.train_loss < float("inf")
    assert 0 <= report.val_robust_acc <= report.val_clean_acc <= 1
    assert all(parameter.isfinite().all() for parameter in state.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, state.model.parameters(), strict=True))


@every_recipe
def test_crafted_images_stay_in_the_ball(name, batch):
    model, x, y = batch
    max_distance = get_recipe(name).max_distance
    x_adv, label = craft(name, model, x, y)
    assert x_adv.shape == x.shape
    assert not x_adv.requires_grad
    assert not label.requires_grad
    assert (x_adv.double() - x.double()).abs().max().item() <= max_distance * (1 + 1e-6 * (name == "N-FGSM"))
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1


@every_recipe
def test_crafted_images_stay_in_the_l2_ball(name, batch):
    params = {"eps": 0.3, "norm": "l2"} if "eps" in recipe_params(name) else {}
    model, x, y = batch
    x_adv, _ = craft(name, model, x, y, **params)
    far = (x_adv.double() - x.double()).flatten(1).square().sum(1).sqrt().max().item()
    assert (far > 0) is bool(params)
    assert far <= get_recipe(name, **params).max_distance * (1 + 1e-6 * (name == "N-FGSM"))
    assert 0 <= x_adv.min() <= x_adv.max() <= 1


@every_recipe
def test_its_label_is_a_class_or_a_distribution_led_by_the_true_class(name, batch):
    model, x, y = batch
    _, label = craft(name, model, x, y)
    if label.ndim == 1:
        assert torch.equal(label, y)
    else:
        assert label.shape == (len(y), 10)
        assert (label >= 0).all()
        torch.testing.assert_close(label.sum(1), torch.ones(len(y)), rtol=0, atol=1e-6)
        assert torch.equal(label.argmax(1), y)


@every_recipe
def test_crafting_leaves_no_gradient_and_no_statistics(name, batch):
    model, x, y = batch
    before = [buffer.clone() for buffer in model.buffers()]
    craft(name, model, x, y)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))


@every_recipe
def test_its_loss_is_one_number_an_example_and_reaches_each_weight(name, batch):
    model, x, y = batch
    x_adv, label = craft(name, model, x, y)
    losses, logits = get_recipe(name).loss(model.train(), x, x_adv, label)
    assert losses.shape == y.shape
    assert logits.shape == (len(y), 10)
    losses.mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@every_recipe
def test_a_generator_decides_it(name, batch):
    for one, other in zip(craft(name, *batch), craft(name, *batch), strict=True):
        assert torch.equal(one, other)


@every_recipe
def test_an_unknown_parameter_is_named(name):
    with pytest.raises(InputError, match=rf"recipe '{name}' has no parameter 'epz': it takes "):
        get_recipe(name, epz=0.1)


@every_recipe
def test_every_parameter_has_a_default_and_eps_a_range(name):
    params = recipe_params(name)
    assert all(isinstance(value, float | int | str) for value in params.values())
    if "eps" in params:
        with pytest.raises(InputError, match="so write 8/255, not 8"):
            get_recipe(name, eps=8)
        assert params["norm"] == "linf"
        with pytest.raises(InputError, match="with norm=l2 needs eps"):
            get_recipe(name, norm="l2")


@pytest.mark.parametrize("wrong", [{"eps": "8"}, {"beta": True}, {"num_steps": 2.7}, {"num_steps": float("inf")}])
def test_a_value_of_the_wrong_kind_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"recipe\.{name}=.* must be a"):
        get_recipe("BAT", **wrong)


@pytest.mark.parametrize("wrong", [{"random_start": "no"}, {"random_start": 1.0}])
def test_yes_or_no_is_not_guessed(wrong):
    with pytest.raises(ValueError, match="must be true or false"):
        get_recipe("BAT", **wrong)
