"""Attacks in L2: against exact optima of linear networks, foolbox, and AutoAttack's authors' code."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from bat_core.attacks import APGD, FGSM, PGD, AutoAttack, Square, Transfer, pgd
from bat_core.attacks.square_l2 import bump_of, odd_side
from bat_core.errors import InputError
from bat_core.evaluate import evaluate
from bat_core.suites import Entry, Suite, get_suite
from bat_core.threat import lengths

from .toys import Linear, classes, normal, small_net, uniform

EPS = 0.3


def images(count=40):
    """Far enough from 0 and 1 that the box binds no attack."""
    return 0.35 + 0.3 * uniform(count, 1, 4, 4, dtype=torch.float64)


def linear(num_classes):
    """Its logits are 0 for plain grey, so that each of its classes is there."""
    weight = normal(num_classes, 16, seed=3, dtype=torch.float64)
    return Linear(weight - weight.mean(1, keepdim=True))


def boundary(model, x, y):
    """(M,): a linear network's distance to the nearest of its hyperplanes, by geometry."""
    weight, logits = model.weight.detach(), model(x).detach()
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = torch.linalg.vector_norm(weight[y][:, None] - weight[None], dim=2)
    return torch.where(slopes > 0, gaps / slopes, math.inf).amin(1)


@pytest.mark.parametrize(("num_classes", "suite"), [(2, "fast"), (3, "fast"), (6, "fast"), (6, "quick"), (2, "quick")])
def test_a_linear_network_is_broken_exactly_where_it_can_be(num_classes, suite):
    model, x = linear(num_classes), images()
    y = model(x).argmax(1)
    distances = boundary(model, x, y)
    nearer, farther = distances.sort().values[19:21].tolist()
    assert farther - nearer > 1e-5
    eps = (nearer + farther) / 2
    verdicts = evaluate(model, x, y, attack=get_suite(suite, eps=eps, norm="l2"), batch_size=16)
    np.testing.assert_array_equal(verdicts.robust_correct, (distances > eps).numpy())


def test_the_result_is_the_optimum_itself():
    model, x = linear(2), images()
    y = model(x).argmax(1)
    x_adv = pgd(model, x, y, eps=EPS, step_size=EPS, num_steps=3, loss="cw", norm="l2", random_start=False)
    slope = model.weight[1 - y] - model.weight[y]
    best = x + (EPS * slope / torch.linalg.vector_norm(slope, dim=1, keepdim=True)).detach().view_as(x)
    torch.testing.assert_close(x_adv, best, rtol=0, atol=1e-9)


def test_where_the_box_binds_the_optimum_is_nearly_reached_and_never_passed():
    """By bisection: with the box, the optimum moves along the clipped slope until the ball ends.

    A point is projected to the ball and then to the box, as AutoAttack does, which is not the nearest point in both.
    """
    model, x = linear(2), (uniform(20, 1, 4, 4, dtype=torch.float64) > 0.5).double()
    y = model(x).argmax(1)
    slope = (model.weight[1 - y] - model.weight[y]).detach().view_as(x)
    low, high = torch.zeros(20, dtype=torch.float64), torch.full((20,), 1e3, dtype=torch.float64)
    for _ in range(80):
        middle = (low + high) / 2
        short = lengths((x + middle.view(-1, 1, 1, 1) * slope).clamp(0, 1) - x) < EPS
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    gain = ((x + low.view(-1, 1, 1, 1) * slope).clamp(0, 1) - x) * slope
    x_adv = pgd(model, x, y, eps=EPS, step_size=EPS / 4, num_steps=50, loss="cw", norm="l2", random_start=False)
    found = ((x_adv - x) * slope).flatten(1).sum(1)
    best = gain.flatten(1).sum(1)
    assert (found <= best + 1e-9).all()
    assert (found >= 0.95 * best).all()


class Absolute(nn.Module):
    """The absolute value, which moves two inputs no further apart."""

    def forward(self, x):
        return x.abs()


def lipschitz_net():
    """No layer lengthens a difference, so the difference of two logits grows by at most sqrt(2) times its length."""
    rows = [torch.linalg.qr(normal(48, 48, seed=seed, dtype=torch.float64)).Q for seed in range(3)]
    layers = [nn.Linear(48, 48).double(), nn.Linear(48, 48).double(), nn.Linear(48, 5).double()]
    for layer, weight in zip(layers, rows, strict=True):
        layer.weight.data = weight[: layer.out_features].clone()
        layer.bias.data = torch.zeros(layer.out_features, dtype=torch.float64)
    first, second, last = layers
    return nn.Sequential(nn.Flatten(), first, Absolute(), second, Absolute(), last).eval()


@pytest.mark.parametrize("suite", ["fast", "quick", "paper"])
def test_no_attack_breaks_what_a_lipschitz_constant_proves(suite):
    model, x = lipschitz_net(), uniform(60, 3, 4, 4, dtype=torch.float64)
    best = model(x).detach().topk(2)
    y, radius = best.indices[:, 0], (best.values[:, 0] - best.values[:, 1]) / math.sqrt(2)
    eps = radius.median().item()
    robust = evaluate(model, x, y, attack=get_suite(suite, eps=eps, norm="l2")).robust_correct
    proved = (radius > eps).numpy()
    assert robust[proved].all()
    assert not robust.all()


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_each_iterate_is_foolboxs(steps):
    foolbox = pytest.importorskip("foolbox")
    model, x, y = small_net(), uniform(8, 3, 8, 8, dtype=torch.float64), classes(8, 5)
    ours = pgd(model, x, y, eps=EPS, step_size=0.1, num_steps=steps, norm="l2", random_start=False)
    peer = foolbox.attacks.L2PGD(abs_stepsize=0.1, steps=steps, random_start=False)
    theirs = peer.run(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilon=EPS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)
    assert lengths(ours - x).max() > 0.09


def test_fgsm_is_one_normalised_step():
    model, x, y = small_net(), 0.4 + 0.2 * uniform(8, 3, 8, 8, dtype=torch.float64), classes(8, 5)
    x_adv = FGSM(eps=EPS, norm="l2")(model, x, y)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(z := x.clone().requires_grad_()), y), z)
    step = (x_adv - x).flatten(1)
    torch.testing.assert_close(torch.cosine_similarity(step, gradient.flatten(1)), torch.ones(8, dtype=torch.float64))
    torch.testing.assert_close(lengths(step), torch.full((8,), EPS, dtype=torch.float64))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_autoattacks_authors_find_what_we_find(seed):
    library = pytest.importorskip("pyautoattack")
    model, x = small_net(seed=seed).float(), uniform(60, 3, 8, 8, seed=seed)
    y = model(x).argmax(1)
    eps = 0.02
    ours = evaluate(model, x, y, attack=get_suite("quick", eps=eps, norm="l2"))
    with torch.random.fork_rng(devices=[]):
        peer = library.AutoAttack(model, eps=eps, norm="L2", seed=0, version="standard", device="cpu")
        peer.attacks_to_run = ["apgd-ce", "apgd-t"]
        peer.apgd_targeted.n_target_classes = 4
        x_adv, _ = peer.run_standard_evaluation(x, y, batch_size=60)
    theirs = int((model(x_adv).argmax(1) == y).sum())
    assert 0 < theirs < 60
    assert int(ours.robust_correct.sum()) == theirs


def test_the_authors_parts_run_in_l2_and_stay_in_the_ball():
    pytest.importorskip("pyautoattack")
    model, x = small_net(), uniform(6, 3, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    for part in ("apgd-ce", "fab-t", "square"):
        x_adv = AutoAttack(eps=0.1, norm="l2", part=part)(model, x, y)
        assert 0 < lengths(x_adv - x).max() <= 0.1


def test_square_breaks_images_without_gradients():
    model, x = small_net(), 0.3 + 0.4 * uniform(24, 3, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    black = Entry(name="square", attack=Square(eps=0.25, norm="l2", num_steps=300), skip_broken=True)
    white = Entry(name="apgd", attack=APGD(eps=0.25, norm="l2", loss="cw"), skip_broken=True)
    found = {one.name: evaluate(model, x, y, attack=Suite(name="s", entries=(one,))) for one in (black, white)}
    first = found["square"].outcomes["square"].broken_at
    assert (first > 0).any(), "queries after the start break some"
    assert not (found["square"].robust_correct < found["apgd"].robust_correct).any()


@pytest.mark.parametrize("side", [1, 2, 3, 5, 8])
def test_a_bump_has_length_one_and_two_signs(side):
    bump = bump_of(side)
    assert bump.shape == (side, side)
    assert math.isclose(float(bump.square().sum()), 1)
    if side > 1:
        assert bump.min() < 0 < bump.max()


@pytest.mark.parametrize(
    ("side", "shape", "expected"), [(1, (8, 8), 3), (4, (8, 8), 5), (8, (8, 8), 7), (3, (2, 9), 1)]
)
def test_a_window_is_odd_and_fits(side, shape, expected):
    assert odd_side(side, *shape) == expected


def test_a_transfer_attack_is_crafted_in_its_own_norm():
    with pytest.raises(InputError, match=r"crafted_by\.norm=linf must equal attack\.norm=l2"):
        Transfer(eps=0.1, norm="l2", sources=(small_net(),), crafted_by=PGD(eps=0.1, step_size=0.1, num_steps=1))


def test_an_unknown_norm_is_refused():
    with pytest.raises(InputError, match=r"attack\.norm.*'l1'"):
        PGD(eps=0.1, norm="l1", step_size=0.1, num_steps=1)
