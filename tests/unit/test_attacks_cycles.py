"""Searches that repeat themselves end early, and no verdict differs from those of the plain loop."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from bat_core.attacks import PGD
from bat_core.attacks.cycles import CycleFinder, Passes, words
from bat_core.data import load_dataset, to_unit
from bat_core.evaluate import Evaluator, evaluate
from bat_core.fit import fit
from bat_core.models.base import build_model, model_names
from bat_core.recipes import RECIPES
from bat_core.recipes.base import recipe_params
from bat_core.suites import Entry, Suite

EPS = 40 / 255
STEPS = (1, 2, 3, 5, 8, 13, 21, 34, 40)


def entries(*, skip_broken=False, steps=STEPS, eps=EPS, norm="linf"):
    """Every loss, with targets and restarts."""
    settings = {"eps": eps, "norm": norm, "step_size": eps / 4, "num_steps": steps[-1]}
    attacks = {loss: PGD(**settings, loss=loss) for loss in ("ce", "cw", "dlr")}
    attacks |= {
        "random": PGD(**settings, target="random", restarts=2),
        "every": PGD(**(settings | {"num_steps": min(13, steps[-1])}), loss="dlr", target="every"),
        "clean": PGD(**settings, random_start=False),
    }

    def read(attack):
        return () if skip_broken else tuple(step for step in steps if step <= attack.num_steps)

    return tuple(Entry(name=name, attack=a, steps=read(a), skip_broken=skip_broken) for name, a in attacks.items())


def assert_same(model, images, labels, *, attacks=None, **settings):
    suite = Suite(name="all", entries=attacks or entries())
    plain, ended = (evaluate(model, images, labels, attack=suite, cycles=c, **settings) for c in (False, True))
    for name, outcome in plain.outcomes.items():
        np.testing.assert_array_equal(outcome.final, ended.outcomes[name].final, err_msg=name)
        np.testing.assert_array_equal(outcome.broken_at, ended.outcomes[name].broken_at, err_msg=name)
    return plain


class Counting(nn.Module):
    """Counts the images that go through a network."""

    def __init__(self, model):
        super().__init__()
        self.model, self.images, self.largest = model, 0, 0

    def forward(self, x):
        self.images += len(x)
        self.largest = max(self.largest, len(x))
        return self.model(x)


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", train_size=256, val_size=40, test_size=24).test


def network(name="small_cnn_4", seed=0):
    """With random weights, as large as a trained network's, so that images fall at different steps."""
    torch.manual_seed(seed)
    model = build_model(name, num_classes=10, image_shape=(1, 8, 8)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


def labelled(model, images):
    """Labels that the network gives most of the images: those that stand at first, and some that do not."""
    labels = model(to_unit(images)).argmax(1)
    labels[::7] = (labels[::7] + 1) % 10
    return labels


@pytest.mark.parametrize(("batch_size", "skip_broken"), [(7, False), (16, True), (64, False)])
def test_no_verdict_differs(digits, batch_size, skip_broken):
    model = network()
    labels = labelled(model, digits.images)
    plain = assert_same(model, digits.images, labels, attacks=entries(skip_broken=skip_broken), batch_size=batch_size)
    assert len({*plain.outcomes["ce"].broken_at.tolist()}) > 2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_verdict_of_either_precision_differs(digits, precision):
    model = network("small_cnn_gn_8", seed=1)
    assert_same(model, digits.images, labelled(model, digits.images), precision=precision)


@pytest.mark.parametrize("skip_broken", [False, True])
def test_no_verdict_in_l2_differs(digits, skip_broken):
    model = network()
    attacks = entries(skip_broken=skip_broken, eps=0.4, norm="l2")
    plain = assert_same(model, digits.images, labelled(model, digits.images), attacks=attacks, batch_size=7)
    assert len({*plain.outcomes["ce"].broken_at.tolist()}) > 2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.names())
def test_no_verdict_differs_for_any_recipe(recipe, make_trial, digits):
    params = {"eps": EPS} if "eps" in recipe_params(recipe) else {}
    config = make_trial(recipe, epochs=2, model="small_cnn_4", params=params)
    *_, last = fit(config, load_dataset("digits", train_size=128, val_size=32, test_size=64))
    assert_same(last.state.model, digits.images, digits.labels, attacks=entries(steps=(1, 10, 40, 100)))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in model_names() if name not in {"resnet50", "wrn_28_10"}])
def test_no_verdict_differs_for_any_model(name, real_data):
    images = real_data("cifar10").test.images[:4, :, 8:24, 8:24]  # a quarter of each: large networks are slow
    torch.manual_seed(0)
    model = build_model(name, num_classes=10, image_shape=(3, 16, 16)).eval()
    ce, cw, *_ = entries(steps=(1, 10, 40), eps=8 / 255)
    assert_same(model, images, labelled(model, images), attacks=(ce, cw))


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def test_a_linear_network_is_left_as_soon_as_its_corner_is_met_again():
    """Signed steps of a quarter of the budget reach the corner after at most 8, and stay."""
    counting = Counting(linear())
    x, y = torch.full((20, 1, 4, 4), 0.5), torch.zeros(20, dtype=torch.int64)
    attack = PGD(eps=0.1, step_size=0.025, num_steps=1000, loss="cw", target=torch.ones(20, dtype=torch.int64))
    entry = Entry(name="one", attack=attack, steps=(1, 1000))
    evaluator = Evaluator(counting)
    verdicts = evaluator.clean(x, y, torch.arange(20))
    evaluator.cycle_problem(x)
    counting.images = 0
    evaluator.attack(entry, x, verdicts)
    assert counting.images <= 20 * (8 + 1 + 1 + 1)  # the corner, the same point, its confirmation


def test_passes_are_filled_from_all_batches(digits):
    model = network()
    counting = Counting(model)
    images = digits.images.repeat(3, 1, 1, 1)
    evaluate(counting, images, labelled(model, images), attack=Suite(name="all", entries=entries()), batch_size=32)
    assert counting.largest == 32


class Noisy(nn.Module):
    """Returns a network's logits with something added that differs from pass to pass."""

    def __init__(self, added):
        super().__init__()
        self.model, self.added, self.calls = linear(), added, 0

    def forward(self, x):
        self.calls += 1
        return self.model(x) + self.added(self, x)


UNFIT = {
    "draws random numbers": lambda _, x: 1e-3 * torch.randn(len(x), 1),
    "two passes over the same images differ": lambda self, x: 1e-3 * self.calls * x.mean(),
    "depends on the other images of its batch": lambda _, x: x.mean(),
}


@pytest.mark.parametrize("reason", UNFIT)
def test_where_it_would_not_be_exact_every_step_runs(reason):
    model, x = Noisy(UNFIT[reason]), torch.rand(60, 1, 4, 4)
    evaluator = Evaluator(model)
    before = torch.get_rng_state()
    assert reason in evaluator.cycle_problem(x)
    assert torch.equal(before, torch.get_rng_state())
    y = torch.zeros(60, dtype=torch.int64)
    entry = Entry(name="one", attack=PGD(eps=0.1, step_size=0.025, num_steps=40), steps=(40,))
    verdicts = evaluator.clean(x, y, torch.arange(60))
    model.calls = 0
    evaluator.attack(entry, x, verdicts)
    assert model.calls == 41


def test_logits_that_are_not_finite_are_the_same_in_every_pass():
    model = nn.Sequential(linear(), nn.Threshold(0.1, torch.nan))
    x = torch.rand(60, 1, 4, 4)
    assert model(x).isnan().any()
    assert Evaluator(model).cycle_problem(x) is None


def test_gradients_averaged_over_passes_run_every_step(digits):
    model = network()
    attack = PGD(eps=EPS, step_size=EPS / 4, num_steps=30, eot=2)
    counting = Counting(model)
    verdicts = Evaluator(counting).clean(digits.images, labelled(model, digits.images), torch.arange(24))
    evaluator = Evaluator(counting)
    evaluator.cycle_problem(digits.images)
    counting.images = 0
    evaluator.attack(Entry(name="eot", attack=attack, steps=(30,)), digits.images, verdicts)
    assert counting.images == 24 * (30 * 3 + 1)  # two gradients and a verdict a step


def found(points, num_steps, *, weights=None):
    """(step, period) of the end of a search over scalar `points`; None if it does not end."""
    x = torch.tensor(points, dtype=torch.float32)[:, None, None, None, None]
    finder = CycleFinder(x[0], num_steps)
    if weights is not None:
        finder._weights = weights
    for step, point in enumerate(x):
        if period := finder.observe(step, point).period.item():
            return step, period
    return None


def cycle(prefix, around, length):
    return (prefix + around * length)[: length + 1]


@pytest.mark.parametrize(
    ("points", "num_steps", "expected"),
    [
        (cycle([5, 6], [1], 50), 50, (4, 1)),  # met at 3 again, confirmed at 4
        (cycle([5, 6], [1, 2], 50), 50, (6, 2)),  # at 4, at 6: in phase with 50
        (cycle([5, 6], [1, 2], 51), 51, (7, 2)),
        (cycle([], [1, 2, 3], 20), 20, (8, 3)),  # at 3, at 6, in phase with 20 at 8
        (list(range(30)), 29, None),
        ([1, 2, 1, 3, 1, 4, 1, 5], 7, None),  # a point that comes again without a cycle
    ],
)
def test_the_end_of_a_search_is_in_phase_with_its_last_step(points, num_steps, expected):
    assert found(points, num_steps) == expected


def test_equal_digests_alone_end_no_search():
    assert found(list(range(30)), 29, weights=torch.zeros(1, dtype=torch.int64)) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 5), (1, 8, 8)])
def test_words_are_equal_where_every_bit_is(dtype, shape):
    storage = torch.arange(1, 2 + 4 * math.prod(shape)).to(dtype)
    x = storage[1:].view(4, *shape)  # its first word would begin within one
    last = [0] * len(shape)
    x[(1, *last)], x[(2, *last)], x[(3, *last)] = 0.0, -0.0, torch.nan
    seen = words(x).clone()
    assert torch.equal(seen, words(x.clone()))
    assert len(seen) == len(seen.unique(dim=0)) == 4
    x[(0, *(side - 1 for side in shape))] += 1
    assert (words(x) == seen).all(1).tolist() == [False, True, True, True]


def test_a_pass_of_few_images_is_filled_up():
    parts = list(Passes(batch=20).split(45, 45, torch.device("cpu")))
    assert parts[:2] == [(slice(0, 20), 20), (slice(20, 40), 20)]
    positions, number = parts[2]
    assert number == 5
    assert positions.tolist() == [40 + i % 5 for i in range(16)]
    ((whole, number),) = Passes().split(3, 3, torch.device("cpu"))
    assert (whole, number) == (slice(0, 3), 3)


def test_saved_images_are_those_of_the_plain_loop(digits):
    model = network()
    saved = {}
    for cycles in (True, False):
        evaluator = Evaluator(model, cycles=cycles)
        verdicts = evaluator.clean(digits.images, labelled(model, digits.images), torch.arange(24))
        for entry in entries():
            evaluator.attack(
                dataclasses.replace(entry),
                digits.images,
                verdicts,
                save=lambda name, _, x, cycles=cycles: saved.update({(name, cycles): x}),
            )
    for entry in entries():
        assert torch.equal(saved[entry.name, True], saved[entry.name, False]), entry.name
