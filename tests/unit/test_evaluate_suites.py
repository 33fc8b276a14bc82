"""Suites of attacks on one model: what is let go, saved, halved, and judged in which precision."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from bat_core.attacks import APGD, FGSM, PGD, Attack, Iterate, Noise, Square
from bat_core.attacks.cycles import SMALLEST_PASS
from bat_core.device import is_out_of_memory
from bat_core.evaluate import Evaluator, evaluate
from bat_core.rng import PerExampleRNG
from bat_core.suites import Entry, Suite, get_suite
from bat_core.verdicts import SKIPPED, UNBROKEN

from .test_verdicts import assert_same
from .toys import small_net, uniform


def mostly_right(count=40):
    """Images that the model classifies correctly, but for every seventh."""
    model, x = small_net(), uniform(count, 3, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    return model, x, torch.where(torch.arange(count) % 7 == 0, (y + 1) % 5, y)


def suite(**attacks):
    """Each attack under its keyword; a pair is (attack, drop)."""
    pairs = {name: one if isinstance(one, tuple) else (one, False) for name, one in attacks.items()}
    return Suite(name="s", entries=tuple(Entry(name=n, attack=a, skip_broken=drop) for n, (a, drop) in pairs.items()))


def kept(quick, **changes):
    return dataclasses.replace(quick, entries=tuple(dataclasses.replace(entry, **changes) for entry in quick.entries))


@pytest.fixture(scope="module")
def dropping():
    """The same suite, letting fallen examples go and not."""
    model, x, y = mostly_right()
    quick = get_suite("quick", eps=0.02)
    return [evaluate(model, x, y, attack=kept(quick, skip_broken=drop)) for drop in (True, False)]


def test_letting_fallen_examples_go_changes_no_worst_case(dropping):
    with_drop, without = dropping
    assert 0 < without.robust_acc < without.robust_after(1).mean() < without.clean_acc < 1
    for count in (0, 1, 2):
        np.testing.assert_array_equal(with_drop.robust_after(count), without.robust_after(count))


def test_what_fell_before_is_spared_and_told_from_what_was_never_right(dropping):
    with_drop, without = dropping
    first, second = (with_drop.outcomes[name].broken_at for name in ("apgd-ce", "apgd-t"))
    fallen_to_the_first = with_drop.clean_correct & (first != UNBROKEN)
    np.testing.assert_array_equal(second == SKIPPED, fallen_to_the_first)
    np.testing.assert_array_equal(first == SKIPPED, np.zeros(40, dtype=np.bool_))
    for outcome in (first, second):
        np.testing.assert_array_equal(outcome[~with_drop.clean_correct], 0)
    assert not any((outcome.broken_at == SKIPPED).any() for outcome in without.outcomes.values())


@pytest.mark.parametrize("drop", [True, False])
def test_an_example_that_fell_costs_no_more_passes(drop):
    model, x, y = mostly_right()
    counting = Narrow(model, 40, MemoryError())
    attack = PGD(eps=0.02, step_size=0.005, num_steps=5)
    verdicts = evaluate(counting, x, y, attack=suite(fgsm=FGSM(eps=0.01), pgd=(attack, drop)), cycles=False)
    stood = verdicts.robust_after(1)
    broken_at = verdicts.outcomes["pgd"].broken_at
    left = [int((stood & ((broken_at == UNBROKEN) | (broken_at >= step))).sum()) for step in range(6)]
    assert left[0] > left[3] > left[-1] > 0
    passes = [max(count, SMALLEST_PASS) for count in left] if drop else [40] * 6
    assert counting.sizes == [40, 40, 40, *passes]


MIXED = {
    "fgsm": FGSM(eps=0.02),
    "pgd": PGD(eps=0.02, step_size=0.01, num_steps=3, target="random", restarts=2),
    "apgd": (APGD(eps=0.02, num_steps=8), True),
    "square": (Square(eps=0.02, num_steps=20), True),
    "noise": Noise(eps=0.05, num_steps=3),
}


@pytest.fixture(scope="module")
def mixed():
    return evaluate(*mostly_right(), attack=suite(**MIXED))


def test_no_attack_of_a_suite_depends_on_the_batch(mixed):
    model, x, y = mostly_right()
    assert 0 < mixed.robust_acc < mixed.clean_acc
    for batch_size in (1, 7, 64):
        assert_same(evaluate(model, x, y, attack=suite(**MIXED), batch_size=batch_size), mixed)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert_same(evaluate(model, x[order], y[order], rows=order, attack=suite(**MIXED)), mixed)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "noise"])
def test_an_attack_more_shifts_no_other(name, mixed):
    alone = evaluate(*mostly_right(), attack=suite(**{name: MIXED[name]}))
    np.testing.assert_array_equal(alone.outcomes[name].broken_at, mixed.outcomes[name].broken_at)


def test_a_worst_case_over_attacks_can_be_built_up(mixed):
    model, x, y = mostly_right()
    evaluator = Evaluator(model)
    verdicts = evaluator.clean(x, y, torch.arange(40))
    for name, attack in MIXED.items():
        verdicts = evaluator.extend(verdicts, x, suite(**{name: attack}))
    assert_same(verdicts, mixed)


def test_of_several_searches_the_first_step_that_broke_an_example_is_told():
    model, x, y = mostly_right()
    attack = PGD(eps=0.03, step_size=0.005, num_steps=4)
    together = evaluate(model, x, y, attack=suite(a=dataclasses.replace(attack, restarts=3))).outcomes["a"].broken_at
    expected = np.where(evaluate(model, x, y, attack=suite(a=attack)).clean_correct, 99, 0)
    for number in range(3):
        rng = PerExampleRNG(seed=0, names=("evaluate", "a"), indices=range(40)).restart(number)
        for iterate in attack.trajectory(model, x, y, generator=rng):
            fell = (model(iterate.x).argmax(1) != y).numpy()
            expected = np.where(fell, np.minimum(expected, iterate.step), expected)
    assert len(set(expected)) > 3
    np.testing.assert_array_equal(together, np.where(expected == 99, UNBROKEN, expected))


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float64), ("bfloat16", torch.float32)])
def test_a_saved_image_classified_again_gives_the_verdict(precision, dtype):
    model, x, y = mostly_right()
    model, x, rows = model.to(dtype), x.to(dtype), torch.arange(100, 140)
    saved = {name: {} for name in MIXED}

    def save(name, rows, x_adv):
        assert saved[name].keys().isdisjoint(rows.tolist())
        saved[name] |= dict(zip(rows.tolist(), x_adv, strict=True))

    evaluator = Evaluator(Narrow(model, 16, MemoryError()), precision=precision)  # in several parts
    verdicts = evaluator.extend(evaluator.clean(x, y, rows), x, suite(**MIXED), save=save)
    for number, entry in enumerate(suite(**MIXED).entries):
        attacked = np.flatnonzero(verdicts.robust_after(number)) if entry.skip_broken else np.arange(40)
        assert sorted(saved[entry.name]) == rows[attacked].tolist()
        x_adv = torch.stack([saved[entry.name][row] for row in rows[attacked].tolist()])
        holds = model(x_adv).argmax(1) == y[attacked]
        np.testing.assert_array_equal(holds, verdicts.outcomes[entry.name].robust[attacked])
        assert (x_adv - x[attacked]).abs().max() <= entry.attack.eps


class Undefined(nn.Module):
    """Class 0; its logit is NaN, which argmax takes for the largest, above `limit`."""

    def __init__(self, limit):
        super().__init__()
        self.limit = limit

    def forward(self, x):
        pixel = x.flatten(1)
        own = torch.where(pixel > self.limit, torch.nan, 1 - pixel)
        return torch.cat([own, torch.zeros_like(own)], dim=1)


@pytest.mark.parametrize(("limit", "clean_acc"), [(0.4, 0), (0.55, 1)])
def test_nan_classifies_nothing(limit, clean_acc):
    x, y = torch.full((5, 1, 1, 1), 0.5), torch.zeros(5, dtype=torch.int64)
    model = Undefined(limit)
    assert (model(x + 0.1).argmax(1) == y).all()
    verdicts = evaluate(model, x, y, attack=suite(pgd=PGD(eps=0.1, step_size=0.1, num_steps=2), fgsm=FGSM(eps=0.1)))
    assert verdicts.clean_acc == clean_acc
    assert verdicts.robust_acc == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scripted(Attack):
    """Passes through these grey levels, search by search."""

    levels: tuple[tuple[float, ...], ...]

    def iterates(self, logits_fn, problem, rng, active):
        number = rng.names[-1] if "restart" in rng.names else 0
        for step, level in enumerate(self.levels[number]):
            x = torch.full_like(problem.ball.x, level)
            yield Iterate(step, problem.rows, x, logits_fn(x).detach())


class AboveHalf(nn.Module):
    """Class 0 above one half, which bfloat16 takes 0.5001 for."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2, bias=False)
        self.linear.weight = nn.Parameter(torch.tensor([[1.0], [0.0]]))

    def forward(self, x):
        return self.linear(x.flatten(1)) - torch.tensor([0.5, -(2.0**-20)])


def scripted(*levels, precision="bfloat16"):
    """The verdict on one image, and the class of the image that was saved."""
    model, x, y = AboveHalf(), torch.full((1, 1, 1, 1), 0.7), torch.tensor([0])
    saved = []
    evaluator = Evaluator(model, precision=precision)
    attack = suite(a=Scripted(eps=0.5, levels=levels, restarts=len(levels)))
    verdicts = evaluator.extend(
        evaluator.clean(x, y, torch.arange(1)), x, attack, save=lambda *found: saved.append(found[2])
    )
    return verdicts.outcomes["a"].broken_at.item(), model(saved[0]).argmax(1).item()


@pytest.mark.parametrize(
    ("levels", "broken_at"), [([0.9, 0.5001, 0.9], UNBROKEN), ([0.9, 0.5001, 0.4, 0.3], 2), ([0.4, 0.9], 0)]
)
def test_what_bfloat16_alone_sees_misclassified_has_not_fallen(levels, broken_at):
    assert scripted(levels) == scripted(levels, precision="float32") == (broken_at, int(broken_at != UNBROKEN))


def test_nor_has_it_fallen_earlier():
    levels = [0.9, 0.9, 0.9, 0.4], [0.9, 0.5001, 0.9, 0.9]
    assert scripted(*levels) == scripted(*levels, precision="float32") == (3, 1)


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes"),
]


class Narrow(nn.Module):
    """Fails on more than `most` images at once."""

    def __init__(self, model, most, error):
        super().__init__()
        self.model, self.most, self.error, self.sizes = model, most, error, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise self.error
        return self.model(x)


@pytest.mark.parametrize("error", ERRORS)
def test_a_batch_that_does_not_fit_is_halved_and_the_verdicts_are_the_same(error, mixed):
    model, x, y = mostly_right()
    narrow = Narrow(model, 6, error)
    evaluator = Evaluator(narrow)
    verdicts = evaluator.extend(evaluator.clean(x, y, torch.arange(40)), x, suite(**MIXED))
    assert_same(verdicts, mixed)
    assert evaluator.halvings == 3  # 40, 20, 10, 5
    assert [size for size in narrow.sizes if size > 6] == [40, 20, 10]


def test_an_attack_that_needs_more_than_a_pass_is_halved_too(mixed):
    model, x, y = mostly_right()
    evaluator = Evaluator(model)
    clean = evaluator.clean(x, y, torch.arange(40))
    evaluator.model = Narrow(model, 10, ERRORS[0])
    assert_same(evaluator.extend(clean, x, suite(**MIXED)), mixed)
    assert evaluator.halvings == 2


def test_one_image_that_does_not_fit_is_an_error():
    model, x, y = mostly_right(4)
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(Narrow(model, 0, ERRORS[0]), x, y, attack=suite(**MIXED))


def test_another_error_is_not_taken_for_want_of_memory():
    model, x, y = mostly_right(4)
    narrow = Narrow(model, 2, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        evaluate(narrow, x, y, attack=suite(**MIXED))
    assert narrow.sizes == [4]


def test_want_of_memory_is_known_by_its_errors():
    assert all(map(is_out_of_memory, ERRORS))
    assert not is_out_of_memory(RuntimeError("the attack left its ball"))
