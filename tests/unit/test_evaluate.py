import copy

import numpy as np
import pytest
import torch
from torch import nn

from bat_core.config import AttackConfig
from bat_core.evaluate import Evaluator, evaluate, evaluate_batches
from bat_core.models import build_model
from bat_core.rng import PerExampleRNG
from bat_core.verdicts import UNBROKEN, Verdicts

from .test_verdicts import assert_same
from .toys import Linear, classes, normal, small_net, uniform

CENTRE, RADIUS, SLOPE = 0.52, 0.012, 20.0
ATTACK = AttackConfig(eps=0.1, step_size=0.02, steps=(1, 2, 3, 5, 8, 13), batch_size=7)


class Pit(nn.Module):
    """One pixel; class 0 save within RADIUS of CENTRE, where class 1 wins: the attack steps in, and out again."""

    def forward(self, x):
        margin = SLOPE * ((x.flatten(1) - CENTRE) ** 2 - RADIUS**2)
        return torch.cat([margin, torch.zeros_like(margin)], dim=1)


def simulated(x, row, loss):
    """x^0 ... x^13 by hand: each a float step towards CENTRE, kept within eps and [0, 1]."""
    noise = PerExampleRNG(seed=0, names=("evaluate", loss), indices=[row])
    start = noise.uniform(torch.empty(1, 1, 1, 1, dtype=torch.float64)).item()
    low, high = max(x - ATTACK.eps, 0), min(x + ATTACK.eps, 1)
    points = [min(max(x + (2 * start - 1) * ATTACK.eps, low), high)]
    for _ in range(ATTACK.steps[-1]):
        step = ATTACK.step_size if points[-1] < CENTRE else -ATTACK.step_size
        points.append(min(max(points[-1] + step, low), high))
    return points


def correct(point):
    return (point - CENTRE) ** 2 - RADIUS**2 >= 0


@pytest.fixture(scope="module")
def pit():
    """40 one-pixel images of class 0, some within reach of the pit, one in it, and their verdicts."""
    levels = torch.linspace(0.35, 0.7, 40, dtype=torch.float64)
    verdicts = evaluate(Pit(), levels.view(-1, 1, 1, 1), torch.zeros(40, dtype=torch.int64), attack=ATTACK)
    return levels.tolist(), verdicts


@pytest.mark.parametrize("loss", ["ce", "cw"])
def test_each_example_breaks_at_the_step_computed_by_hand(pit, loss):
    levels, verdicts = pit
    expected_broken, expected_final = [], []
    for row, x in enumerate(levels):
        fate = [correct(point) for point in simulated(x, row, loss)]
        expected_broken.append(0 if not correct(x) else fate.index(False) if False in fate else UNBROKEN)
        expected_final.append([fate[step] for step in ATTACK.steps])
    assert len(set(expected_broken)) > 5
    np.testing.assert_array_equal(verdicts.outcomes[loss].broken_at, expected_broken)
    np.testing.assert_array_equal(verdicts.outcomes[loss].final, expected_final)
    np.testing.assert_array_equal(verdicts.clean_correct, [correct(x) for x in levels])


@pytest.mark.parametrize("loss", ["ce", "cw"])
def test_the_two_readings_of_a_curve(pit, loss):
    levels, verdicts = pit
    fates = [[correct(x), *(correct(point) for point in simulated(x, row, loss))] for row, x in enumerate(levels)]
    final = [np.mean([fate[1 + step] for fate in fates]) for step in ATTACK.steps]
    worst = [np.mean([all(fate[: 2 + step]) for fate in fates]) for step in ATTACK.steps]
    np.testing.assert_allclose(verdicts.curve(loss, "final"), final, rtol=0, atol=1e-12)
    np.testing.assert_allclose(verdicts.curve(loss, "worst"), worst, rtol=0, atol=1e-12)
    assert any(f > w for f, w in zip(final, worst, strict=True))
    assert sorted(worst, reverse=True) == worst


def test_the_headline_is_each_examples_worst_case(pit):
    levels, verdicts = pit
    survives = [
        correct(x) and all(correct(point) for loss in ("ce", "cw") for point in simulated(x, row, loss))
        for row, x in enumerate(levels)
    ]
    np.testing.assert_array_equal(verdicts.robust_correct, survives)
    assert verdicts.robust_acc == np.mean(survives)
    assert verdicts.clean_acc == np.mean([correct(x) for x in levels])
    ends = [verdicts.curve(loss, "worst")[-1] for loss in verdicts.outcomes]
    assert verdicts.robust_acc <= min(ends)


def problem(count=20):
    return small_net(), uniform(count, 3, 8, 8, dtype=torch.float64), classes(count, 5)


SHORT = {"eps": 0.05, "step_size": 0.02, "steps": (1, 2, 4)}


def test_neither_batch_size_nor_order_nor_sharding_changes_a_verdict():
    model, x, y = problem()
    whole = evaluate(model, x, y, attack=AttackConfig(**SHORT))
    assert 0 < whole.robust_acc < whole.clean_acc or whole.curve("ce", "final").std() > 0
    assert_same(evaluate(model, x, y, attack=AttackConfig(**SHORT, batch_size=3)), whole)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert_same(evaluate(model, x[order], y[order], rows=order, attack=AttackConfig(**SHORT)), whole)
    ranks = [torch.arange(rank, 20, 2) for rank in range(2)]
    parts = [evaluate(model, x[rank], y[rank], rows=rank, attack=AttackConfig(**SHORT)) for rank in ranks]
    assert_same(Verdicts.concat(parts), whole)


def test_the_seed_decides_the_start():
    levels, y = (
        torch.linspace(0.4, 0.6, 40, dtype=torch.float64).view(-1, 1, 1, 1),
        torch.zeros(40, dtype=torch.int64),
    )
    one, other = (evaluate(Pit(), levels, y, attack=ATTACK, seed=seed) for seed in (0, 1))
    assert (one.outcomes["ce"].broken_at != other.outcomes["ce"].broken_at).any()


def test_batches_come_as_they_are_done():
    model, x, y = problem()
    parts = list(evaluate_batches(model, x, y, attack=AttackConfig(**SHORT, batch_size=8)))
    assert [part.rows.tolist() for part in parts] == [list(range(8)), list(range(8, 16)), list(range(16, 20))]


def test_the_mode_found_is_restored_also_between_batches():
    model = nn.Sequential(small_net(), nn.BatchNorm1d(5), nn.Dropout(0.5)).double().train()
    _, x, y = problem()
    before = model.state_dict()["1.running_mean"].clone()
    for _ in evaluate_batches(model, x, y, attack=AttackConfig(**SHORT, batch_size=8)):
        assert model.training
    assert torch.equal(model.state_dict()["1.running_mean"], before)


def test_uint8_images_are_read_as_fractions_of_255():
    model, y = Linear(normal(3, 12)), classes(9, 3)
    images = (uniform(9, 3, 2, 2) * 255).to(torch.uint8)
    assert_same(
        evaluate(model, images, y, attack=AttackConfig(**SHORT)),
        evaluate(model, images.float() / 255, y, attack=AttackConfig(**SHORT)),
    )


class Rounded(nn.Module):
    """Class 0 by less than bfloat16 resolves: any pass at that precision calls class 1."""

    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(1, 2)
        nn.init.zeros_(self.lift.weight)
        self.lift.bias = nn.Parameter(torch.tensor([1 + 2**-12, 1.0]))
        self.types = []

    def forward(self, x):
        logits = self.lift(x.flatten(1))
        self.types.append(logits.dtype)
        return logits + 0 * x.flatten(1) + torch.tensor([0, 2.0**-20])


@pytest.mark.parametrize(("label", "correct_in_float32"), [(0, 1), (1, 0)])
def test_a_verdict_is_a_float32_pass_whatever_the_search_ran_in(label, correct_in_float32):
    model, x, y = Rounded(), torch.full((4, 1, 1, 1), 0.5), torch.full((4,), label)
    verdicts = evaluate(model, x, y, attack=AttackConfig(**SHORT), precision="bfloat16")
    assert torch.bfloat16 in model.types
    assert verdicts.clean_acc == verdicts.robust_acc == correct_in_float32
    assert verdicts.curve("ce", "final").tolist() == [correct_in_float32] * 3


@pytest.mark.parametrize("images", [torch.empty(0, 3, 8, 8), torch.full((2, 3, 8, 8), 255.0)])
def test_images_that_cannot_be_judged(images):
    with pytest.raises(ValueError, match=r"images is empty|images must be in \[0, 1\]"):
        evaluate(small_net().float(), images, torch.zeros(len(images), dtype=torch.int64), attack=AttackConfig(**SHORT))


class Viewing(nn.Module):
    """A network that flattens by `.view`, as many do: it does not work on channels-last activations."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 10)

    def forward(self, x):
        return self.linear(self.conv(x).view(len(x), -1))


def test_the_layout_of_memory_is_no_concern_of_whoever_brings_a_model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        viewing = Viewing().eval()
    reshaping = copy.deepcopy(viewing)
    reshaping.forward = lambda x: reshaping.linear(reshaping.conv(x).reshape(len(x), -1))
    images, labels = uniform(40, 3, 8, 8), classes(40, 10)
    attack = AttackConfig(eps=0.1, step_size=0.03, steps=(1, 3), verify=0)
    verdicts, same = (evaluate(model, images, labels, attack=attack) for model in (viewing, reshaping))
    assert_same(verdicts, same)


def test_a_gradient_comes_back_in_the_layout_that_attacks_expect():
    model = build_model("small_cnn_8", num_classes=10, image_shape=(3, 8, 8)).eval()
    x = torch.rand(4, 3, 8, 8).requires_grad_()
    (gradient,) = torch.autograd.grad(Evaluator(model).logits(x).sum(), x)
    assert gradient.is_contiguous()
    torch.testing.assert_close(gradient, torch.autograd.grad(model(x).sum(), x)[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_labels_are_integers_of_any_type(dtype):
    model, x, y = Linear(normal(5, 12)), uniform(6, 3, 2, 2), classes(6, 5)
    assert_same(evaluate(model, x, y.to(dtype), attack=ATTACK), evaluate(model, x, y, attack=ATTACK))


@pytest.mark.parametrize("labels", [torch.zeros(6), torch.eye(6, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)])
def test_labels_of_another_form_are_refused(labels):
    with pytest.raises(ValueError, match="labels have"):
        evaluate(Linear(normal(5, 12)), uniform(6, 3, 2, 2), labels, attack=ATTACK)


def test_images_outside_by_rounding_are_evaluated_as_clamped():
    model, x, y = Linear(normal(5, 12)), uniform(6, 3, 2, 2), classes(6, 5)
    x[0, 0], x[1, 0] = 1.0, 0.0
    beyond = x.clone()
    beyond[0, 0], beyond[1, 0] = 1 + 1.2e-7, -1e-8
    assert_same(evaluate(model, beyond, y, attack=ATTACK), evaluate(model, x, y, attack=ATTACK))
    with pytest.raises(ValueError, match=r"x spans \[.*outside \[0, 1\]"):
        evaluate(model, x * 2, y, attack=ATTACK)
