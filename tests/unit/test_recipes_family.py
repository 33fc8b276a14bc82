"""Recipes against their definitions: what is attacked how, with which label, and what a method's own search does."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bat_core.attacks import FGSM, PGD
from bat_core.errors import InputError
from bat_core.recipes import get_recipe
from bat_core.recipes.base import Adversarial, OneHot, Smooth
from bat_core.recipes.bilateral import class_weights, nearest_boundary
from bat_core.recipes.peers import divergence
from bat_core.rng import BatchRNG

from .toys import Linear, classes, normal, uniform

EPS = 8 / 255
LA = Adversarial(9.0, 0.01)

DEFINITIONS = {
    "FGSM": (FGSM(eps=EPS), OneHot()),
    "R-FGSM": (FGSM(eps=EPS, random_start=True), OneHot()),
    "LL": (FGSM(eps=EPS, target="ll"), OneHot()),
    "R-LL": (FGSM(eps=EPS, target="ll", random_start=True), OneHot()),
    "MC": (FGSM(eps=EPS, target="mc"), OneHot()),
    "R-MC": (FGSM(eps=EPS, target="mc", random_start=True), OneHot()),
    "R-FGSM-LS": (FGSM(eps=EPS, random_start=True), Smooth(0.5)),
    "R-MC-LS": (FGSM(eps=EPS, target="mc", random_start=True), Smooth(0.5)),
    "R-MC-LA": (FGSM(eps=EPS, target="mc", random_start=True), LA),
    "R-RAND-LA": (FGSM(eps=EPS, target="random", random_start=True), LA),
    "Madry": (PGD(eps=EPS, step_size=2 / 255, num_steps=7), OneHot()),
    "Madry-LA": (PGD(eps=EPS, step_size=2 / 255, num_steps=7), LA),
    "PGD2-8": (PGD(eps=EPS, step_size=EPS, num_steps=2), OneHot()),
    "R-MC-LA-2step": (PGD(eps=16 / 255, step_size=EPS, num_steps=2, target="mc"), Adversarial(100.0, 0.01)),
    "Fast-AT": (PGD(eps=EPS, step_size=10 / 255, num_steps=1), OneHot()),
}


@pytest.mark.parametrize("name", DEFINITIONS)
def test_a_recipe_is_its_definition(name):
    recipe = get_recipe(name)
    assert (recipe.attack, recipe.label) == DEFINITIONS[name]


def rng():
    return BatchRNG(torch.Generator().manual_seed(0))


@pytest.fixture
def batch():
    return Linear(normal(5, 16)), uniform(8, 1, 4, 4), classes(8, 5)


class Counted(nn.Module):
    """Remembers what passed it."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.model(x)


def test_the_cheaper_variant_takes_one_forward_pass_and_all_from_it(batch):
    model, x, y = batch
    counted = Counted(model)
    x_adv, label = get_recipe("R-MC-LA-5F", eps=0.1).craft(counted, x, y, rng())
    (start,) = counted.seen
    faithful = Counted(model)
    get_recipe("R-MC-LA", eps=0.1).craft(faithful, x, y, rng())
    assert len(faithful.seen) == 2  # the clean images, and the start
    assert any(torch.equal(start, seen) for seen in faithful.seen)
    logits = model(start)
    target = logits.scatter(1, y[:, None], -math.inf).argmax(1)
    start = start.requires_grad_()
    F.cross_entropy(model(start), target, reduction="sum").backward()
    expected = (start - 0.1 * start.grad.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
    assert torch.allclose(x_adv, expected, atol=1e-6)
    assert torch.equal(label, LA(y, lambda: logits))


def test_the_nearest_boundary_is_found_by_trying_each_class():
    logits, y, weights = normal(6, 5), classes(6, 5), normal(5, 7)
    expected = []
    for z, true in zip(logits, y.tolist(), strict=True):
        distances = {k: float((z[true] - z[k]) / (weights[true] - weights[k]).norm()) for k in range(5) if k != true}
        expected.append(min(distances, key=distances.__getitem__))
    assert nearest_boundary(logits, y, weights).tolist() == expected
    assert not (nearest_boundary(logits, y, weights) == y).any()


def test_mosa_steps_towards_the_nearest_boundary():
    x, y = uniform(8, 1, 4, 4), classes(8, 5)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
    x_adv, _ = get_recipe("R-MOSA-LA", eps=0.05).craft(model, x, y, rng())
    target = nearest_boundary(model(x).detach(), y, model[1].weight.detach())
    expected = FGSM(eps=0.05, target=target, random_start=True)(model, x, y, generator=rng())
    assert torch.equal(x_adv, expected)


def test_mosa_needs_a_linear_layer(batch):
    with pytest.raises(InputError, match="ends in a linear layer"):
        class_weights(nn.Flatten())


def test_n_fgsm_steps_from_noise_and_is_not_cut_back(batch):
    model, x, y = batch
    eps = 0.05
    x_adv, label = get_recipe("N-FGSM", eps=eps).craft(model, x, y, rng())
    start = (x + 2 * eps * (2 * rng().uniform(x) - 1)).requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(start), y, reduction="sum"), start)
    torch.testing.assert_close(x_adv, (start + eps * gradient.sign()).clamp(0, 1).detach())
    assert torch.equal(label, y)
    assert eps < (x_adv - x).abs().max() <= 3 * eps + 1e-6


def test_trades_climbs_the_divergence_from_clean_predictions(batch):
    model, x, y = batch
    recipe = get_recipe("TRADES", eps=0.05)
    x_adv, _ = recipe.craft(model, x, y, rng())
    log_p = F.log_softmax(model(x), dim=1)
    noise = (x + 0.05 * (2 * uniform(*x.shape) - 1)).clamp(0, 1)
    assert (divergence(log_p, model(x_adv)) > divergence(log_p, model(noise))).all()
    assert (x_adv - x).abs().max() <= 0.05


def test_trades_loss_is_cross_entropy_on_clean_images_and_six_divergences(batch):
    model, x, y = batch
    x_adv = (x + 0.01).clamp(0, 1)
    losses, logits = get_recipe("TRADES").loss(model, x, x_adv, y)
    p, q = model(x).double().softmax(1), model(x_adv).double().softmax(1)
    expected = -p.gather(1, y[:, None])[:, 0].log() + 6 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits, model(x_adv))


def test_normal_draws_are_normal_and_shared_as_others():
    like = torch.empty(4000, 5)
    drawn = BatchRNG(torch.Generator().manual_seed(0)).normal(like)
    assert abs(drawn.mean()) < 4 / math.sqrt(drawn.numel())
    assert abs(drawn.std() - 1) < 4 / math.sqrt(2 * drawn.numel())
    assert drawn.isfinite().all()
    shares = [BatchRNG(torch.Generator().manual_seed(0), rank, 2).normal(like[::2]) for rank in range(2)]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), drawn)
