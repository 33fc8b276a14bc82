import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bat_core.attacks import APGD, FGSM, PGD, Attack, Iterate, Noise, fgsm, pgd
from bat_core.attacks.base import choose_targets
from bat_core.rng import BatchRNG, PerExampleRNG

from .toys import Linear, classes, normal, small_net, uniform


class Cheat(Attack):
    def iterates(self, logits_fn, problem, rng, active):
        yield Iterate(1, problem.rows, problem.ball.x + 1.01 * self.eps)


class Spoil(Attack):
    def iterates(self, logits_fn, problem, rng, active):
        yield Iterate(1, problem.rows, torch.where(problem.rows[:, None, None, None] == 1, math.nan, problem.ball.x))


class CheatOnTheWay(Attack):
    def iterates(self, logits_fn, problem, rng, active):
        yield Iterate(0, problem.rows, problem.ball.x)
        yield Iterate(1, problem.rows, problem.ball.x + 1.01 * self.eps)
        yield Iterate(2, problem.rows, problem.ball.x)


def sixteen(num_classes=4):
    return Linear(normal(num_classes, 16)), uniform(8, 1, 4, 4), classes(8, num_classes)


def make_attacks(eps, target=None):
    return [
        FGSM(eps=eps, target=target),
        FGSM(eps=eps, target=target, random_start=True),
        PGD(eps=eps, target=target, step_size=eps / 2, num_steps=3),
        PGD(eps=eps, target=target, step_size=eps, num_steps=2, loss="cw", random_start=False),
        PGD(eps=eps, target=target, step_size=eps / 2, num_steps=2, restarts=3),
        APGD(eps=eps, target=target, num_steps=6),
        APGD(eps=eps, target=target, num_steps=6, loss="cw", restarts=2),
    ]


@pytest.mark.parametrize("attack", [Cheat(eps=0.1), Spoil(eps=0.1)])
def test_an_attack_that_leaves_its_ball_is_a_defect(attack):
    model, x, y = sixteen()
    with pytest.raises(RuntimeError, match="left its ball"):
        attack(model, x, y)


@pytest.mark.parametrize("attack", [Cheat(eps=0.1), Spoil(eps=0.1), CheatOnTheWay(eps=0.1)])
@pytest.mark.parametrize("active", [None, torch.ones(8, dtype=torch.bool), torch.arange(8) == 1])
def test_every_point_of_a_trajectory_is_checked(attack, active):
    model, x, y = sixteen()
    with pytest.raises(RuntimeError, match="left its ball"):
        list(attack.trajectory(model, x, y, active=active))


@given(
    eps=st.one_of(st.floats(1e-3, 1), st.integers(1, 64).map(lambda k: k / 255)),
    levels=st.lists(st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0])), min_size=12, max_size=12),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    target=st.sampled_from([None, "mc", "ll", "random", "every"]),
)
def test_no_attack_leaves_the_ball_or_the_range(eps, levels, dtype, target):
    x = torch.tensor(levels).to(dtype).view(3, 1, 2, 2)
    model, y = Linear(normal(3, 4).to(dtype)), torch.tensor([0, 1, 2])
    for attack in make_attacks(eps, target):
        x_adv = attack(model, x, y, generator=torch.Generator().manual_seed(0))
        assert x_adv.dtype == dtype
        assert not x_adv.requires_grad
        assert (x_adv - x).abs().max().item() <= eps
        assert (x_adv.double() - x.double()).abs().max().item() <= eps
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1


@pytest.mark.parametrize("attack", make_attacks(0.1))
def test_neither_model_nor_images_are_changed(attack):
    model, x, y = sixteen()
    weight, before = model.weight.detach().clone(), x.clone()
    attack(model, x, y)
    assert model.weight.grad is None
    assert model.weight.requires_grad
    assert torch.equal(model.weight, weight)
    assert torch.equal(x, before)
    assert not x.requires_grad


@pytest.mark.parametrize("attack", make_attacks(0.1))
def test_an_attack_works_where_gradients_are_off(attack):
    model, x, y = sixteen()
    expected = attack(model, x, y, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(attack(model, x, y, generator=torch.Generator().manual_seed(0)), expected)


@pytest.mark.parametrize("target", [None, "random"])
def test_a_generator_decides_what_is_drawn(target):
    model, x, y = sixteen()

    def run(seed):
        return pgd(
            model,
            x,
            y,
            eps=0.1,
            step_size=0.01,
            num_steps=2,
            target=target,
            generator=torch.Generator().manual_seed(seed),
        )

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


def named_classes(model, x, y):
    """Most confusing and least likely class of each clean image, by a plain search (eq. 23, 24)."""
    most_confusing, least_likely = [], []
    for logits, own in zip(model(x).tolist(), y.tolist(), strict=True):
        others = [k for k in range(len(logits)) if k != own]
        most_confusing.append(max(others, key=logits.__getitem__))
        least_likely.append(min(others, key=logits.__getitem__))
    return {"mc": torch.tensor(most_confusing), "ll": torch.tensor(least_likely)}


@pytest.mark.parametrize("name", ["mc", "ll"])
def test_targets_are_read_from_the_clean_logits(name):
    model, x, y = small_net(), uniform(64, 3, 8, 8, dtype=torch.float64), classes(64, 5)
    settings = {"eps": 0.5, "step_size": 0.1, "num_steps": 2}
    target = named_classes(model, x, y)[name]
    start = x + (2 * BatchRNG(torch.Generator().manual_seed(0)).uniform(x) - 1) * 0.5
    assert (named_classes(model, start.clamp(0, 1), y)[name] != target).any()

    by_name = pgd(model, x, y, target=name, generator=torch.Generator().manual_seed(0), **settings)
    by_class = pgd(model, x, y, target=target, generator=torch.Generator().manual_seed(0), **settings)
    assert torch.equal(by_name, by_class)


def test_clean_logits_at_hand_save_the_forward_pass():
    model, x, y = sixteen()
    calls = []

    def counted(z):
        calls.append(z)
        return model(z)

    attack = FGSM(eps=0.1, target="mc")
    saved = attack(counted, x, y, clean_logits=lambda: model(x))
    assert len(calls) == 1
    assert torch.equal(saved, attack(model, x, y))


@pytest.mark.parametrize(("num_classes", "searches"), [(2, 1), (5, 4), (10, 9), (13, 9)])
def test_every_wrong_class_is_a_target_the_likeliest_first_and_nine_at_most(num_classes, searches):
    logits, y = normal(40, num_classes), classes(40, num_classes)
    targets = choose_targets("every", lambda _: logits, torch.zeros(40, 1), y, rng=BatchRNG())
    by_likelihood = [
        sorted(set(range(num_classes)) - {own}, key=row.__getitem__, reverse=True)
        for row, own in zip(logits.tolist(), y.tolist(), strict=True)
    ]
    assert torch.stack(targets, dim=1).tolist() == [wrong[:searches] for wrong in by_likelihood]


@pytest.mark.parametrize(
    "rng", [BatchRNG(torch.Generator().manual_seed(0)), PerExampleRNG(seed=0, names=("t",), indices=range(6000))]
)
def test_a_random_target_is_any_wrong_class_alike(rng):
    y = torch.arange(6000) % 4
    (target,) = choose_targets("random", lambda x: torch.zeros(len(x), 4), torch.zeros(6000, 1), y, rng=rng)
    assert (target != y).all()
    for own in range(4):
        observed = torch.bincount(target[y == own], minlength=4).double()
        others = observed[[k for k in range(4) if k != own]]
        assert others.sum() == 1500
        assert ((others - 500) ** 2 / 500).sum() < 13.8  # the 99.9th percentile with 2 degrees of freedom


@pytest.mark.parametrize("attack", [fgsm, lambda *a, **k: pgd(*a, step_size=0.05, num_steps=4, loss="cw", **k)])
def test_a_targeted_attack_nears_its_target(attack):
    model, x, y = sixteen()
    target = (y + 1) % 4
    x_adv = attack(model, x, y, eps=0.05, target=target)

    def log_odds(z):
        logits = model(z).detach()
        return logits.gather(1, target[:, None]) - logits.masked_fill(torch.eye(4).bool()[target], -99).amax(1, True)

    assert (log_odds(x_adv) > log_odds(x)).all()


@pytest.mark.parametrize("target", [torch.zeros(3, dtype=torch.int64), torch.zeros(8), torch.zeros(8, 4)])
def test_a_target_tensor_of_another_form(target):
    model, x, y = sixteen()
    with pytest.raises(ValueError, match=r"target is .* must be \(8,\) torch\.int64"):
        fgsm(model, x, y, eps=0.1, target=target)


@pytest.mark.parametrize("eps", [8, 0, -0.1, math.nan, math.inf])
def test_a_budget_outside_its_range(eps):
    model, x, y = sixteen()
    for attack in (fgsm, lambda *a, **k: pgd(*a, step_size=0.1, num_steps=1, **k)):
        with pytest.raises(ValueError, match=r"attack\.eps=\S+ is outside \(0, 1\]"):
            attack(model, x, y, eps=eps)


def test_pixels_are_told_to_be_written_in_255ths():
    with pytest.raises(ValueError, match=r"so write 8/255, not 8$"):
        FGSM(eps=8)


def test_an_unknown_target_is_named_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"unknown attack\.target 'lll'; did you mean 'll'\? Known: every, ll, mc, random"
    ):
        FGSM(eps=0.1, target="lll")


def test_no_search_at_all_is_refused():
    with pytest.raises(ValueError, match=r"attack\.restarts=0 must be at least 1"):
        FGSM(eps=0.1, restarts=0)


@pytest.mark.parametrize("target", ["mc", torch.zeros(8, dtype=torch.int64)])
def test_a_target_for_an_attack_that_takes_none(target):
    with pytest.raises(ValueError, match=r"attack\.target=.*: Noise takes no target"):
        Noise(eps=0.1, target=target)


@pytest.mark.parametrize("x", [uniform(2, 1, 4, 4) * 255, torch.zeros(2, 1, 4, 4, dtype=torch.uint8)])
@pytest.mark.parametrize("attack", make_attacks(0.1))
def test_images_that_are_not_in_the_unit_range(attack, x):
    model, _, _ = sixteen()
    with pytest.raises(ValueError, match=r"images .*in \[0, 1\]"):
        attack(model, x, torch.tensor([0, 1]))
