"""Everything that a GPU does, on a simulated one."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from bat_core.attacks import APGD, FGSM, PGD, AutoAttack, Noise, Square, Transfer
from bat_core.attacks.base import Iterate
from bat_core.checkpoint import find_resume_point, load_checkpoint, save_checkpoint
from bat_core.config import DataConfig
from bat_core.data import load_dataset, to_unit
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator, evaluate
from bat_core.fit import TrainState, fit, fit_by_batch
from bat_core.masking.checks import examine
from bat_core.masking.inspection import inspect
from bat_core.models import build_model
from bat_core.recipes import recipe_names
from bat_core.suites import Entry, Suite
from tests.simulated.device import OnGPU, simulated_gpu
from tests.unit import photographs

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
EPS = 40 / 255


@pytest.fixture
def waits(monkeypatch):
    with simulated_gpu(monkeypatch) as counted:
        yield counted


class RowByRow(nn.Module):
    """A network whose logits of an image do not depend on its batch, not even in their last bit."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weights = nn.Parameter(torch.randn((10, 64), generator=generator))

    def forward(self, x):
        return torch.sin(6 * (x.flatten(1)[:, None] * self.weights).sum(2))


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_trains_and_no_update_waits(recipe, waits, make_trial, digits):
    config = make_trial(recipe, params={} if recipe == "Undefended" else {"eps": EPS}, epochs=1)
    updates = fit_by_batch(config, digits, device=GPU)
    next(updates)
    waits.clear()
    next(updates)
    assert not waits
    *_, report = updates
    assert {type(one) for one in report.state.model.state_dict().values()} == {OnGPU}
    assert report.train_loss > 0


def state_of(state):
    tensors = {name: one.cpu() for name, one in state.model.state_dict().items()}
    buffers = state.optimizer.state_dict()["state"]
    return tensors | {f"momentum {number}": one["momentum_buffer"].cpu() for number, one in buffers.items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("batches", [2, 4])
def test_a_trial_resumes_and_goes_on_bit_for_bit(batches, waits, make_trial, digits, tmp_path):
    config = make_trial(epochs=2, batch_size=32)
    events = fit_by_batch(config, digits, device=GPU)
    for _ in range(batches):
        event = next(events)
    if batches == 4:  # of 4: the end of the epoch
        event = next(events).state
    save_checkpoint(tmp_path, event, config, digits)
    *_, whole = events
    state = load_checkpoint(tmp_path, config, digits, GPU)
    assert state.optimizer.defaults["fused"]
    *_, resumed = fit_by_batch(config, digits, state=state, device=GPU)
    assert_same(state_of(whole.state), state_of(resumed.state))


def test_a_checkpoint_goes_from_the_gpu_to_the_cpu_between_epochs(waits, make_trial, digits, tmp_path):
    config = make_trial(epochs=2)
    first = next(fit(config, digits, device=GPU))
    save_checkpoint(tmp_path, first.state, config, digits)
    *_, last = fit(config, digits, state=load_checkpoint(tmp_path, config, digits, CPU))
    assert last.epoch == 2


def partway(config, digits, device, folder, *, batches, first=None):
    """Save a checkpoint after `batches` of an epoch, the second if the state after the `first` is given."""
    events = fit_by_batch(config, digits, state=first, device=device)
    for _ in range(batches):
        state = next(events)
    assert isinstance(state, TrainState)
    return save_checkpoint(folder, state, config, digits)


@pytest.mark.parametrize(("there", "here"), [(GPU, CPU), (CPU, GPU)])
def test_an_epoch_begins_again_on_another_kind_of_device(there, here, waits, make_trial, digits, tmp_path):
    config = make_trial(epochs=2)
    begun = partway(config, digits, there, tmp_path, batches=2)
    assert find_resume_point(tmp_path, config, there).folder == begun
    point = find_resume_point(tmp_path, config, here)
    assert point.folder is None
    assert "another kind of device" in point.passed_over[begun.name]

    state = next(fit(config, digits, device=there)).state
    whole = save_checkpoint(tmp_path, state, config, digits)
    begun = partway(config, digits, there, tmp_path, batches=1, first=load_checkpoint(tmp_path, config, digits, there))
    point = find_resume_point(tmp_path, config, here)
    assert (point.folder, list(point.passed_over)) == (whole, [begun.name])
    *_, last = fit(config, digits, state=point.load(digits, here), device=here)
    assert last.epoch == 2


def test_finished_epochs_are_not_thrown_away_for_another_kind_of_device(waits, make_trial, digits, tmp_path):
    config = make_trial(epochs=2)
    save_checkpoint(tmp_path, next(fit(config, digits, device=GPU)).state, config, digits)
    for batches in (1, 1):
        partway(config, digits, GPU, tmp_path, batches=batches, first=load_checkpoint(tmp_path, config, digits, GPU))
    with pytest.raises(InputError, match="middle of an epoch that began on another kind of device"):
        load_checkpoint(tmp_path, config, digits, CPU)
    assert load_checkpoint(tmp_path, config, digits, GPU).partial.batches == 2


ATTACKS = {
    "fgsm": FGSM(eps=EPS),
    "pgd": PGD(eps=EPS, step_size=EPS / 4, num_steps=20),
    "restarts": PGD(eps=EPS, step_size=EPS / 4, num_steps=5, restarts=3),
    "random": PGD(eps=EPS, step_size=EPS / 4, num_steps=5, target="random"),
    "eot": PGD(eps=EPS, step_size=EPS / 4, num_steps=3, eot=2),
    "apgd-ce": APGD(eps=EPS / 4, num_steps=25),
    "apgd-t": APGD(eps=EPS / 4, num_steps=5, loss="dlr", target="every"),
    "square": Square(eps=EPS, num_steps=40),
    "noise": Noise(eps=EPS, num_steps=25),
}


def attacked(attack, images, labels, device, *, skip_broken=False):
    torch.manual_seed(0)
    entry = Entry(name="attack", attack=attack, steps=() if skip_broken else (1,), skip_broken=skip_broken)
    verdicts = evaluate(RowByRow().to(device), images, labels, attack=Suite(name="one", entries=(entry,)))
    return verdicts.outcomes["attack"]


@pytest.mark.parametrize("skip_broken", [False, True])
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_breaks_the_same_images_at_the_same_steps(name, skip_broken, waits, digits):
    images, labels = digits.test.images[:48], torch.randint(10, (48,), generator=torch.Generator().manual_seed(1))
    labels[:40] = RowByRow()(to_unit(images[:40])).argmax(1)
    on_cpu, on_gpu = (attacked(ATTACKS[name], images, labels, one, skip_broken=skip_broken) for one in (CPU, GPU))
    np.testing.assert_array_equal(on_cpu.broken_at, on_gpu.broken_at)
    np.testing.assert_array_equal(on_cpu.final, on_gpu.final)
    assert (on_cpu.broken_at >= 0).sum() > 0


def waited(attack, waits, digits, *, skip_broken=False, precision="float32"):
    """How often attacking one batch waits."""
    evaluator = Evaluator(RowByRow().to(GPU), precision=precision)
    images, labels = digits.test.images[:16], RowByRow()(to_unit(digits.test.images[:16])).argmax(1)
    verdicts = evaluator.clean(images, labels, torch.arange(16))
    steps = () if skip_broken else (attack.num_steps,)
    evaluator.cycle_problem(images)  # tried once for a model, not for each batch
    waits.clear()
    evaluator.attack(Entry(name="one", attack=attack, steps=steps, skip_broken=skip_broken), images, verdicts)
    return sum(waits.values())


def test_pgd_with_20_steps_waits_at_most_3_times(waits, digits):
    pgd = PGD(eps=1 / 255, step_size=1 / 255, num_steps=20)
    assert waited(pgd, waits, digits) <= 3
    assert waited(pgd, waits, digits, skip_broken=True) <= 6
    x, y = to_unit(digits.test.images[:8]).to(GPU), digits.test.labels[:8].to(GPU)
    model = RowByRow().to(GPU)
    waits.clear()
    pgd(model, x, y, generator=torch.Generator("cuda").manual_seed(0))
    assert sum(waits.values()) <= 2


def test_a_search_in_bfloat16_waits_once_a_step(waits, digits):
    assert waited(PGD(eps=EPS, step_size=EPS / 4, num_steps=20), waits, digits, precision="bfloat16") <= 3 + 21


def test_apgd_t_waits_once_in_many_steps(waits, digits):
    attack = APGD(eps=1 / 255, num_steps=20, loss="dlr", target="every")
    assert waited(attack, waits, digits, skip_broken=True) <= 3 + 9 * 3 + 9 * 21 // 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Strays(PGD):
    """Leaves the ball at one step and comes back."""

    def iterates(self, logits_fn, problem, rng, active):
        for iterate in super().iterates(logits_fn, problem, rng, active):
            yield Iterate(iterate.step, iterate.rows, iterate.x + 0.5 * (iterate.step == 3))


def test_a_point_outside_its_ball_is_found_even_if_later_ones_are_inside(waits, digits):
    attack = Strays(eps=EPS, step_size=EPS / 4, num_steps=20)
    with pytest.raises(RuntimeError, match=r"left its ball: \d+ values outside"):
        attacked(attack, digits.test.images[:4], digits.test.labels[:4], GPU)


def test_adversarial_images_are_those_that_broke_it(waits, digits):
    saved = {}
    for device in (CPU, GPU):
        evaluator = Evaluator(RowByRow().to(device))
        images, labels = digits.test.images[:16], digits.test.labels[:16]
        verdicts = evaluator.clean(images, labels, torch.arange(16))
        entry = Entry(name="one", attack=ATTACKS["apgd-ce"], skip_broken=True)
        evaluator.attack(entry, images, verdicts, save=lambda _, rows, x, device=device: saved.update({device: x}))
    assert torch.equal(saved[CPU], saved[GPU])


def test_the_library_transfer_checks_and_inspection_run(waits, digits):
    torch.manual_seed(0)
    model = build_model("small_cnn_8", num_classes=10, image_shape=(1, 8, 8)).to(GPU).eval()
    images, labels = digits.test.images[:16], digits.test.labels[:16]
    transfer = Transfer(eps=EPS, sources=(model,), crafted_by=PGD(eps=EPS, step_size=EPS / 4, num_steps=2))
    entries = [Entry(name="transfer", attack=transfer, skip_broken=True)]
    entries += [Entry(name=part, attack=AutoAttack(eps=EPS, part=part), skip_broken=True) for part in ("apgd-ce",)]
    verdicts = evaluate(model, images, labels, attack=Suite(name="some", entries=tuple(entries)), batch_size=16)
    assert verdicts.robust_acc <= verdicts.clean_acc
    assert examine(model, images, labels, eps=EPS, depth="cheap").masking_status
    inspect(model, images, labels, num_classes=10)


def test_images_from_files_reach_the_gpu_without_a_wait(waits, make_trial, tmp_path):
    folder = photographs.write_dataset(tmp_path, train=16, val=6)
    dataset = load_dataset("imagenet", folder, image_size=16, val_size=8, data_workers=0)
    config = make_trial(epochs=1, batch_size=8, params={"eps": 8 / 255})
    config = dataclasses.replace(config, data=DataConfig(name="imagenet", val_size=8, image_size=16))
    updates = fit_by_batch(config, dataset, device=GPU)
    next(updates)
    waits.clear()
    next(updates)
    assert not waits
