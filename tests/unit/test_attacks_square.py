import pytest
import torch
from torch import nn

from bat_core.attacks import APGD, PGD, Square
from bat_core.attacks.square import square_side
from bat_core.evaluate import evaluate
from bat_core.losses import cw_margin
from bat_core.rng import PerExampleRNG
from bat_core.suites import Entry, Suite

from .toys import classes, small_net, uniform

library = pytest.importorskip("pyautoattack.square")
EPS = 40 / 255


def rng(count):
    return PerExampleRNG(seed=0, names=("t",), indices=range(count))


@pytest.mark.parametrize(
    ("query", "halvings"),
    [(0, 0), (9, 0), (30, 1), (120, 2), (300, 3), (700, 4), (1500, 5), (3000, 6), (5000, 7), (7000, 8), (9000, 9)],
)
def test_the_area_of_the_squares_halves_on_the_papers_schedule(query, halvings):
    area = 0.8 / 2**halvings
    assert library.SquareAttack(None, eps=0.1, resc_schedule=False).p_selection(query) == area
    for height, width in ((32, 32), (28, 20)):
        assert square_side(0.8, query, height, width) == min(max(round((area * height * width) ** 0.5), 1), width)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (9, 2)])
def test_a_square_fits_into_any_image(height, width):
    assert all(1 <= square_side(1.0, query, height, width) <= min(height, width) for query in (0, 600, 10_000))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 1), (2, 3, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_pixel_of_each_candidate_is_at_the_rim_of_the_ball(shape, dtype):
    x = 0.2 + 0.6 * uniform(5, *shape, dtype=dtype)
    for iterate in Square(eps=0.1, num_steps=40).trajectory(lambda z: z.flatten(2).mean(2), x, torch.zeros(5).long()):
        torch.testing.assert_close((iterate.x - x).abs(), torch.full_like(x, 0.1), rtol=0, atol=1e-6)
        assert iterate.x.dtype == dtype


def test_it_takes_images_in_half_precision():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).bfloat16()
    x = uniform(2, 1, 4, 4).bfloat16()
    assert Square(eps=0.1, num_steps=5)(model, x, torch.tensor([0, 1])).dtype == torch.bfloat16


def test_a_candidate_is_the_best_so_far_with_one_square_of_one_sign_a_channel():
    model, x, y = small_net(), 0.2 + 0.6 * uniform(6, 3, 8, 8, dtype=torch.float64), classes(6, 5)
    attack = Square(eps=0.1, num_steps=60)
    best, best_value, colours = None, None, []
    for iterate in attack.trajectory(model, x, y, generator=rng(6)):
        value = cw_margin(model(iterate.x), y)
        if best is None:
            best, best_value = iterate.x, value
            continue
        side = square_side(0.8, iterate.step - 1, 8, 8)
        for new, old, clean in zip(iterate.x, best, x, strict=True):
            rows, columns = ((new != old).any(0).any(axis).nonzero().flatten() for axis in (1, 0))
            if len(rows) == 0:  # the signs were there already
                continue
            assert max(rows.max() - rows.min(), columns.max() - columns.min()) < side
            inside = (new - clean)[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].sign().flatten(1)
            assert (inside == inside[:, :1]).all()
            colours.append(tuple(inside[:, 0].tolist()))
        better = value > best_value
        best = torch.where(better[:, None, None, None], iterate.x, best)
        best_value = torch.where(better, value, best_value)
    assert len(colours) > 100
    assert len(set(colours)) == 2**3


def test_it_begins_with_vertical_stripes():
    x = torch.full((4, 3, 8, 8), 0.5)
    first = next(Square(eps=0.1).trajectory(lambda z: z.flatten(2).mean(2), x, torch.zeros(4).long()))
    assert torch.equal(first.x, first.x[:, :, :1].expand_as(x))
    assert 0.3 < (first.x > x).float().mean() < 0.7


def test_it_returns_the_point_of_the_largest_margin():
    model, x, y = small_net(), uniform(12, 3, 8, 8, dtype=torch.float64), classes(12, 5)
    attack = Square(eps=0.05, num_steps=50)
    met = [cw_margin(model(point.x), y) for point in attack.trajectory(model, x, y, generator=rng(12))]
    assert len(met) == 51
    torch.testing.assert_close(cw_margin(model(attack(model, x, y, generator=rng(12))), y), torch.stack(met).amax(0))


class NoGradient(nn.Module):
    """Refuses to be differentiated."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        return self.model(x)


def test_it_never_asks_for_a_gradient():
    model, x, y = NoGradient(small_net()), uniform(4, 3, 8, 8, dtype=torch.float64), classes(4, 5)
    for _ in Square(eps=0.05, num_steps=5).trajectory(model, x, y):
        assert torch.is_grad_enabled()  # in the caller's own code, meanwhile
    with pytest.raises(AssertionError):
        PGD(eps=0.05, step_size=0.02, num_steps=1)(model, x, y)


def active(robust_digits, attack, *, model=None, seed=0):
    suite = Suite(name="one", entries=(Entry(name="one", attack=attack, skip_broken=True),))
    verdicts = evaluate(
        model or robust_digits.model, robust_digits.images, robust_digits.labels, attack=suite, seed=seed
    )
    return int(verdicts.robust_correct.sum())


class Quantised(nn.Module):
    """Nine levels of ink: its gradient is zero everywhere."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model((x * 8).round() / 8)


def test_it_breaks_a_model_whose_gradient_is_zero(robust_digits):
    model = Quantised(robust_digits.model)
    blind = active(robust_digits, APGD(eps=EPS, num_steps=20), model=model)
    assert active(robust_digits, Square(eps=EPS, num_steps=300), model=model) < blind - 15


class EveryPlace(library.SquareAttack):
    """The library's squares never touch the last row or column, which matters on 8x8 images."""

    def random_int(self, low=0, high=1, shape=(1,)):
        return super().random_int(low, high + 1, shape)


def test_it_is_as_strong_as_pyautoattacks_at_as_many_queries(robust_digits):
    model, images, labels = robust_digits
    ours, theirs = 0, 0
    for seed in range(3):
        ours += active(robust_digits, Square(eps=EPS, num_steps=300), seed=seed)
        peer = EveryPlace(model, n_queries=300, eps=EPS, seed=seed, device="cpu", resc_schedule=False)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            theirs += int((model(peer.perturb(images, labels)).argmax(1) == labels).sum())
    assert abs(ours - theirs) <= 3 * 3  # of 100 images a seed: the squares differ


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_steps": 0}, r"attack\.num_steps=0 must be at least 1"),
        ({"area": 1.5}, r"attack\.area=1\.5 is outside \(0, 1\]"),
        ({"loss": "cv"}, "unknown loss 'cv'"),
    ],
)
def test_settings_outside_their_range(changes, message):
    with pytest.raises(ValueError, match=message):
        Square(eps=0.1, **changes)
