import pytest
import torch
from torch import nn

from bat_core.attacks import FGSM, PGD
from bat_core.labels import adversarial_label, smooth_label
from bat_core.losses import cross_entropy
from bat_core.recipes import Recipe, get_recipe, recipe_names, recipe_params
from bat_core.rng import BatchRNG

from .toys import Linear, classes, normal, uniform

EPS = 0.05


class Counted(nn.Module):
    """A model that remembers what passed through it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        self.seen.append((x.detach().clone(), torch.is_grad_enabled()))
        return self.model(x)


@pytest.fixture
def batch():
    return Counted(Linear(normal(5, 16))), uniform(8, 1, 4, 4), classes(8, 5)


def rng():
    return BatchRNG(torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "passes"), [("Undefended", 0), ("R-MC", 2), ("R-MC-LS", 2), ("R-MC-LA", 2), ("Madry", 7)]
)
def test_crafting_costs_no_forward_pass_too_many(name, passes, batch):
    model, x, y = batch
    get_recipe(name).craft(model, x, y, rng())
    assert len(model.seen) == passes


@pytest.mark.parametrize("name", ["R-MC", "R-MC-LS", "R-MC-LA"])
def test_clean_logits_are_taken_without_gradient_and_first(name, batch):
    model, x, y = batch
    get_recipe(name).craft(model, x, y, rng())
    (clean, with_gradient), (start, _) = model.seen
    assert torch.equal(clean, x)
    assert not with_gradient
    assert not torch.equal(start, x)


@pytest.mark.parametrize("name", ["R-MC", "R-MC-LS", "R-MC-LA"])
def test_the_image_takes_one_targeted_step_from_a_random_start(name, batch):
    model, x, y = batch
    x_adv, _ = get_recipe(name, eps=EPS).craft(model, x, y, rng())
    expected = FGSM(eps=EPS, target="mc", random_start=True)(model, x, y, generator=rng())
    assert torch.equal(x_adv, expected)


def test_madry_takes_seven_steps_of_a_quarter(batch):
    model, x, y = batch
    x_adv, label = get_recipe("Madry", eps=EPS).craft(model, x, y, rng())
    expected = PGD(eps=EPS, step_size=EPS / 4, num_steps=7)(model, x, y, generator=rng())
    assert torch.equal(x_adv, expected)
    assert torch.equal(label, y)


def test_undefended_trains_on_clean_images(batch):
    model, x, y = batch
    x_adv, label = get_recipe("Undefended").craft(model, x, y, rng())
    assert torch.equal(x_adv, x)
    assert torch.equal(label, y)


def test_the_label_comes_from_the_clean_logits(batch):
    model, x, y = batch
    logits = model(x).detach()
    crafted = {name: get_recipe(name).craft(model, x, y, rng())[1] for name in ("R-MC", "R-MC-LS", "R-MC-LA")}
    assert torch.equal(crafted["R-MC"], y)
    assert torch.equal(crafted["R-MC-LS"], smooth_label(y, num_classes=5, eps_y=0.5))
    assert torch.equal(crafted["R-MC-LA"], adversarial_label(logits, y, beta=9, gamma=0.01))
    stronger = get_recipe("R-MC-LA", beta=2, gamma=0.1).craft(model, x, y, rng())[1]
    assert torch.equal(stronger, adversarial_label(logits, y, beta=2, gamma=0.1))


def test_the_loss_is_cross_entropy_on_the_attacked_images_alone(batch):
    model, x, y = batch
    recipe = get_recipe("R-MC-LA")
    x_adv, label = recipe.craft(model, x, y, rng())
    model.seen.clear()
    losses, logits = recipe.loss(model, x, x_adv, label)
    assert [torch.equal(seen, x_adv) for seen, _ in model.seen] == [True]
    assert torch.equal(losses, cross_entropy(logits, label))
    assert losses.shape == y.shape


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_found_and_tells_its_parameters(name):
    assert isinstance(get_recipe(name, **recipe_params(name)), Recipe)


@pytest.mark.parametrize("name", ["R-MC", "R-MC-LS", "R-MC-LA", "Madry"])
def test_the_papers_budget_is_the_default(name):
    assert get_recipe(name).attack.eps == 8 / 255


def test_an_unknown_recipe_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown recipe 'R-MC-LA\+'; did you mean 'R-MC-LA'\? Known: .*Undefended"):
        get_recipe("R-MC-LA+")


def test_an_unknown_parameter_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"recipe 'R-MC' has no parameter 'beta': it takes eps"):
        get_recipe("R-MC", beta=9)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("R-MC-LA", {"eps": 8}),
        ("R-MC-LA", {"beta": -1}),
        ("R-MC-LA", {"beta": 0}),
        ("R-MC-LA", {"gamma": 0}),
        ("R-MC-LS", {"eps_y": 1.5}),
        ("R-MC-LS", {"eps_y": -0.1}),
    ],
)
def test_a_value_outside_its_range_is_refused_before_any_work(name, params):
    with pytest.raises(ValueError, match=next(iter(params))):
        get_recipe(name, **params)
