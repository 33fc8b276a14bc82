import pytest
import torch

from bat_core.attacks import Noise
from bat_core.rng import PerExampleRNG

from .toys import uniform


def never(x):
    raise AssertionError("noise does not look at the model")


def walked(attack, x, *, let_go=()):
    """The images of each step, while the rows `let_go` are cleared after the first."""
    rng = PerExampleRNG(seed=0, names=("t",), indices=range(len(x)))
    active = torch.ones(len(x), dtype=torch.bool)
    found = []
    for iterate in attack.trajectory(never, x, torch.zeros(len(x)).long(), generator=rng, active=active):
        found.append((iterate.rows.tolist(), iterate.x))
        active[list(let_go)] = False
    return found


def test_every_pixel_goes_to_one_end_of_the_ball():
    x = torch.cat([uniform(4, 1, 8, 8), torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)])
    for _, x_adv in walked(Noise(eps=0.2, num_steps=3), x):
        up, down = (x + 0.2).clamp(max=1), (x - 0.2).clamp(min=0)
        assert (((x_adv - up).abs() < 1e-6) | ((x_adv - down).abs() < 1e-6)).all()


def test_up_and_down_are_equally_likely_and_each_pixel_is_drawn_on_its_own():
    x = torch.full((1, 1, 100, 200), 0.5)
    signs = torch.cat([x_adv > x for _, x_adv in walked(Noise(eps=0.1, num_steps=4), x)]).double()
    deviation = 0.5 / 20_000**0.5
    assert ((signs.mean((1, 2, 3)) - 0.5).abs() < 3.3 * deviation).all()  # 99.9 %
    right, below = ((signs == signs.roll(1, axis)).double().mean() - 0.5 for axis in (3, 2))
    assert max(abs(right), abs(below)) < 3.3 * deviation


def test_each_step_and_each_example_draws_anew():
    x = torch.full((3, 1, 4, 4), 0.5)
    images = torch.cat([x_adv for _, x_adv in walked(Noise(eps=0.1, num_steps=5), x)])
    assert len({tuple(image.flatten().tolist()) for image in images}) == 15


def test_examples_that_are_let_go_leave_the_others_noise_as_it_was():
    x = uniform(5, 1, 4, 4)
    attack = Noise(eps=0.1, num_steps=4, restarts=2)
    whole, partial = walked(attack, x), walked(attack, x, let_go=[0, 3])
    assert [rows for rows, _ in partial] == [[0, 1, 2, 3, 4]] + [[1, 2, 4]] * 7
    for (_, everything), (rows, some) in zip(whole, partial, strict=True):
        assert torch.equal(some, everything[rows])


def test_it_ends_when_nothing_stands():
    assert len(walked(Noise(eps=0.1, num_steps=4), uniform(3, 1, 4, 4), let_go=range(3))) == 1


def test_no_noise_at_all_is_refused():
    with pytest.raises(ValueError, match=r"attack\.num_steps=0 must be at least 1"):
        Noise(eps=0.1, num_steps=0)
