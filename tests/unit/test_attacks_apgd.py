from dataclasses import replace

import pytest
import torch

from bat_core.attacks import APGD
from bat_core.attacks.apgd import checkpoints
from bat_core.evaluate import evaluate
from bat_core.losses import cw_margin, get_loss
from bat_core.suites import Entry, Suite

from .toys import Linear, classes, normal, small_net, uniform

autopgd = pytest.importorskip("pyautoattack.autopgd_base")
EPS = 40 / 255


def test_steps_are_reviewed_when_the_paper_says():
    assert checkpoints(100) == {22, 41, 57, 70, 80, 87, 93, 99}


@pytest.mark.parametrize("num_steps", [1, 2, 5, 10, 20, 33, 50, 150, 1000])
def test_steps_are_reviewed_when_pyautoattack_does(num_steps):
    peer = autopgd.APGDAttack(None, n_iter=num_steps, eps=0.1)
    reviewed, period = [peer.n_iter_2], peer.n_iter_2
    while reviewed[-1] < num_steps:
        period = max(period - peer.size_decr, peer.n_iter_min)
        reviewed.append(reviewed[-1] + period)
    assert checkpoints(num_steps) == {step for step in reviewed if step < num_steps}


@pytest.mark.parametrize("loss", ["ce", "cw"])
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("target", [None, "mc", "every"])
def test_on_a_linear_model_it_reaches_the_largest_margin_there_is(loss, random_start, target, generator):
    weight, eps = 0.1 * normal(2, 48, dtype=torch.float64), 0.3
    model, x, y = Linear(weight), uniform(20, 3, 4, 4, dtype=torch.float64), classes(20, 2)
    uphill = (weight[1 - y] - weight[y]).sign().view_as(x)
    corner = (x + eps * uphill).clamp(0, 1)
    attack = APGD(eps=eps, num_steps=5, loss=loss, random_start=random_start, target=target)
    *_, last = attack.trajectory(model, x, y, generator=generator)
    torch.testing.assert_close(cw_margin(model(last.x), y), cw_margin(model(corner), y), rtol=0, atol=1e-12)


class Peer(autopgd.APGDAttack):
    """pyautoattack's, but that a period is stalled below 75 % of rising steps, as the paper has it, and not at 75 %."""

    def check_oscillation(self, x, j, k, y5, k3=0.75):
        rises = sum((x[j - back] > x[j - back - 1]).float() for back in range(k))
        return (rises < k * k3).float()


def both(model, *, eps, loss):
    """Best objective of 64 images and which still stand, by our search and by pyautoattack's from the same start."""
    x = uniform(64, 3, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    peer = Peer(model, n_iter=100, eps=eps, loss=loss, device="cpu")
    peer.init_hyperparam(x)
    _, their_standing, their_best, _ = peer.attack_single_run(x, y, x_init=x)
    points = APGD(eps=eps, loss=loss, random_start=False).trajectory(model, x, y)
    logits = torch.stack([model(point.x).detach() for point in points])
    best = torch.stack([get_loss(loss)(one, y) for one in logits]).amax(0)
    return best, their_best, (logits.argmax(2) == y).all(0), their_standing


@pytest.mark.parametrize("seed", [0, 1])
def test_from_the_same_start_its_path_is_pyautoattacks(seed):
    net = small_net(seed=seed)
    best, their_best, _, _ = both(lambda z: net(30 * (z - 0.5)), eps=0.05, loss="ce")  # a landscape full of hills
    agree = (best - their_best).abs() <= 1e-6 * their_best
    assert agree.sum() >= 62  # of 64: it compares losses in float32, which sends a few down another path


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("seed", [0, 1])
def test_from_the_same_start_an_image_falls_where_it_does_to_pyautoattack(loss, seed):
    _, _, active, their_standing = both(small_net(seed=seed), eps=0.02, loss=loss)
    assert 0 < their_standing.sum() < 64
    assert (active != their_standing).sum() <= 1


class Scripted:
    """One pixel; its k-th pass has a margin of `margins[k]` and a gradient of the sign `signs[k]`."""

    def __init__(self, margins, signs):
        self.margins, self.signs, self.passes = margins, signs, 0

    def __call__(self, x):
        margin = self.margins[self.passes] + 1e-9 * self.signs[self.passes] * x.flatten(1)
        self.passes += 1
        return torch.cat([torch.zeros_like(margin), margin], dim=1)


GREY, ZERO = torch.full((1, 1, 1, 1), 0.5, dtype=torch.float64), torch.tensor([0])
ONE = APGD(eps=0.1, loss="cw", random_start=False)
UP = range(100)


@pytest.mark.parametrize(
    ("margins", "signs", "checkpoint"),
    [
        pytest.param([-9, 5, *(-step for step in UP)], [-1] + [1] * 100, 22, id="it rose in too few steps"),
        pytest.param(
            [*(step for step in range(23)), *(step - 99 for step in UP)], [-1] * 22 + [1] * 100, 41, id="no new best"
        ),
    ],
)
def test_an_example_that_has_stalled_goes_back_to_its_best_with_half_the_step(margins, signs, checkpoint):
    points = [point.x.item() for point in ONE.trajectory(Scripted(margins, signs), GREY, ZERO)]
    best = points[margins.index(max(margins[: checkpoint + 1]))]
    assert best == pytest.approx(0.4)
    assert points[checkpoint - 1 : checkpoint + 1] == pytest.approx([0.6, 0.6])
    assert points[checkpoint + 1] == pytest.approx(best + 0.75 * 0.1 + 0.25 * (best - 0.6))  # 0.1 is half of 2 eps


def test_an_example_that_gets_better_goes_on():
    points = [point.x.item() for point in ONE.trajectory(Scripted([*UP, 0], [1] * 101), GREY, ZERO)]
    assert points == pytest.approx([0.5] + [0.6] * 100)


def test_it_returns_the_first_point_that_was_misclassified():
    margins, signs = [-1, -1, -1, 2, -1, -1, -1, 1, -1], [1, 1, 1] + [-1] * 6
    attack = replace(ONE, num_steps=8)
    points = [point.x for point in attack.trajectory(Scripted(margins, signs), GREY, ZERO)]
    assert points[3] not in {points[7], points[8]}
    assert attack(Scripted(margins, signs), GREY, ZERO) == points[3]


def active(robust_digits, attack, seed):
    suite = Suite(name="one", entries=(Entry(name="apgd", attack=attack, skip_broken=True),))
    model, images, labels = robust_digits
    return torch.from_numpy(evaluate(model, images, labels, attack=suite, seed=seed).robust_correct)


def standing_after_peer(robust_digits, peer):
    model, images, labels = robust_digits
    with torch.random.fork_rng(devices=[]):
        x_adv = peer.perturb(images, labels)
    assert (x_adv - images).abs().max() <= EPS + 1e-6
    with torch.no_grad():
        return model(x_adv).argmax(1) == labels


def test_apgd_ce_is_as_strong_as_pyautoattacks(robust_digits):
    ours, theirs = 0, 0
    for seed in range(3):
        ours += active(robust_digits, APGD(eps=EPS, loss="ce"), seed).sum()
        peer = autopgd.APGDAttack(robust_digits.model, n_iter=100, eps=EPS, seed=seed, device="cpu")
        theirs += standing_after_peer(robust_digits, peer).sum()
    assert 0 < theirs < 3 * 80
    assert theirs - 3 * 2 <= ours <= theirs + 3 * 1  # of 100 images a seed: the random starts differ


def test_apgd_t_is_as_strong_as_pyautoattacks(robust_digits):
    ours = active(robust_digits, APGD(eps=EPS, loss="dlr", target="every"), 0)
    peer = autopgd.APGDAttack_targeted(robust_digits.model, n_iter=100, eps=EPS, seed=0, device="cpu")
    theirs = standing_after_peer(robust_digits, peer)
    assert 0 < theirs.sum() < 80
    assert (ours != theirs).sum() <= 2  # of 100 images
    assert ours.sum() <= theirs.sum() + 1


def test_scaled_logits_hide_a_gradient_from_cross_entropy_and_not_from_dlr(robust_digits):
    model, x, y = robust_digits

    def stand(loss, scale):
        x_adv = APGD(eps=EPS, num_steps=20, loss=loss, random_start=False)(lambda z: scale * model(z), x, y)
        return (model(x_adv).argmax(1) == y).sum()

    assert stand("ce", 1e4) > stand("ce", 1) + 20
    assert abs(stand("dlr", 1e4) - stand("dlr", 1)) <= 1
