import pytest
import torch

from bat_core.attacks import APGD
from bat_core.attacks.apgd import checkpoints
from bat_core.evaluate import evaluate
from bat_core.losses import cross_entropy, cw_margin
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


@pytest.mark.parametrize("loss", ["ce", "dlr"])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("eps", [0.02, 0.05])
def test_from_the_same_start_an_image_falls_where_it_does_to_pyautoattack(loss, seed, eps):
    model, x = small_net(seed=seed), uniform(64, 3, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    peer = autopgd.APGDAttack(model, n_iter=100, eps=eps, loss=loss, device="cpu")
    peer.init_hyperparam(x)
    _, stands, their_best, _ = peer.attack_single_run(x, y, x_init=x)
    iterates = list(APGD(eps=eps, loss=loss, random_start=False).trajectory(model, x, y))
    logits = torch.stack([model(iterate.x).detach() for iterate in iterates])
    ours = (logits.argmax(2) == y).all(0)
    if loss == "dlr":  # it divides by gaps between logits: rounding can send an image down another path
        assert (ours != stands).sum() <= 1
        return
    assert torch.equal(ours, stands)
    best = torch.stack([cross_entropy(one, y) for one in logits]).amax(0)
    torch.testing.assert_close(best, their_best, rtol=1e-9, atol=0)


def standing(robust_digits, attack, seed):
    suite = Suite(name="one", entries=(Entry(name="apgd", attack=attack, drop=True),))
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
        ours += standing(robust_digits, APGD(eps=EPS, loss="ce"), seed).sum()
        peer = autopgd.APGDAttack(robust_digits.model, n_iter=100, eps=EPS, seed=seed, device="cpu")
        theirs += standing_after_peer(robust_digits, peer).sum()
    assert 0 < theirs < 3 * 80
    assert theirs - 3 * 2 <= ours <= theirs + 3 * 1  # of 100 images a seed: the random starts differ


def test_apgd_t_is_as_strong_as_pyautoattacks(robust_digits):
    ours = standing(robust_digits, APGD(eps=EPS, loss="dlr", target="every"), 0)
    peer = autopgd.APGDAttack_targeted(robust_digits.model, n_iter=100, eps=EPS, seed=0, device="cpu")
    theirs = standing_after_peer(robust_digits, peer)
    assert 0 < theirs.sum() < 80
    assert (ours != theirs).sum() <= 2  # of 100 images
    assert ours.sum() <= theirs.sum() + 1


@pytest.mark.parametrize("loss", ["ce", "cw", "dlr"])
@pytest.mark.parametrize("target", [None, "mc"])
def test_it_returns_a_misclassified_point_wherever_it_met_one(loss, target):
    model, x = small_net(), uniform(64, 3, 8, 8, dtype=torch.float64)
    y = model(x).argmax(1)
    attack = APGD(eps=0.02, num_steps=10, loss=loss, target=target)
    iterates = attack.trajectory(model, x, y, generator=torch.Generator().manual_seed(0))
    *met, _ = [(model(iterate.x).argmax(1) != y) for iterate in iterates]
    x_adv = attack(model, x, y, generator=torch.Generator().manual_seed(0))
    fell = torch.stack(met).any(0)
    assert 0 < fell.sum() < 64
    assert (model(x_adv).argmax(1) != y)[fell].all()


def test_scaled_logits_hide_a_gradient_from_cross_entropy_and_not_from_dlr(robust_digits):
    model, x, y = robust_digits

    def stand(loss, scale):
        x_adv = APGD(eps=EPS, num_steps=20, loss=loss, random_start=False)(lambda z: scale * model(z), x, y)
        return (model(x_adv).argmax(1) == y).sum()

    assert stand("ce", 1e4) > stand("ce", 1) + 20
    assert abs(stand("dlr", 1e4) - stand("dlr", 1)) <= 1
