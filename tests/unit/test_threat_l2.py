"""The L2 ball: that nothing leaves it, and that what it computes is what geometry says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bat_core.rng import BatchRNG, PerExampleRNG
from bat_core.threat import L2Ball, LinfBall, ball_around, lengths

from .toys import normal, uniform

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EPS = 0.5


def distance(x_adv, x):
    return torch.linalg.vector_norm(x_adv.double().flatten(1) - x.double().flatten(1), dim=1)


@settings(deadline=None)
@given(
    st.integers(0, 2**20),
    st.sampled_from([1, 3, 64, 3072]),
    st.floats(1e-3, 3),
    st.sampled_from([1e-4, 0.05, 1.0, 1e4]),
    st.sampled_from(DTYPES),
)
def test_a_projected_point_is_within_eps_exactly(seed, size, eps, spread, dtype):
    x = uniform(4, 1, 1, size, seed=seed).to(dtype)
    ball = L2Ball.around(x, eps)
    z = x + (spread * normal(4, 1, 1, size, seed=seed + 1)).to(dtype)
    found = ball.project(z)
    assert found.dtype == dtype
    assert distance(found, x).max().item() <= eps
    assert found.min() >= 0
    assert found.max() <= 1
    assert torch.equal(ball.check(found), found)
    assert torch.equal(ball.project(found), found)


@pytest.mark.parametrize("size", [1, 64, 3072, 150_528])
def test_projecting_wastes_at_most_rounding(size):
    x = torch.full((2, 1, 1, size), 0.5)
    z = x + 4 * normal(2, 1, 1, size).sign() + normal(2, 1, 1, size)
    scale = 0.4 * math.sqrt(size) / size  # no value leaves [0, 1]
    found = L2Ball.around(x, scale).project(z)
    assert (distance(found, x) >= scale - 1e-7 * math.sqrt(size) - 1e-6 * scale).all()
    torch.testing.assert_close(
        (found - x) / scale, (z - x) / distance(z, x).float().view(2, 1, 1, 1), rtol=0, atol=2e-3
    )


def test_a_point_inside_is_left_alone():
    x = 0.3 + 0.4 * uniform(5, 3, 8, 8)
    z = x + 0.01 * normal(5, 3, 8, 8)
    assert distance(z, x).max() < EPS
    assert torch.equal(L2Ball.around(x, EPS).project(z), z)


def test_the_random_start_is_uniform_in_the_ball(generator):
    """The share of points within r is (r / eps)^D, and no direction is preferred."""
    size, count = 3, 40_000
    x = torch.full((count, 1, 1, size), 0.5)
    offsets = L2Ball.around(x, 0.25).random_start(BatchRNG(generator)) - x
    shares = (lengths(offsets) / 0.25) ** size
    observed = torch.histc(shares, 20, 0, 1)
    assert ((observed - count / 20) ** 2 / (count / 20)).sum() < 45  # chi-squared, 19 degrees: 1 in 1,000
    assert offsets.flatten(1).mean(0).abs().max() < 4 * 0.25 / math.sqrt(count)


def test_a_start_depends_on_its_example_alone():
    x = uniform(6, 3, 4, 4)
    whole = L2Ball.around(x, EPS).random_start(PerExampleRNG(indices=range(6)))
    part = L2Ball.around(x[2:4], EPS).random_start(PerExampleRNG(indices=[2, 3]))
    assert torch.equal(whole[2:4], part)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_has_its_length_whatever_the_gradients_scale(dtype):
    x = torch.full((5, 1, 4, 4), 0.5, dtype=dtype)
    gradient = normal(5, 1, 4, 4).to(dtype) * torch.tensor([1e-3, 1, 100, 0, 1], dtype=dtype).view(5, 1, 1, 1)
    gradient[4, 0, 0, 0] = math.nan
    moved = L2Ball.around(x, EPS).step(x, gradient, 0.25)
    expected = torch.tensor([0.25, 0.25, 0.25, 0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(distance(moved, x), expected, rtol=0, atol=8 * torch.finfo(dtype).eps)
    assert moved[4, 0, 0, 0] == x[4, 0, 0, 0]


def test_tiny_and_infinite_gradients_move_too():
    x = torch.full((3, 1, 2, 2), 0.5)
    gradient = torch.full((3, 1, 2, 2), 1e-30)
    gradient[1] = 1e-36
    gradient[2, 0, 0, 0] = math.inf
    moved = L2Ball.around(x, EPS).step(x, gradient, 0.2)
    torch.testing.assert_close(distance(moved, x), torch.full((3,), 0.2, dtype=torch.float64), rtol=0, atol=1e-6)
    assert moved[2, 0, 0, 0] > 0.69


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_dual_norm_is_the_gain_of_the_steepest_step(norm):
    x = torch.full((4, 1, 4, 4), 0.5, dtype=torch.float64)
    gradient = normal(4, 1, 4, 4, dtype=torch.float64)
    ball = ball_around(x, 0.1, norm)
    gain = ((ball.step(x, gradient, 0.1) - x) * gradient).flatten(1).sum(1)
    torch.testing.assert_close(gain, 0.1 * ball.dual(gradient))
    for seed in range(20):
        other = ((ball.extreme(BatchRNG(torch.Generator().manual_seed(seed))) - x) * gradient).flatten(1).sum(1)
        assert (other <= gain + 1e-12).all()


def test_a_point_outside_is_told_and_so_is_nan():
    x = torch.full((3, 1, 4, 4), 0.5)
    ball = L2Ball.around(x, EPS)
    with pytest.raises(RuntimeError, match=r"left its ball: 1 images outside eps=0\.5"):
        ball.check(x + torch.tensor([0, EPS / 4 * 1.0001, 0]).view(3, 1, 1, 1))
    with pytest.raises(RuntimeError, match="left its ball: 3 images"):
        ball.check(x + math.nan)
    with pytest.raises(RuntimeError, match="left its ball: 3 images"):
        ball.check(torch.full_like(x, -1e-3))
    assert len(ball.take(torch.tensor([True, False, True])).x) == 2


@pytest.mark.parametrize("eps", [0, -1, math.nan, math.inf])
def test_a_radius_out_of_range_is_refused(eps):
    with pytest.raises(ValueError, match=r"eps=.* is outside \(0, 100\]: it is an L2 distance"):
        L2Ball.around(uniform(1, 1, 2, 2), eps)
    with pytest.raises(ValueError, match="write 128/255, not 128"):
        L2Ball.around(uniform(1, 1, 2, 2), 128)


def test_the_l2_ball_is_within_the_l_inf_ball_of_its_radius(generator):
    x = uniform(8, 3, 4, 4)
    z = L2Ball.around(x, 0.1).random_start(BatchRNG(generator))
    assert LinfBall.around(x, 0.1).inside(z).all()
