import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from bat_core.rng import BatchRNG
from bat_core.threat import LinfBall
from bat_core.unit_box import in_unit_box

from .toys import uniform

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
amounts = st.one_of(st.floats(1e-3, 1.0), st.integers(1, 255).map(lambda k: k / 255), st.sampled_from([0.5, 2**-5]))
pixels = st.one_of(st.floats(0, 1), st.integers(0, 255).map(lambda k: k / 255), st.floats(0, 1e-6))
images = st.lists(pixels, min_size=1, max_size=8)


def as_images(values, dtype):
    return torch.tensor(values, dtype=torch.float64).to(dtype).view(-1, 1, 1, 1)


@given(images, amounts, st.sampled_from(DTYPES))
@example([1.5 * 2**-25], 0.5, torch.float32)
@example([3 / 255], 8 / 255, torch.float16)
def test_the_bounds_are_within_eps_exactly(values, eps, dtype):
    x = as_images(values, dtype)
    ball = LinfBall.around(x, eps)
    for bound in (ball.lower, ball.upper):
        assert (bound - x).abs().max().item() <= eps
        assert (bound.double() - x.double()).abs().max().item() <= eps
        assert bound.min() >= 0
        assert bound.max() <= 1


@given(images, amounts, st.sampled_from(DTYPES))
def test_the_bounds_waste_at_most_rounding(values, eps, dtype):
    x = as_images(values, dtype)
    ball = LinfBall.around(x, eps)
    slack = 2 * torch.finfo(dtype).eps
    assert (ball.upper.double() >= (x.double() + eps).clamp(max=1) - slack).all()
    assert (ball.lower.double() <= (x.double() - eps).clamp(min=0) + slack).all()


def test_projection_gives_the_nearest_point():
    x, z = uniform(5, 3, 4, 4, dtype=torch.float64), 3 * uniform(5, 3, 4, 4, seed=1, dtype=torch.float64) - 1
    near = LinfBall.around(x, 0.1).project(z)
    flat = [
        min(max(b, a - 0.1, 0), a + 0.1, 1) for a, b in zip(x.flatten().tolist(), z.flatten().tolist(), strict=True)
    ]
    torch.testing.assert_close(near.flatten(), torch.tensor(flat, dtype=torch.float64), rtol=0, atol=1e-15)


def test_the_random_start_is_uniform_in_the_ball(generator):
    count, bins, eps = 20_000, 20, 0.1
    x = torch.full((1, 1, 1, count), 0.5)
    offsets = LinfBall.around(x, eps).random_start(BatchRNG(generator)) - x
    observed = torch.histc(offsets, bins, -eps, eps)
    expected = count / bins
    chi_squared = ((observed - expected) ** 2 / expected).sum()
    assert observed.sum() == count
    assert chi_squared < 43.8  # the 99.9th percentile with 19 degrees of freedom


def test_the_random_start_moves_each_pixel_on_its_own(generator):
    x = torch.full((2, 3, 4, 4), 0.5)
    offsets = LinfBall.around(x, 0.1).random_start(BatchRNG(generator)) - x
    assert len(set(offsets.flatten().tolist())) == x.numel()


def test_the_check_passes_what_is_inside_and_its_rim():
    x = uniform(2, 3, 4, 4)
    ball = LinfBall.around(x, 0.1)
    for inside in (x, ball.lower, ball.upper):
        assert ball.check(inside) is inside


@pytest.mark.parametrize("stray", [0.61, 0.39, math.nan, math.inf])
def test_the_check_stops_a_single_stray_value(stray):
    x = torch.full((2, 1, 4, 4), 0.5)
    x_adv = x.clone()
    x_adv[1, 0, 2, 3] = stray
    with pytest.raises(RuntimeError, match=r"left its ball: 1 values outside eps=0\.1"):
        LinfBall.around(x, 0.1).check(x_adv)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_the_check_stops_what_leaves_the_range(level):
    x = torch.full((1, 1, 2, 2), level)
    beyond = x + (0.05 if level else -0.05)
    with pytest.raises(RuntimeError, match="left its ball"):
        LinfBall.around(x, 0.1).check(beyond)


def test_the_check_stops_another_shape():
    ball = LinfBall.around(uniform(2, 3, 4, 4), 0.1)
    with pytest.raises(RuntimeError):
        ball.check(ball.x[:1])


@pytest.mark.parametrize("eps", [0, -0.1, 8, math.nan, math.inf])
def test_a_budget_outside_its_range(eps):
    with pytest.raises(ValueError, match=r"eps=.* is outside \(0, 1\]"):
        LinfBall.around(uniform(1, 1, 2, 2), eps)


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan])
def test_images_outside_their_range(value):
    x = torch.full((1, 1, 2, 2), 0.5)
    x[0, 0, 1, 1] = value
    with pytest.raises(ValueError, match=r"images must be in \[0, 1\]"):
        LinfBall.around(x, 0.1)


def test_integer_images_are_refused():
    with pytest.raises(ValueError, match=r"uint8.*floating-point"):
        LinfBall.around(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), 0.1)


@pytest.mark.parametrize(("dtype", "excess"), [(torch.float32, 1.2e-7), (torch.float64, 1e-9), (torch.float16, 9e-4)])
def test_images_outside_by_rounding_are_clamped(dtype, excess):
    x = as_images([-excess, 0.25, 1 + excess], dtype)
    assert x.max() > 1
    assert in_unit_box(x).flatten().tolist() == [0, 0.25, 1]
    ball = LinfBall.around(x, 0.5)
    assert torch.equal(ball.x, in_unit_box(x))
    assert ball.check(ball.x) is ball.x
    inside = as_images([0, 0.5, 1], dtype)
    assert in_unit_box(inside) is inside


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0, 1 + 1e-4, "1.0001"), (-2.1, 2.6, "2.1 outside"), (0, 255, "254")]
)
def test_images_outside_by_more_are_refused_with_the_excess(low, high, said):
    with pytest.raises(ValueError, match=rf"x spans \[.*{said}"):
        in_unit_box(as_images([low, high], torch.float64))


def test_nan_is_outside():
    with pytest.raises(ValueError, match="x spans"):
        in_unit_box(as_images([0.5, math.nan], torch.float32))
