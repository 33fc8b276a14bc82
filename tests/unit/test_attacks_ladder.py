"""The ladder: who gets which searches, towards which classes, and that it breaks what can be broken."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from bat_core.attacks import APGD, Ladder
from bat_core.attacks.base import Problem
from bat_core.attacks.ladder import STAGES, Search, Stage, diverse_start, nearest_classes
from bat_core.evaluate import evaluate
from bat_core.losses import probability_margin, scaled_cross_entropy
from bat_core.rng import PerExampleRNG
from bat_core.suites import Entry, Suite, get_suite
from bat_core.threat import LinfBall
from bat_core.verdicts import UNBROKEN

EPS = 0.1


def linear(classes=6, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes)).double()


def images(count=40):
    """In the middle of [0, 1], so that no corner of a ball is cut off."""
    return 0.3 + 0.4 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def exact(model, x, y, eps=EPS):
    """(M,): whether a linear network holds within the ball, and (M, K): the distance to each class."""
    weight, logits = model[1].weight.detach(), model(x).detach()
    gaps = logits.gather(1, y[:, None]) - logits
    slopes = (weight[y][:, None] - weight[None]).abs().sum(2)
    distances = torch.where(slopes > 0, gaps / slopes, math.inf)
    return (distances > eps).all(1), distances


def problem(model, x):
    y = model(x).argmax(1)
    return Problem(LinfBall.around(x, EPS), y, None, torch.arange(len(x)))


@pytest.mark.parametrize(("classes", "eps"), [(2, 0.1), (3, 0.1), (4, 0.1), (6, 0.1), (12, 0.03)])
def test_a_linear_network_is_broken_exactly_where_it_can_be(classes, eps):
    model, x = linear(classes), images()
    y = model(x).argmax(1)
    y[::9] = (y[::9] + 1) % classes  # some are wrong before any attack
    holds, distances = exact(model, x, y, eps)
    assert (distances[distances.isfinite()] - eps).abs().min() > 1e-5
    verdicts = evaluate(model, x, y, attack=get_suite("fast", eps=eps), batch_size=16)
    np.testing.assert_array_equal(verdicts.robust_correct, holds.numpy())
    assert 0 < holds.sum() < len(x)


@pytest.mark.parametrize("classes", [3, 12])
def test_targets_come_in_the_order_of_their_boundaries(classes):
    model, x = linear(classes), images()
    asked = problem(model, x)
    found = nearest_classes(model, asked)
    _, distances = exact(model, x, asked.y)
    likeliest = model(x).scatter(1, asked.y[:, None], -math.inf).topk(min(9, classes - 1)).indices
    order = distances.gather(1, likeliest).argsort(1)
    assert torch.equal(found, likeliest.gather(1, order))


class Recording(nn.Module):
    """Notes how many images each pass has."""

    def __init__(self, model):
        super().__init__()
        self.model, self.sizes = model, []

    def forward(self, x):
        self.sizes.append(len(x))
        return self.model(x)


def test_only_images_near_the_boundary_climb():
    model, x = linear(), images()
    asked = problem(model, x)
    holds, _ = exact(model, x, asked.y)
    attack = Ladder(eps=EPS, stages=(STAGES[0], Stage(within=0.2, searches=(Search(loss="ce", steps=5),))))
    standing = torch.ones(len(x), dtype=torch.bool)
    first, later = set(), set()
    best = torch.full((len(x),), -math.inf, dtype=torch.float64)
    steps = sum(search.steps + 1 for search in STAGES[0].searches)
    for point in attack.trajectory(model, x, asked.y, generator=rng(len(x)), active=standing):
        logits = model(point.x)
        standing[point.rows] &= logits.argmax(1) == asked.y[point.rows]
        (first if point.step < steps else later).update(point.rows.tolist())
        if point.step < steps and point.logits is not None:
            own = logits.gather(1, asked.y[point.rows, None])
            other = logits.scatter(1, asked.y[point.rows, None], -math.inf).amax(1, keepdim=True)
            near = ((other - own).squeeze(1) / (logits.amax(1) - logits.amin(1))).detach()
            best[point.rows] = torch.maximum(best[point.rows], near)
    assert first == set(range(len(x)))
    assert later == set(torch.nonzero(holds & (best >= -0.2)).squeeze(1).tolist())
    assert 0 < len(later) < int(holds.sum())


def rng(count):
    return PerExampleRNG(seed=0, names=("test",), indices=range(count))


def test_an_image_that_is_broken_towards_one_class_is_left_alone_towards_the_others():
    model, x = linear(), images()
    asked = problem(model, x)
    holds, _ = exact(model, x, asked.y)
    towards_all = Ladder(
        eps=EPS, stages=(Stage(within=math.inf, searches=(Search(loss="dlr", steps=40, nearest=(0, 1, 2)),)),)
    )
    standing, after = torch.ones(len(x), dtype=torch.bool), 0
    for point in towards_all.trajectory(model, x, asked.y, generator=rng(len(x)), active=standing):
        assert len(set(point.rows.tolist())) == len(point.rows)
        if point.step > 0:
            after += int((~standing[point.rows]).sum())
        standing[point.rows] &= model(point.x).argmax(1) == asked.y[point.rows]
    assert torch.equal(standing, holds)
    assert after <= 2 * int((~holds).sum())  # in the step at which it fell, towards the other two classes


def test_batch_size_changes_no_verdict():
    model, x = linear(), images()
    y = model(x).argmax(1)
    suite = get_suite("fast", eps=EPS)
    one, other = (evaluate(model, x, y, attack=suite, batch_size=size).outcomes["ladder"] for size in (16, 40))
    np.testing.assert_array_equal(one.broken_at, other.broken_at)
    recording = Recording(model)
    evaluate(recording, x, y, attack=suite, batch_size=16)
    assert max(recording.sizes) == 16


def test_called_alone_it_returns_what_broke_each_image():
    model, x = linear(), images()
    asked = problem(model, x)
    holds, _ = exact(model, x, asked.y)
    found = Ladder(eps=EPS)(model, x, asked.y, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(found).argmax(1) == asked.y, holds)
    assert (found - x).abs().max() <= EPS


def test_it_is_as_strong_as_apgd_on_a_network_that_is_not_linear():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 6)).double()
    x = images(60)
    y = model(x).argmax(1)
    quick = evaluate(model, x, y, attack=get_suite("quick", eps=0.1))
    fast = evaluate(model, x, y, attack=get_suite("fast", eps=0.1))
    assert 0.1 < quick.robust_acc < 0.9
    assert fast.robust_acc <= quick.robust_acc


def test_a_diverse_start_moves_the_logits_and_stays_in_the_ball():
    model, x = linear(), images()
    asked = problem(model, x)
    start = diverse_start(model, asked, rng(len(x)))
    asked.ball.check(start)
    plain = asked.ball.random_start(rng(len(x)))
    assert (model(start) - model(x)).abs().mean() > 1.5 * (model(plain) - model(x)).abs().mean()
    alone = diverse_start(model, asked.keep(torch.arange(3)), rng(3))
    assert torch.equal(alone, start[:3])


def test_losses_against_their_definitions():
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, 1.0]], dtype=torch.float64)
    label = torch.tensor([0, 2])
    p = logits.softmax(1)
    expected = torch.stack([p[0, 1] - p[0, 0], p[1, 1] - p[1, 2]])
    assert torch.allclose(probability_margin(logits, label), expected)
    scaled = torch.stack([logits[0] / 1.0, logits[1] / 2.0])
    assert torch.allclose(
        scaled_cross_entropy(logits, label), nn.functional.cross_entropy(scaled, label, reduction="none")
    )
    assert torch.allclose(scaled_cross_entropy(100 * logits, label), scaled_cross_entropy(logits, label))


def test_a_probability_margin_that_rounds_to_minus_1_still_has_a_gradient():
    logits = torch.tensor([[2.0, 1.0, -1.0], [3.0, 0.0, 1.0]]).mul(1e4).requires_grad_()
    label = torch.tensor([0, 0])
    margin = probability_margin(logits, label)
    (gradient,) = torch.autograd.grad(margin.sum(), logits)
    assert margin[1] < margin[0] < -1, "the nearer to the boundary, the larger"
    assert (gradient[:, 0] < 0).all()
    assert min(gradient[0, 1], gradient[1, 2]) > 0
    soft = logits.detach() / 1e4
    assert (probability_margin(soft, label) > -1).all(), "below every image whose probabilities do not round"


def test_a_suite_of_it_drops_what_an_earlier_attack_broke():
    model, x = linear(), images()
    y = model(x).argmax(1)
    apgd = Entry(name="apgd", attack=APGD(eps=EPS), skip_broken=True)
    (ladder,) = get_suite("fast", eps=EPS).entries
    verdicts = evaluate(model, x, y, attack=Suite(name="both", entries=(apgd, ladder)))
    broken = verdicts.outcomes["apgd"].broken_at != UNBROKEN
    assert broken.any()
    assert (verdicts.outcomes["ladder"].broken_at[broken] < UNBROKEN).all()  # not attacked again
