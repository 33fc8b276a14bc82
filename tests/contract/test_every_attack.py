"""What every attack that discovery finds must keep to."""

import dataclasses

import pytest
import torch
from torch import nn

from bat_core.attacks import ATTACKS, PGD
from bat_core.errors import InputError
from bat_core.rng import PerExampleRNG

EPS = 8 / 255
EPS_2 = 0.3
USUAL = {"eps": EPS, "step_size": EPS / 4, "num_steps": 20}
BLIND = {"noise"}  # does not look for what raises the loss
BY_BATCH = {"autoattack"}  # draws for a batch and ends on its own


def make(name, model, **settings):
    """The attack called `name`; a transfer attack is crafted on the attacked model itself."""
    kind, captured = ATTACKS.find(name)
    default = {**USUAL, "sources": (model,), "crafted_by": PGD(**USUAL)}
    chosen = [field for field in dataclasses.fields(kind) if field.init]
    required = {field.name for field in chosen if field.default is dataclasses.MISSING}
    assert required <= default.keys(), "add the new required setting to `default`"
    return kind(**{field.name: default[field.name] for field in chosen if field.name in default} | captured | settings)


def make_l2(name, model, **settings):
    """The same in L2."""
    usual = {"norm": "l2", "eps": EPS_2, "step_size": EPS_2 / 4}
    crafted = {"crafted_by": PGD(num_steps=20, **usual)}
    kind, _ = ATTACKS.find(name)
    names = {field.name for field in dataclasses.fields(kind) if field.init}
    return make(name, model, **{key: value for key, value in (usual | crafted).items() if key in names}, **settings)


@pytest.fixture
def problem():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()
        x = torch.cat([torch.rand(4, 3, 6, 6), torch.zeros(1, 3, 6, 6), torch.ones(1, 3, 6, 6)])
    return model, x, torch.arange(6) % 5


NAMES = ATTACKS.names()
TARGETS = [None, "mc", "ll", "random", "every"]
every_attack = pytest.mark.parametrize("name", NAMES)
aimed = [(name, target) for name in NAMES for target in TARGETS if target is None or ATTACKS.find(name)[0].takes_target]
every_aim = pytest.mark.parametrize(("name", "target"), aimed)


def rng(rows):
    return PerExampleRNG(seed=0, names=("contract",), indices=list(rows))


@every_aim
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_stays_in_the_ball(name, target, dtype, problem, generator):
    model, x, y = problem
    x, model = x.to(dtype), model.to(dtype)
    x_adv = make(name, model, target=target)(model, x, y, generator=generator)
    assert x_adv.shape == x.shape
    assert x_adv.dtype == dtype
    assert (x_adv - x).abs().max().item() <= EPS
    assert (x_adv.double() - x.double()).abs().max().item() <= EPS
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    assert not torch.equal(x_adv, x)


@every_aim
def test_it_stays_in_the_l2_ball(name, target, problem, generator):
    model, x, y = problem
    x_adv = make_l2(name, model, target=target)(model, x, y, generator=generator)
    assert 0 < (x_adv.double() - x.double()).flatten(1).square().sum(1).sqrt().max().item() <= EPS_2
    assert 0 <= x_adv.min() <= x_adv.max() <= 1


@pytest.mark.parametrize("name", sorted(set(NAMES) - BY_BATCH))
def test_its_points_in_the_l2_ball_depend_on_the_example_alone(name, problem):
    model, x, y = (part.double() if part is not problem[2] else part for part in problem)
    attack = make_l2(name, model)
    whole = list(attack.trajectory(model, x, y, generator=rng(range(6))))
    active = torch.tensor([False, True, True, False, True, False])
    for point, before in zip(attack.trajectory(model, x, y, generator=rng(range(6)), active=active), whole):  # noqa: B905
        assert (point.x - x[point.rows]).flatten(1).square().sum(1).sqrt().max().item() <= EPS_2
        torch.testing.assert_close(point.x, before.x[point.rows], rtol=0, atol=1e-9)


@every_attack
def test_each_point_that_it_passes_is_in_the_ball(name, problem):
    model, x, y = problem
    points = list(make(name, model).trajectory(model, x, y, generator=rng(range(6))))
    assert points
    for point in points:
        assert (point.x - x[point.rows]).abs().max().item() <= EPS
        assert 0 <= point.x.min() <= point.x.max() <= 1
        if point.logits is not None:
            torch.testing.assert_close(point.logits, model(point.x).detach())


@every_aim
def test_a_generator_decides_it_and_nothing_else_is_drawn_from(name, target, problem):
    model, x, y = problem
    before = torch.random.get_rng_state()
    attack = make(name, model, target=target)
    runs = [attack(model, x, y, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*runs)
    assert torch.equal(torch.random.get_rng_state(), before)


@every_attack
def test_it_leaves_model_and_images_as_they_were(name, problem, generator):
    model, x, y = problem
    state, before = {key: value.clone() for key, value in model.state_dict().items()}, x.clone()
    x_adv = make(name, model)(model, x, y, generator=generator)
    assert not x_adv.requires_grad
    assert torch.equal(x, before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(set(NAMES) - BLIND))
def test_it_raises_the_loss(name, problem, generator):
    model, x, y = problem
    x_adv = make(name, model)(model, x, y, generator=generator)
    before, after = (nn.functional.cross_entropy(model(z), y) for z in (x, x_adv))
    assert after > before


@every_attack
def test_it_attacks_only_what_it_is_asked_to(name, problem):
    model, x, y = problem
    active = torch.tensor([False, True, True, False, True, False])
    rows = [
        point.rows.tolist()
        for point in make(name, model).trajectory(model, x, y, generator=rng(range(6)), active=active)
    ]
    assert rows
    assert all(found == [1, 2, 4] for found in rows)
    nothing = torch.zeros(6, dtype=torch.bool)
    assert list(make(name, model).trajectory(model, x, y, generator=rng(range(6)), active=nothing)) == []


@pytest.mark.parametrize("name", sorted(set(NAMES) - BY_BATCH))
def test_examples_that_are_let_go_are_not_met_again_and_shift_no_other(name, problem):
    model, x, y = (part.double() if part is not problem[2] else part for part in problem)
    attack = make(name, model, restarts=2)
    whole = list(attack.trajectory(model, x, y, generator=rng(range(6))))
    active, gone = torch.ones(6, dtype=torch.bool), set()
    for point, before in zip(attack.trajectory(model, x, y, generator=rng(range(6)), active=active), whole):  # noqa: B905
        assert point.rows.tolist() == [row for row in range(6) if row not in gone]
        torch.testing.assert_close(point.x, before.x[point.rows], rtol=0, atol=1e-9)
        if len(gone) < 5:
            gone.add(len(gone))
            active[len(gone) - 1] = False
    assert len(gone) > 1


@pytest.mark.parametrize("name", [name for name in NAMES if not ATTACKS.find(name)[0].takes_target])
@pytest.mark.parametrize("target", ["mc", "every", torch.zeros(6, dtype=torch.int64)])
def test_a_target_that_it_has_no_use_for_is_refused(name, target, problem):
    with pytest.raises(InputError, match=r"attack\.target=.* takes no target"):
        make(name, problem[0], target=target)


@every_attack
@pytest.mark.parametrize("eps", [8, 0, -1, float("nan")])
def test_it_refuses_a_budget_outside_its_range(name, eps, problem):
    with pytest.raises(InputError, match=r"attack\.eps="):
        make(name, problem[0], eps=eps)
