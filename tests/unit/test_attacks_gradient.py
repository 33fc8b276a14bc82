from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from bat_core.attacks import APGD, FGSM, PGD, GradientAttack
from bat_core.rng import BatchRNG, PerExampleRNG

from .toys import Linear, classes, normal, small_net, uniform

EPS = 0.05


def problem(count=16):
    """Images that the model classifies correctly."""
    model, x = small_net(), uniform(count, 3, 8, 8, dtype=torch.float64)
    return model, x, model(x).argmax(1)


def rng(count=16):
    return PerExampleRNG(seed=0, names=("t",), indices=range(count))


def walked(attack, *, let_go=None):
    """Each (position in the trajectory, row) and its image; after position k the rows let_go[k] are cleared."""
    model, x, y = problem()
    active = torch.ones(len(x), dtype=torch.bool)
    seen = {}
    for position, iterate in enumerate(attack.trajectory(model, x, y, generator=rng(), active=active)):
        seen |= {(position, row): z for row, z in zip(iterate.rows.tolist(), iterate.x, strict=True)}
        active[(let_go or {}).get(position, [])] = False
    return seen


WALKS = [
    PGD(eps=EPS, step_size=0.02, num_steps=5),
    PGD(eps=EPS, step_size=0.02, num_steps=5, loss="cw", target="random", restarts=2),
    APGD(eps=EPS, num_steps=12),
    APGD(eps=EPS, num_steps=6, loss="dlr", target="every"),
]


@pytest.mark.parametrize("attack", WALKS)
def test_letting_examples_go_leaves_the_others_iterates_as_they_were(attack):
    whole, partial = walked(attack), walked(attack, let_go={0: [3], 2: [0, 8, 15], 4: [7]})
    staying = {(position, row) for position, row in whole if row not in {0, 3, 7, 8, 15}}
    assert staying < partial.keys()
    for place, image in partial.items():
        torch.testing.assert_close(image, whole[place], rtol=0, atol=1e-9)


@pytest.mark.parametrize("attack", WALKS)
def test_an_example_that_was_let_go_is_never_met_again(attack):
    met = walked(attack, let_go={0: [3], 2: [0, 8, 15], 4: [7]})
    last = {row: max(position for position, other in met if other == row) for row in range(16)}
    assert {row: last[row] for row in (0, 3, 7, 8, 15)} == {0: 2, 3: 0, 7: 4, 8: 2, 15: 2}


@pytest.mark.parametrize("attack", WALKS)
def test_the_search_ends_when_nothing_stands(attack):
    assert {position for position, _ in walked(attack, let_go={1: range(16)})} == {0, 1}


def test_only_what_stands_is_attacked():
    model, x, y = problem()
    active = torch.arange(16) % 3 == 0
    sizes = []
    attack = PGD(eps=EPS, step_size=0.02, num_steps=3, restarts=2)
    for iterate in attack.trajectory(lambda z: sizes.append(len(z)) or model(z), x, y, active=active):
        assert iterate.rows.tolist() == [0, 3, 6, 9, 12, 15]
    assert sizes == [6] * 6


class Alternating(nn.Module):
    """A linear model that weighs its two pixels in turn by each row of `weights`."""

    def __init__(self, weights):
        super().__init__()
        self.weights, self.passes = weights, 0

    def forward(self, x):
        weight = torch.tensor(self.weights[self.passes % len(self.weights)])
        self.passes += 1
        lead = x.flatten(1) @ weight
        return torch.stack([-lead, torch.zeros_like(lead)], dim=1)


def test_the_gradient_is_the_mean_of_as_many_passes_as_asked_for():
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])
    model = Alternating([[3.0, 1.0], [-1.0, 1.0], [-1.0, -3.0]])  # their mean is (1/3, -1/3), their median is not
    attack = PGD(eps=0.2, step_size=0.1, num_steps=1, loss="cw", random_start=False, eot=3)
    start, end = attack.trajectory(model, x, y)
    assert model.passes == 3
    torch.testing.assert_close(end.x.flatten(), torch.tensor([0.6, 0.4]))
    assert start.logits is None  # the mean of several passes is no pass: whoever judges makes one


class Breaking(nn.Module):
    """A linear model whose gradient is NaN at the pixels `at`."""

    def __init__(self, weight, at):
        super().__init__()
        self.linear, self.at = Linear(weight), at

    def forward(self, x):
        flat = x.flatten(1)
        return self.linear(x) + (flat - flat)[:, self.at].sqrt().sum(1, keepdim=True)


ONE_STEP = [FGSM(eps=0.1), PGD(eps=0.1, step_size=0.1, num_steps=1, random_start=False)]
SEARCHES = [*ONE_STEP, PGD(eps=0.1, step_size=0.02, num_steps=4), APGD(eps=0.1, num_steps=10), APGD(eps=0.1, loss="cw")]


@pytest.mark.parametrize("attack", SEARCHES)
@pytest.mark.parametrize("at", [[0], [0, 1, 2, 3]])
def test_a_gradient_of_nan_gives_no_image_of_nan(attack, at):
    model, x, y = Breaking(normal(3, 4), at), 0.3 + 0.4 * uniform(6, 1, 2, 2), classes(6, 3)
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(z).sum(), z)
    assert gradient.flatten(1)[:, at].isnan().all()
    for iterate in attack.trajectory(model, x, y):
        assert not iterate.x.isnan().any()


@pytest.mark.parametrize("attack", ONE_STEP)
def test_a_pixel_without_a_gradient_stays_and_the_others_move(attack):
    weight, x = normal(2, 4), torch.full((1, 1, 2, 2), 0.5)
    moved = (attack(Breaking(weight, [0]), x, torch.tensor([0])) - x).flatten()
    torch.testing.assert_close(moved[1:], 0.1 * (weight[1] - weight[0]).sign()[1:])
    assert moved[0] == 0


@dataclass(frozen=True, kw_only=True)
class Lucky(GradientAttack):
    """Stays where it started."""

    num_steps: int = 1

    def rule(self, ball):
        return self

    def advance(self, ball, x, gradient, values):
        return x

    def keep(self, mask):
        pass


@pytest.mark.parametrize("attack", [Lucky(eps=0.4), PGD(eps=0.02, step_size=0.02, num_steps=1, target="mc")])
def test_of_several_searches_the_worst_counts(attack):
    model, x, y = problem(40)
    together = replace(attack, restarts=4)(model, x, y, generator=rng(40))
    alone = [attack(model, x, y, generator=rng(40).restart(number)) for number in range(4)]
    fell = torch.stack([model(z).argmax(1) != y for z in alone])
    assert max(fell[0].sum(), fell[-1].sum()) < fell.any(0).sum() < 40
    assert torch.equal(model(together).argmax(1) != y, fell.any(0))
    for row, image in enumerate(together):
        assert any(torch.equal(image, z[row]) for z in alone)


def test_a_trajectory_makes_one_search_after_the_other():
    model, x, y = problem()
    settings = {"eps": EPS, "step_size": 0.02, "num_steps": 3}
    together = list(PGD(**settings, restarts=3).trajectory(model, x, y, generator=rng()))
    assert [iterate.step for iterate in together] == [0, 1, 2, 3] * 3
    for number in range(3):
        alone = PGD(**settings).trajectory(model, x, y, generator=rng().restart(number))
        for one, other in zip(alone, together[4 * number : 4 * number + 4], strict=True):
            assert torch.equal(one.x, other.x)


@pytest.mark.parametrize("kind", [PGD, APGD])
def test_every_wrong_class_has_a_search_of_its_own(kind):
    model, x, y = problem()
    settings = {"eps": EPS, "num_steps": 4, "loss": "dlr", **({"step_size": 0.02} if kind is PGD else {})}
    together = list(kind(**settings, target="every").trajectory(model, x, y, generator=rng()))
    by_likelihood = [[k for k in row if k != own] for row, own in zip((-model(x)).argsort(1).tolist(), y, strict=True)]
    for number, target in enumerate(torch.tensor(by_likelihood).unbind(1)):
        alone = kind(**settings, target=target).trajectory(model, x, y, generator=rng().restart(number))
        for one, other in zip(alone, together[5 * number : 5 * number + 5], strict=True):
            assert torch.equal(one.x, other.x)
    assert len(together) == 4 * 5


def test_with_a_plain_generator_restarts_start_elsewhere():
    model, x, y = problem()
    attack = PGD(eps=EPS, step_size=0.02, num_steps=1, restarts=2)
    first, _, second, _ = attack.trajectory(model, x, y, generator=BatchRNG(torch.Generator().manual_seed(0)))
    assert not torch.equal(first.x, second.x)


@pytest.mark.parametrize("eot", [0, -1])
def test_a_gradient_needs_a_pass(eot):
    with pytest.raises(ValueError, match=rf"attack\.eot={eot} must be at least 1"):
        FGSM(eps=0.1, eot=eot)
