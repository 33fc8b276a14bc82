import math

import numpy as np
import pytest
import torch

from bat_core.losses import LOSSES, cross_entropy, cw_margin, get_loss, largest_other

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


def test_an_unknown_loss_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown loss 'cv'; did you mean 'cw'\? Known: ce, cw"):
        get_loss("cv")
