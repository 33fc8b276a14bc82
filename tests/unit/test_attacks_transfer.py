import pytest
import torch
from torch import nn

from bat_core.attacks import APGD, PGD, Transfer
from bat_core.evaluate import evaluate
from bat_core.rng import PerExampleRNG
from bat_core.suites import Entry, Suite

from .toys import classes, small_net, uniform

EPS = 0.05
CRAFTED_BY = PGD(eps=EPS, step_size=0.02, num_steps=3)


def never(x):
    raise AssertionError("a transfer attack does not look at the model")


def problem(count=20):
    return uniform(count, 3, 8, 8, dtype=torch.float64), classes(count, 5)


def rng(rows):
    return PerExampleRNG(seed=0, names=("t",), indices=list(rows))


def test_its_images_are_those_crafted_on_the_source():
    x, y = problem()
    source = small_net(seed=1)
    expected = CRAFTED_BY(source, x, y, generator=rng(range(20)))
    x_adv = Transfer(eps=EPS, sources=(source,), crafted_by=CRAFTED_BY)(never, x, y, generator=rng(range(20)))
    assert torch.equal(x_adv, expected)
    assert not torch.equal(x_adv, CRAFTED_BY(small_net(seed=2), x, y, generator=rng(range(20))))


def test_each_source_is_a_step_and_crafts_for_what_still_stands():
    x, y = problem()
    sources = tuple(small_net(seed=seed) for seed in (1, 2, 3))
    active = torch.ones(20, dtype=torch.bool)
    met = []
    attack = Transfer(eps=EPS, sources=sources, crafted_by=CRAFTED_BY)
    for iterate in attack.trajectory(never, x, y, generator=rng(range(20)), active=active):
        met.append((iterate.step, iterate.rows.tolist()))
        alone = CRAFTED_BY(
            sources[iterate.step - 1], x[iterate.rows], y[iterate.rows], generator=rng(iterate.rows.tolist())
        )
        torch.testing.assert_close(iterate.x, alone, rtol=0, atol=1e-12)
        active[[iterate.step, 10 + iterate.step]] = False
    everyone = set(range(20))
    assert met == [(1, [*everyone]), (2, [*(everyone - {1, 11})]), (3, [*(everyone - {1, 2, 11, 12})])]


def test_the_worst_source_counts():
    model, (x, _) = small_net(), problem(60)
    y = model(x).argmax(1)
    sources = tuple(small_net(seed=seed) for seed in (1, 2, 3))
    attack = Transfer(eps=0.2, sources=sources, crafted_by=APGD(eps=0.2, num_steps=5))

    def verdicts(attack):
        return evaluate(model, x, y, attack=Suite(name="t", entries=(Entry(name="t", attack=attack),)))

    alone = [verdicts(Transfer(eps=0.2, sources=(source,), crafted_by=attack.crafted_by)) for source in sources]
    together = verdicts(attack)
    stands = torch.stack([torch.from_numpy(one.robust_correct) for one in alone]).all(0)
    assert together.robust_correct.tolist() == stands.tolist()
    assert 0 < together.robust_acc < min(one.robust_acc for one in alone) < 1


def test_a_source_is_in_evaluation_mode_meanwhile_and_left_as_it_was():
    x, y = problem(6)
    source = nn.Sequential(small_net(seed=1), nn.BatchNorm1d(5), nn.Dropout(0.5)).double().train()
    source[0].eval()
    before = source.state_dict()["1.running_mean"].clone()
    attack = Transfer(eps=EPS, sources=(source,), crafted_by=CRAFTED_BY)
    x_adv = attack(never, x, y, generator=rng(range(6)))
    assert [part.training for part in source] == [False, True, True]
    assert torch.equal(source.state_dict()["1.running_mean"], before)
    assert all(parameter.grad is None for parameter in source.parameters())
    assert torch.equal(x_adv, attack(never, x, y, generator=rng(range(6))))


def test_it_needs_a_source():
    with pytest.raises(
        ValueError, match=r"attack\.sources is empty: a transfer attack needs at least one source model"
    ):
        Transfer(eps=EPS, sources=(), crafted_by=CRAFTED_BY)


def test_it_needs_one_budget():
    with pytest.raises(ValueError, match=r"attack\.crafted_by\.eps=0\.05 must equal attack\.eps=0\.1"):
        Transfer(eps=0.1, sources=(small_net(),), crafted_by=CRAFTED_BY)
