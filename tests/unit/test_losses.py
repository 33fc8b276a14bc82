import math

import numpy as np
import pytest
import torch

from bat_core.config import LOSS_NAMES
from bat_core.losses import (
    LOSSES,
    cross_entropy,
    cw_margin,
    dlr,
    get_loss,
    largest_other,
    objective,
    targeted_dlr,
)

from .toys import classes, normal


def plain_cross_entropy(logits, weights):
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(z - top) for z in logits))
    return sum(w * (log_sum - z) for w, z in zip(weights, logits, strict=True))


def test_cross_entropy_is_minus_log_probability():
    logits, y = normal(20, 7, dtype=torch.float64), classes(20, 7)
    expected = [plain_cross_entropy(z, np.eye(7)[k]) for z, k in zip(logits.tolist(), y.tolist(), strict=True)]
    np.testing.assert_allclose(cross_entropy(logits, y), expected, rtol=1e-12)


def test_cross_entropy_of_a_distribution_weighs_all_classes():
    logits, label = normal(20, 7, dtype=torch.float64), normal(20, 7, seed=1, dtype=torch.float64).softmax(1)
    expected = [plain_cross_entropy(z, p) for z, p in zip(logits.tolist(), label.tolist(), strict=True)]
    np.testing.assert_allclose(cross_entropy(logits, label), expected, rtol=1e-12)


def test_cw_margin_is_the_largest_other_logit_less_the_own():
    logits, y = normal(50, 6, dtype=torch.float64), classes(50, 6)
    rows, own = logits.numpy(), y.numpy()
    expected = [np.delete(row, k).max() - row[k] for row, k in zip(rows, own, strict=True)]
    np.testing.assert_array_equal(cw_margin(logits, y), expected)
    np.testing.assert_array_equal(cw_margin(logits, y) > 0, rows.argmax(1) != own)


def test_largest_other_never_names_the_label():
    logits, y = normal(50, 6), classes(50, 6)
    found = largest_other(logits, y)
    for row, k, value, index in zip(logits, y, found.values, found.indices, strict=True):
        others = [j for j in range(6) if j != k]
        assert index == max(others, key=lambda j: row[j])
        assert value == row[index]


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_loss_is_taken_in_float32_or_better(name, dtype):
    logits, y = normal(8, 5).to(dtype), classes(8, 5)
    loss = get_loss(name)(logits, y)
    exact = get_loss(name)(logits.double(), y)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.double(), exact, rtol=1e-6, atol=1e-6)


def test_dlr_is_equation_5():
    logits, y = normal(200, 6, dtype=torch.float64), classes(200, 6)
    expected = []
    for z, k in zip(logits.tolist(), y.tolist(), strict=True):
        first, _, third = sorted(z, reverse=True)[:3]
        expected.append(-(z[k] - max(z[:k] + z[k + 1 :])) / (first - third))
    np.testing.assert_allclose(dlr(logits, y), expected, rtol=1e-9)
    np.testing.assert_array_equal(dlr(logits, y) > 0, logits.numpy().argmax(1) != y.numpy())


def test_targeted_dlr_is_equation_6():
    logits, y = normal(200, 6, dtype=torch.float64), classes(200, 6)
    target = (y + 1 + classes(200, 5, seed=1)) % 6
    expected = []
    for z, k, t in zip(logits.tolist(), y.tolist(), target.tolist(), strict=True):
        first, _, third, fourth = sorted(z, reverse=True)[:4]
        expected.append(-(z[k] - z[t]) / (first - (third + fourth) / 2))
    np.testing.assert_allclose(targeted_dlr(logits, y, target), expected, rtol=1e-9)


@pytest.mark.parametrize("scale", [1e-3, 7.0, 1e6])
@pytest.mark.parametrize("shift", [0.0, -50.0])
def test_neither_scale_nor_shift_of_the_logits_changes_dlr(scale, shift):
    logits, y = normal(50, 5, dtype=torch.float64), classes(50, 5)
    target = (y + 2) % 5
    torch.testing.assert_close(dlr(scale * logits + shift, y), dlr(logits, y), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        targeted_dlr(scale * logits + shift, y, target), targeted_dlr(logits, y, target), rtol=1e-6, atol=0
    )


def test_equal_logits_give_a_dlr_of_zero():
    logits, y = torch.ones(2, 4), torch.tensor([0, 3])
    assert dlr(logits, y).tolist() == targeted_dlr(logits, y, 3 - y).tolist() == [0, 0]


def test_dlr_of_too_few_classes_is_refused():
    y = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="'dlr' needs 3 classes, the model has 2: use loss cw"):
        dlr(torch.zeros(2, 2), y)
    with pytest.raises(ValueError, match="'targeted dlr' needs 4 classes, the model has 3: use loss cw"):
        targeted_dlr(torch.zeros(2, 3), y, 1 - y)
    assert len(dlr(torch.zeros(2, 3), y)) == len(targeted_dlr(torch.zeros(2, 4), y, 1 - y)) == 2


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_an_objective_grows_as_the_label_loses_or_the_target_gains(name):
    logits, y, target = torch.zeros(1, 5), torch.tensor([1]), torch.tensor([3])
    logits[0, 0] = 1.0

    def at(changed, by, aim):
        moved = logits.clone()
        moved[0, changed] += by
        return objective(name)(moved, y, aim).item()

    assert at(1, -0.5, None) > at(1, 0, None) > at(1, 0.5, None)
    assert at(3, -0.5, target) < at(3, 0, target) < at(3, 0.5, target)


def test_only_the_targeted_dlr_weighs_the_target_against_the_label():
    logits, y, target = normal(20, 5), classes(20, 5), (classes(20, 5) + 1) % 5
    for name, loss in (("ce", cross_entropy), ("cw", cw_margin)):
        assert torch.equal(objective(name)(logits, y, None), loss(logits, y))
        assert torch.equal(objective(name)(logits, y, target), -loss(logits, target))
    assert torch.equal(objective("dlr")(logits, y, None), dlr(logits, y))
    assert torch.equal(objective("dlr")(logits, y, target), targeted_dlr(logits, y, target))


@pytest.mark.parametrize("find", [get_loss, objective])
def test_an_unknown_loss_is_named_with_the_known_ones(find):
    with pytest.raises(ValueError, match=r"unknown loss 'cv'; did you mean 'cw'\? Known: ce, cw, dlr, pm, scaled-ce$"):
        find("cv")


def test_the_config_knows_every_loss_by_name():
    assert tuple(LOSSES) == LOSS_NAMES
