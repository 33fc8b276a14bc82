import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bat_core.labels import adversarial_label, one_hot, smooth_label

from .toys import classes, normal

ROUNDING = 16 * torch.finfo(torch.float32).eps


def paper_label(logits, c, beta, gamma):
    """Eq. 13, 14 and 18 for one example, term by term as printed: (y', eps_y)."""
    n = len(logits)
    top = max(logits)
    log_sum = top + math.log(sum(math.exp(z - top) for z in logits))
    v = [-(z - log_sum) for z in logits]
    others = [k for k in range(n) if k != c]
    v_mc, v_ll = min(v[k] for k in others), max(v[k] for k in others)
    denominator = sum(v[k] for k in others) / (n - 1) - v_mc + gamma
    eps_y = 1 / (1 + beta / (n - 1) * (v_ll - v_mc + gamma) / denominator)
    label = [eps_y / (n - 1) * (v[k] - v_mc + gamma) / denominator for k in range(n)]
    label[c] = 1 - eps_y
    return label, eps_y


@st.composite
def problems(draw, spread=30.0):
    n = draw(st.integers(2, 12))
    rows = draw(st.integers(1, 4))
    numbers = st.floats(-spread, spread, width=32)
    logits = draw(st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=rows, max_size=rows))
    y = draw(st.lists(st.integers(0, n - 1), min_size=rows, max_size=rows))
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(y)


betas = st.floats(1, 1000)
gammas = st.sampled_from([0.001, 0.01, 0.5])


@given(problems(), betas, gammas)
def test_the_label_is_the_papers(problem, beta, gamma):
    logits, y = problem
    expected = [paper_label(z, c, beta, gamma)[0] for z, c in zip(logits.tolist(), y.tolist(), strict=True)]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(adversarial_label(logits, y, beta=beta, gamma=gamma), expected, rtol=1e-9, atol=1e-12)
    single = adversarial_label(logits.float(), y, beta=beta, gamma=gamma)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=0, atol=ROUNDING)


@given(problems(), betas, gammas)
def test_the_true_class_keeps_beta_times_the_largest_other(problem, beta, gamma):
    logits, y = problem
    label = adversarial_label(logits, y, beta=beta, gamma=gamma)
    own = one_hot(y, num_classes=logits.shape[1]).bool()
    others = label.masked_fill(own, -1)
    torch.testing.assert_close(label[own], beta * others.amax(1), rtol=1e-9, atol=0)
    torch.testing.assert_close(label.sum(1), torch.ones(len(y), dtype=torch.float64), rtol=1e-12, atol=0)
    assert (label > 0).all()


@given(problems(), betas, gammas)
def test_the_budget_lies_in_the_papers_range(problem, beta, gamma):
    logits, y = problem
    eps_y = 1 - adversarial_label(logits, y, beta=beta, gamma=gamma).gather(1, y[:, None])
    assert (eps_y >= 1 / (1 + beta) - 1e-12).all()
    assert (eps_y <= 1 / (1 + beta / (logits.shape[1] - 1)) + 1e-12).all()


def test_the_least_likely_class_gets_most_and_the_most_confusing_least():
    logits, y = normal(100, 10), classes(100, 10)
    label = adversarial_label(logits, y, beta=9.0)
    for row, z, c in zip(label, logits, y, strict=True):
        others = [k for k in range(10) if k != c]
        assert sorted(others, key=lambda k: row[k]) == sorted(others, key=lambda k: -z[k])


@given(problems(spread=1e4))
def test_infinite_beta_is_one_hot_exactly(problem):
    logits, y = problem
    hot = torch.eye(logits.shape[1])[y]
    assert torch.equal(adversarial_label(logits.float(), y, beta=math.inf), hot)


@given(st.integers(2, 12), st.floats(0.5, 500), st.floats(-50, 50))
def test_equal_gradients_give_label_smoothing(n, beta, level):
    logits = torch.full((3, n), level, dtype=torch.float64)
    y = torch.tensor([0, n - 1, n // 2])
    logits[torch.arange(3), y] += 7
    eps_y = 1 / (1 + beta / (n - 1))  # eq. 19
    label = adversarial_label(logits, y, beta=beta)
    expected = torch.full((3, n), eps_y / (n - 1), dtype=torch.float64)
    expected[torch.arange(3), y] = 1 - eps_y
    torch.testing.assert_close(label, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(smooth_label(y, num_classes=n, eps_y=eps_y).double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize(("eps_y", "beta"), [(0.1, 81), (0.5, 9), (0.9, 1)])
def test_the_papers_examples_of_eq_19(eps_y, beta):
    label = adversarial_label(torch.zeros(1, 10, dtype=torch.float64), torch.tensor([4]), beta=beta)
    assert 1 - label[0, 4] == pytest.approx(eps_y, abs=1e-12)


@pytest.mark.parametrize("beta", [1.0, 9.0, 1e6, math.inf])
def test_extreme_logits_stay_finite(beta):
    logits = torch.tensor([[1e4, -1e4, 0.0, 3.0], [-1e4, 1e4, 1e4, 1e4], [1e4, 1e4, 1e4, 1e4]])
    label = adversarial_label(logits, torch.tensor([0, 0, 3]), beta=beta)
    assert label.isfinite().all()
    torch.testing.assert_close(label.sum(1), torch.ones(3), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, y = normal(16, 10).to(dtype), classes(16, 10)
    label = adversarial_label(logits, y, beta=9.0)
    assert label.dtype == torch.float32
    assert torch.equal(label, adversarial_label(logits.float(), y, beta=9.0))


def test_no_gradient_flows_through_the_label():
    logits = normal(4, 5).requires_grad_()
    assert not adversarial_label(logits, classes(4, 5), beta=9.0).requires_grad


def test_the_logits_are_left_as_they_were():
    logits, y = normal(4, 5), classes(4, 5)
    before = logits.clone()
    adversarial_label(logits, y, beta=9.0)
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    "settings", [{"beta": 0}, {"beta": -1}, {"beta": math.nan}, {"beta": 9, "gamma": 0}, {"beta": 9, "gamma": math.inf}]
)
def test_settings_outside_their_range(settings):
    with pytest.raises(ValueError, match=r"label\.(beta|gamma)="):
        adversarial_label(torch.zeros(2, 3), torch.tensor([0, 1]), **settings)


@pytest.mark.parametrize("eps_y", [-0.1, 1, 2, math.nan, math.inf])
def test_smoothing_outside_its_range(eps_y):
    with pytest.raises(ValueError, match=r"label\.eps_y="):
        smooth_label(torch.tensor([0, 1]), num_classes=3, eps_y=eps_y)


def test_one_class_has_no_soft_label():
    with pytest.raises(ValueError, match="at least 2 classes"):
        adversarial_label(torch.zeros(2, 1), torch.tensor([0, 0]), beta=9.0)
    with pytest.raises(ValueError, match="at least 2 classes"):
        smooth_label(torch.tensor([0]), num_classes=1, eps_y=0.1)
