import dataclasses

import numpy as np
import pytest
import torch

from bat_core.attacks import pgd
from bat_core.checkpoint import load_checkpoint, save_checkpoint
from bat_core.data import to_unit
from bat_core.evaluate import evaluate
from bat_core.fit import TrainState, fit, fit_by_batch
from bat_core.masking.checks import examine
from bat_core.rng import PerExampleRNG
from bat_core.suites import get_suite

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")

CUDA = torch.device("cuda")


@pytest.fixture(scope="module")
def results():
    """Models trained once for the module, by precision."""
    return {}


@pytest.fixture
def trained(results, make_trial, digits):
    def train(precision):
        config = make_trial(params={"eps": 10 / 255}, epochs=20, batch_size=16, precision=precision)
        if precision not in results:
            results[precision] = list(fit(config, digits, device=CUDA))
        return config, results[precision]

    return train


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_digits_are_learnt_on_the_gpu(precision, trained):
    _, reports = trained(precision)
    assert reports[-1].train_loss < reports[0].train_loss
    assert reports[-1].val_clean_acc > 0.5
    model = reports[-1].state.model
    assert {parameter.device.type for parameter in model.parameters()} == {"cuda"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_verdicts_agree_whether_searched_in_bfloat16_or_float32(trained, digits):
    config, reports = trained("float32")
    model, test = reports[-1].state.model, digits.test
    attack = dataclasses.replace(config.attack, steps=(1, 5, 10))
    searched = {
        precision: evaluate(model, test.images, test.labels, attack=attack, precision=precision)
        for precision in ("float32", "bfloat16")
    }
    np.testing.assert_array_equal(searched["float32"].clean_correct, searched["bfloat16"].clean_correct)
    differing = (searched["float32"].robust_correct != searched["bfloat16"].robust_correct).sum()
    assert differing <= 1  # of 64


def test_verdicts_agree_with_the_cpus(trained, digits):
    config, reports = trained("float32")
    model, test = reports[-1].state.model, digits.test
    on_gpu = evaluate(model, test.images, test.labels, attack=config.attack)
    on_cpu = evaluate(model.cpu(), test.images, test.labels, attack=config.attack)
    model.to(CUDA)
    np.testing.assert_array_equal(on_gpu.clean_correct, on_cpu.clean_correct)
    assert (on_gpu.robust_correct != on_cpu.robust_correct).sum() <= 1


@pytest.mark.parametrize("name", ["quick", "standard"])
def test_a_verified_suite_agrees_with_the_cpus(name, trained, digits):
    config, reports = trained("float32")
    model, test = reports[-1].state.model, digits.test.take(slice(16))
    suite = get_suite(name, eps=config.attack.eps)
    on_gpu = evaluate(model, test.images, test.labels, attack=suite)
    on_cpu = evaluate(model.cpu(), test.images, test.labels, attack=suite)
    model.to(CUDA)
    assert (on_gpu.robust_correct != on_cpu.robust_correct).sum() <= 1


def test_a_model_is_examined_on_the_gpu(trained, digits):
    config, reports = trained("float32")
    findings = examine(reports[-1].state.model, digits.val.images, digits.val.labels, eps=config.attack.eps)
    assert findings.masking_status == "clear"


def test_a_batch_that_does_not_fit_on_the_gpu_is_halved(trained, digits):
    class Hungry(torch.nn.Module):
        """Takes a twentieth of the card's memory for every image."""

        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            memory = torch.cuda.get_device_properties(x.device).total_memory
            torch.empty(len(x) * memory // 20, dtype=torch.uint8, device=x.device)
            return self.model(x)

    config, reports = trained("float32")
    model, test = reports[-1].state.model, digits.test
    plain = evaluate(model, test.images, test.labels, attack=config.attack)
    hungry = evaluate(Hungry(model), test.images, test.labels, attack=config.attack, batch_size=64)
    np.testing.assert_array_equal(plain.robust_correct, hungry.robust_correct)


def test_attacks_stay_in_the_ball_on_the_gpu(trained, digits):
    _, reports = trained("float32")
    model = reports[-1].state.model.eval()
    x, y = to_unit(digits.test.images).to(CUDA), digits.test.labels.to(CUDA)
    generators = (torch.Generator(CUDA), torch.Generator(), PerExampleRNG(seed=0, names=("t",), indices=range(64)))
    for generator in generators:
        for target in (None, "mc", "random"):
            x_adv = pgd(
                model, x, y, eps=8 / 255, step_size=2 / 255, num_steps=3, target=target, generator=generator
            )  # fmt: skip
            assert x_adv.is_cuda
            assert (x_adv.double() - x.double()).abs().max().item() <= 8 / 255
            assert x_adv.min() >= 0
            assert x_adv.max() <= 1


def test_a_checkpoint_goes_from_and_to_the_gpu(trained, digits, tmp_path):
    config, reports = trained("float32")
    state = reports[-1].state
    save_checkpoint(tmp_path, state, config, digits)
    loaded = load_checkpoint(tmp_path, config, digits, CUDA)
    for name, tensor in loaded.model.state_dict().items():
        assert tensor.is_cuda
        assert torch.equal(tensor, state.model.state_dict()[name])


@pytest.mark.parametrize("recipe", ["Undefended", "R-MC-LA", "R-MC-LA-5F", "Madry"])
def test_a_training_step_never_waits_for_the_gpu(recipe, make_trial, digits):
    params = {} if recipe == "Undefended" else {"eps": 10 / 255}
    config = make_trial(recipe, params=params, epochs=1, batch_size=16)
    updates = fit_by_batch(config, digits, device=CUDA)
    for _ in range(3):
        assert isinstance(next(updates), TrainState)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert isinstance(next(updates), TrainState)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_compiled_network_learns_the_same(make_trial, digits):
    losses = {}
    for choice in ("off", "on", "graphs"):
        config = make_trial(params={"eps": 10 / 255}, epochs=1, batch_size=16, compile=choice)
        (report,) = fit(config, digits, device=CUDA)
        losses[choice] = report.train_loss
    for choice in ("on", "graphs"):
        assert losses[choice] == pytest.approx(losses["off"], rel=0.05)
