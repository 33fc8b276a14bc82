import itertools
import math

import pytest
import torch

from bat_core.attacks import PGD, fgsm, pgd
from bat_core.losses import cross_entropy

from .toys import Linear, classes, normal, small_net, uniform

foolbox = pytest.importorskip("foolbox")


def best_against_two_classes(weight, x, y, eps):
    """The corner that lowers w_y.x - w_other.x most, one pixel at a time."""
    best = x.clone().flatten(1)
    for row, own in zip(best, y.tolist(), strict=True):
        for pixel, slope in enumerate((weight[own] - weight[1 - own]).tolist()):
            row[pixel] = min(max(row[pixel].item() - eps * math.copysign(1, slope), 0), 1)
    return best.view_as(x)


@pytest.mark.parametrize("loss", ["ce", "cw"])
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("target", [None, "mc", "ll", "random"])
def test_pgd_reaches_the_optimum_of_a_linear_model(loss, random_start, target, generator):
    weight, x, y = 0.1 * normal(2, 48), uniform(20, 3, 4, 4), classes(20, 2)
    x_adv = pgd(
        Linear(weight), x, y, eps=0.3, step_size=0.1, num_steps=7, loss=loss, target=target,
        random_start=random_start, generator=generator,
    )  # fmt: skip
    torch.testing.assert_close(x_adv, best_against_two_classes(weight, x, y, 0.3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("target", [None, "mc"])
def test_fgsm_reaches_the_optimum_of_a_linear_model(target):
    weight, x, y = 0.1 * normal(2, 48), uniform(20, 3, 4, 4), classes(20, 2)
    best = best_against_two_classes(weight, x, y, 8 / 255)
    x_adv = fgsm(Linear(weight), x, y, eps=8 / 255, target=target)
    torch.testing.assert_close(x_adv, best, rtol=0, atol=1e-6)


def test_pgd_with_restarts_finds_the_worst_corner_of_a_small_ball(generator):
    eps, model = 0.2, Linear(3 * normal(4, 6, dtype=torch.float64))
    x, y = 0.3 + 0.4 * uniform(10, 1, 2, 3, dtype=torch.float64), classes(10, 4)
    corners = torch.tensor(list(itertools.product([-eps, eps], repeat=6)), dtype=torch.float64).view(-1, 1, 1, 2, 3)
    worst = torch.stack([cross_entropy(model(x + corner), y) for corner in corners]).amax(0)
    settings = {"eps": eps, "step_size": eps / 2, "num_steps": 10, "generator": generator}
    found = torch.stack([cross_entropy(model(pgd(model, x, y, **settings)), y) for _ in range(20)]).amax(0)
    torch.testing.assert_close(found, worst, rtol=1e-9, atol=0)


@pytest.mark.parametrize("steps", range(1, 7))
def test_each_iterate_is_foolboxs(steps):
    model, x, y = small_net(), uniform(16, 3, 8, 8, dtype=torch.float64), classes(16, 5)
    peer = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=steps, random_start=False)
    theirs = peer.run(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilon=0.05)
    ours = pgd(model, x, y, eps=0.05, step_size=0.02, num_steps=steps, random_start=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_a_targeted_iterate_is_foolboxs():
    model, x, y = small_net(), uniform(16, 3, 8, 8, dtype=torch.float64), classes(16, 5)
    target = (y + 2) % 5
    peer = foolbox.attacks.LinfPGD(abs_stepsize=0.02, steps=4, random_start=False)
    criterion = foolbox.criteria.TargetedMisclassification(target)
    theirs = peer.run(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, criterion, epsilon=0.05)
    ours = pgd(model, x, y, eps=0.05, step_size=0.02, num_steps=4, target=target, random_start=False)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("loss", ["ce", "cw", "dlr"])
@pytest.mark.parametrize("target", [None, "mc", "random"])
def test_one_trajectory_holds_every_shorter_attack(loss, target):
    model, x, y = small_net(), uniform(8, 3, 8, 8, dtype=torch.float64), classes(8, 5)
    settings = {"eps": 0.05, "step_size": 0.02, "loss": loss, "target": target}
    longest = PGD(num_steps=6, **settings)
    iterates = list(longest.trajectory(model, x, y, generator=torch.Generator().manual_seed(0)))
    assert [iterate.step for iterate in iterates] == list(range(7))
    for iterate in iterates[1:]:
        alone = pgd(model, x, y, num_steps=iterate.step, generator=torch.Generator().manual_seed(0), **settings)
        assert torch.equal(alone, iterate.x)
    for iterate in iterates[:-1]:
        assert torch.equal(iterate.logits, model(iterate.x))
    assert iterates[-1].logits is None


def test_a_trajectory_starts_at_random_or_at_x():
    model, x, y = small_net(), uniform(8, 3, 8, 8, dtype=torch.float64), classes(8, 5)
    for random_start in (False, True):
        attack = PGD(eps=0.05, step_size=0.02, num_steps=1, random_start=random_start)
        first = next(attack.trajectory(model, x, y, generator=torch.Generator().manual_seed(0)))
        assert torch.equal(first.x, x) is not random_start


def test_fgsm_is_one_step_of_pgd():
    model, x, y = small_net(), uniform(8, 3, 8, 8, dtype=torch.float64), classes(8, 5)
    for random_start in (False, True):
        settings = {"eps": 0.05, "target": "mc", "random_start": random_start}
        one = fgsm(model, x, y, generator=torch.Generator().manual_seed(0), **settings)
        same = pgd(
            model, x, y, step_size=0.05, num_steps=1, generator=torch.Generator().manual_seed(0), **settings
        )  # fmt: skip
        assert torch.equal(one, same)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_step_costs_one_forward_pass(num_steps):
    model, x, y = small_net(), uniform(2, 3, 8, 8, dtype=torch.float64), classes(2, 5)
    calls = []
    pgd(lambda z: calls.append(1) or model(z), x, y, eps=0.05, step_size=0.02, num_steps=num_steps)
    assert len(calls) == num_steps


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, r"attack\.num_steps=0 must be at least 1"),
        ({"num_steps": -3}, r"attack\.num_steps=-3 must be at least 1"),
        ({"step_size": 2}, r"attack\.step_size=2 is outside \(0, 1\].*so write 2/255, not 2"),
        ({"step_size": 0}, r"attack\.step_size=0 is outside \(0, 1\]"),
        ({"step_size": math.nan}, r"attack\.step_size=nan is outside \(0, 1\]"),
        ({"loss": "clw"}, "unknown loss 'clw'; did you mean 'cw'"),
        ({"loss": "dlr"}, "loss 'dlr' needs 3 classes, the model has 2: use loss cw"),
        ({"restarts": 0}, r"attack\.restarts=0 must be at least 1"),
    ],
)
def test_settings_outside_their_range(changes, message):
    settings = {"eps": 0.1, "step_size": 0.1, "num_steps": 1, **changes}
    with pytest.raises(ValueError, match=message):
        pgd(Linear(normal(2, 4)), uniform(1, 1, 2, 2), torch.tensor([0]), **settings)
