import copy

import pytest
import torch

from bat_core.attacks import FGSM, PGD
from bat_core.errors import InputError
from bat_core.labels import adversarial_label, smooth_label
from bat_core.recipes import get_recipe, recipe_params
from bat_core.rng import BatchRNG

from .toys import classes, small_net, uniform

EPS = 0.05


@pytest.fixture(scope="module")
def batch():
    return small_net(), uniform(8, 3, 8, 8, dtype=torch.float64), classes(8, 5)


def rng():
    return BatchRNG(torch.Generator().manual_seed(0))


def craft(name, batch, **params):
    return get_recipe(name, **params).craft(*batch, rng())


def same(crafted, expected):
    return all(
        torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(crafted, expected, strict=True)
    )


@pytest.mark.parametrize("shared", [{}, {"eps": EPS}, {"beta": 3.0, "gamma": 0.1}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_untold_it_is_the_papers_method_bit_for_bit(shared, dtype, batch):
    model, x, y = copy.deepcopy(batch[0]).to(dtype), batch[1].to(dtype), batch[2]
    assert same(craft("BAT", (model, x, y), **shared), craft("R-MC-LA", (model, x, y), **shared))


@pytest.mark.parametrize(
    ("params", "named", "named_params"),
    [
        ({"label": "one-hot"}, "R-MC", {}),
        ({"label": "smooth"}, "R-MC-LS", {}),
        ({"label": "smooth", "eps_y": 0.3}, "R-MC-LS", {"eps_y": 0.3}),
        ({"label": "one-hot", "target": "none"}, "R-FGSM", {}),
        ({"label": "one-hot", "target": "none", "random_start": False}, "FGSM", {}),
        ({"label": "one-hot", "target": "none", "num_steps": 7, "rel_step_size": 0.25}, "Madry", {}),
    ],
)
def test_the_named_recipes_are_points_of_it(params, named, named_params, batch):
    assert same(craft("BAT", batch, eps=EPS, **params), craft(named, batch, eps=EPS, **named_params))


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("num_steps", [1, 3])
@pytest.mark.parametrize("target", ["none", "mc", "ll", "random"])
def test_the_image_is_attacked_as_it_says(target, num_steps, random_start, batch):
    settings = {"eps": EPS, "num_steps": num_steps, "random_start": random_start}
    x_adv, _ = craft("BAT", batch, target=target, rel_step_size=0.6, **settings)
    attack = PGD(step_size=0.6 * EPS, target=None if target == "none" else target, **settings)
    assert torch.equal(x_adv, attack(*batch, generator=rng()))


def test_its_attacks_are_all_different(batch):
    told = [{"target": target} for target in ("none", "mc", "ll", "random")]
    told += [{"random_start": False}, {"num_steps": 2}, {"rel_step_size": 0.5}, {"eps": EPS / 2}]
    images = [craft("BAT", batch, **{"eps": EPS} | params)[0] for params in told]
    assert all(not torch.equal(one, other) for at, one in enumerate(images) for other in images[:at])


def test_the_label_is_what_it_says(batch):
    model, x, y = batch
    logits = model(x).detach()
    assert torch.equal(craft("BAT", batch, label="one-hot")[1], y)
    assert torch.equal(craft("BAT", batch, label="smooth", eps_y=0.2)[1], smooth_label(y, num_classes=5, eps_y=0.2))
    crafted = craft("BAT", batch, label="adversarial", beta=3.0, gamma=0.1)[1]
    assert torch.equal(crafted, adversarial_label(logits, y, beta=3.0, gamma=0.1))


def test_the_label_does_not_change_the_image(batch):
    images = [craft("BAT", batch, eps=EPS, label=label)[0] for label in ("one-hot", "smooth", "adversarial")]
    assert all(torch.equal(images[0], other) for other in images[1:])


def test_steps_that_json_made_a_float_are_steps(batch):
    assert same(craft("BAT", batch, num_steps=3.0), craft("BAT", batch, num_steps=3))


def test_its_defaults_are_the_papers():
    params = recipe_params("BAT")
    shared = recipe_params("R-MC-LA")
    assert {name: params[name] for name in shared} == shared
    assert params["eps_y"] == recipe_params("R-MC-LS")["eps_y"]
    assert get_recipe("BAT").attack.step_size == FGSM(eps=8 / 255).eps == 8 / 255


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"label": "hard"}, "unknown recipe.label 'hard'"),
        ({"label": "one-hott"}, "unknown recipe.label 'one-hott'; did you mean 'one-hot'? Known: adversarial, one-hot"),
        ({"target": "mcc"}, "unknown recipe.target 'mcc'; did you mean 'mc'? Known: ll, mc, none, random"),
        ({"target": "every"}, "unknown recipe.target 'every'"),
        ({"eps": 8}, "eps=8 is outside (0, 1]: images are in [0, 1], so write 8/255, not 8"),
        ({"eps": 0.0}, "eps=0 is outside (0, 1]"),
        ({"num_steps": 0}, "num_steps=0 must be at least 1"),
        ({"rel_step_size": 0.0}, "step_size=0 is outside (0, 1]"),
        ({"rel_step_size": 1.5, "eps": 0.9}, "step_size=1.35 is outside (0, 1]"),
        ({"beta": -1.0}, "label.beta=-1 must be above 0"),
        ({"gamma": 0.0}, "gamma=0"),
        ({"eps_y": 1.5}, "label.eps_y=1.5 must be below 1"),
        ({"steps": 3}, "recipe 'BAT' has no parameter 'steps': it takes eps, num_steps"),
    ],
)
def test_what_it_cannot_be_is_told_in_one_sentence(params, message):
    with pytest.raises(InputError) as caught:
        get_recipe("BAT", **params)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
