import logging
import sys
from importlib.metadata import version

import pytest
import torch

from bat_core.attacks import AutoAttack
from bat_core.attacks.autoattack import PARTS
from bat_core.errors import InputError
from bat_core.evaluate import evaluate
from bat_core.rng import PerExampleRNG
from bat_core.suites import Entry, Suite, get_suite
from bat_core.verdicts import SKIPPED

from .toys import Linear, normal, uniform

pytestmark = pytest.mark.slow

library = pytest.importorskip("pyautoattack")
EPS = 40 / 255
COUNT = 20


@pytest.fixture(scope="module")
def judged(robust_digits):
    """Verdicts of the suite `standard`, and whether torch's own randomness was left alone."""
    model, images, labels = robust_digits
    before = torch.random.get_rng_state()
    verdicts = evaluate(model, images[:COUNT], labels[:COUNT], attack=get_suite("standard", eps=EPS))
    return verdicts, torch.equal(torch.random.get_rng_state(), before)


def test_the_suite_says_what_the_library_says(judged, robust_digits):
    verdicts, _ = judged
    model, images, labels = (robust_digits.model, robust_digits.images[:COUNT], robust_digits.labels[:COUNT])
    with torch.random.fork_rng(devices=[]):
        peer = library.AutoAttack(model, eps=EPS, norm="Linf", seed=0, version="standard", device="cpu")
        x_adv, _ = peer.run_standard_evaluation(images, labels, batch_size=COUNT)
    with torch.no_grad():
        theirs = (model(x_adv).argmax(1) == labels).sum()
    assert 0 < theirs < COUNT
    assert abs(verdicts.robust_correct.sum() - theirs) <= 1  # of 20 images: the random starts differ


def test_each_part_attacks_what_the_parts_before_left_standing(judged):
    verdicts, _ = judged
    assert tuple(verdicts.outcomes) == PARTS
    for number, outcome in enumerate(verdicts.outcomes.values()):
        fallen = verdicts.clean_correct & ~verdicts.robust_after(number)
        assert ((outcome.broken_at == SKIPPED) == fallen).all()
    assert (verdicts.outcomes["square"].broken_at == SKIPPED).any()


def test_torchs_own_randomness_is_left_alone(judged):
    assert judged[1]


def small(num_classes=5):
    x = uniform(6, 3, 6, 6)
    model = Linear(0.2 * normal(num_classes, 108))
    return model, x, model(x).argmax(1)


def rng(seed=0):
    return PerExampleRNG(seed=seed, names=("t",), indices=range(6))


@pytest.mark.parametrize("part", ["apgd-ce", "apgd-t", "fab-t"])
def test_a_part_is_the_librarys_with_every_wrong_class_for_a_target(part):
    model, x, y = small()
    seed = int(rng().integers(2**31 - 1, y)[0])
    peer = library.AutoAttack(model, eps=0.02, norm="Linf", seed=seed, version="standard", device="cpu")
    peer.attacks_to_run = [part]
    peer.apgd_targeted.n_target_classes = peer.fab.n_target_classes = 4
    with torch.random.fork_rng(devices=[]):
        theirs, _ = peer.run_standard_evaluation(x, y, batch_size=6)
    ours = AutoAttack(eps=0.02, part=part)(model, x, y, generator=rng())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert (model(ours).argmax(1) != y).any()
    assert (ours - x).abs().max().item() <= 0.02


def test_a_single_image_will_do():
    model, x, y = small()
    suite = Suite(name="one", entries=(Entry(name="ce", attack=AutoAttack(eps=0.02), skip_broken=True),))
    for row in range(6):
        verdicts = evaluate(model, x[row : row + 1], y[row : row + 1], attack=suite, rows=torch.tensor([row]))
        assert len(verdicts) == 1


def test_a_model_in_float64_is_attacked_too():
    model, x, y = small()
    AutoAttack(eps=0.02)(model.double(), x.double(), y)


def test_a_missing_package_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    model, x, y = small()
    with pytest.raises(InputError, match=r"pip install .bat-sweeps\[autoattack\]., or use suite quick$") as caught:
        AutoAttack(eps=0.02)(model, x, y)
    assert "\n" not in str(caught.value)


def test_the_version_that_is_named_is_the_one_required():
    assert version("pyautoattack") == "0.2.0"


@pytest.mark.parametrize("num_classes", [2, 3])
def test_fewer_than_four_classes_are_refused_where_the_loss_compares_four(num_classes):
    model, x, y = small(num_classes)
    with pytest.raises(InputError, match=rf"AutoAttack's apgd-t needs 4 classes, the model has {num_classes}"):
        AutoAttack(eps=0.02, part="apgd-t")(model, x, y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part": "apgd"}, r"unknown attack\.part 'apgd'; did you mean 'apgd-t'\?"),
        ({"restarts": 5}, r"attack\.restarts=5 must be 1: AutoAttack's standard version does not restart"),
        ({"target": "mc"}, r"attack\.target='mc': AutoAttack takes no target"),
    ],
)
def test_settings_that_the_standard_version_does_not_have(changes, message):
    with pytest.raises(InputError, match=message):
        AutoAttack(eps=0.1, **changes)


def test_its_warnings_are_left_to_the_checks_and_its_logger_as_it_was(caplog):
    logger = logging.getLogger("auto-attack")
    logger.setLevel(logging.WARNING)
    model, x, y = small()
    AutoAttack(eps=0.02)(lambda z: model(z).softmax(1), x, y)  # probabilities, which the library warns of
    assert caplog.records == []
    assert logger.level == logging.WARNING
