import copy
import dataclasses
import math
import shutil

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import bat_core.fit
from bat_core.data import Augmentation, Dataset, Split
from bat_core.fit import TrainState, batches_per_epoch, fit, fit_by_batch, initial_state
from bat_core.recipes import Recipe, get_recipe
from bat_core.schedule import learning_rate
from bat_core.workers import Workers

CPU = torch.device("cpu")


def weights(state):
    return {name: tensor.clone() for name, tensor in state.model.state_dict().items()}


def trained(config, dataset, **settings):
    *_, last = fit(config, dataset, **settings)
    return weights(last.state)


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_weights_and_another_others(make_trial, digits):
    one = trained(make_trial(epochs=1), digits)
    assert same(one, trained(make_trial(epochs=1), digits))
    assert not same(one, trained(make_trial(epochs=1, seed=1), digits))


def test_fitting_leaves_torchs_own_randomness_alone(make_trial, digits):
    before = torch.random.get_rng_state()
    trained(make_trial(epochs=1), digits)
    assert torch.equal(torch.random.get_rng_state(), before)


def stripes(count):
    """Class k of 8 is bright in row k and dark elsewhere: any sum of gradient steps from zero separates them."""
    labels = torch.arange(count) % 8
    images = torch.full((count, 1, 8, 8), 20, dtype=torch.uint8)
    images[torch.arange(count), 0, labels] = 230
    return Split.of(images, labels)


def linear_state(config):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=config.train.lr))


@pytest.mark.parametrize(("recipe", "params"), [("Undefended", {}), ("R-MC-LA", {"eps": 10 / 255})])
def test_what_a_linear_network_can_separate_is_learnt(recipe, params, make_trial):
    """The loss is convex and the margin wide, so that no rounding decides the outcome."""
    parts = {"train": stripes(128), "val": stripes(32), "test": stripes(8)}
    dataset = Dataset(
        name="stripes", class_names=tuple("01234567"), pixel=1 / 255, augmentation=Augmentation(), **parts
    )
    config = make_trial(recipe, params=params, epochs=10, batch_size=64)
    reports = list(fit(config, dataset, state=linear_state(config)))
    assert [report.epoch for report in reports] == list(range(1, 11))
    assert reports[-1].train_loss < reports[0].train_loss
    assert (reports[-1].train_acc, reports[-1].val_clean_acc) == (1, 1)
    assert all(0 <= report.val_robust_acc <= report.val_clean_acc for report in reports)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_takes_the_same_steps_and_the_next_trial_compiles_nothing(make_trial, digits):
    def taken(**changes):
        config = make_trial("R-MC-LA", params={"eps": 10 / 255}, batch_size=32, **changes)
        steps = (event for event in fit_by_batch(config, digits) if isinstance(event, TrainState))
        return [weights(next(steps)) for _ in range(4)]

    for seed in (0, 1):
        before = counters["stats"]["unique_graphs"]
        for plain, compiled in zip(taken(seed=seed), taken(seed=seed, compile="on"), strict=True):
            torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-5)
        assert (counters["stats"]["unique_graphs"] > before) == (seed == 0)


class Spy(nn.Module):
    """Around a model: what passed through it, in which mode, with which norm statistics before and after."""

    def __init__(self, model):
        super().__init__()
        self.model, self.log = model, []

    def forward(self, x):
        before = self._statistics()
        logits = self.model(x)
        changed = not all(torch.equal(a, b) for a, b in zip(before, self._statistics(), strict=True))
        self.log.append((x.detach().clone(), self.training, changed))
        return logits

    def _statistics(self):
        return [buffer.clone() for buffer in self.model.buffers()]


@pytest.fixture
def spied(monkeypatch, make_trial, digits):
    """Two epochs of R-MC-LA: the passes of the first one's updates, and what was crafted in both."""
    crafted = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Watched(Recipe):
        def craft(self, logits_fn, x, y, rng):
            x_adv, label = super().craft(logits_fn, x, y, rng)
            crafted.append((x, x_adv, label))
            return x_adv, label

    real = get_recipe("R-MC-LA", eps=40 / 255)
    monkeypatch.setattr(bat_core.fit, "get_recipe", lambda *_, **__: Watched(attack=real.attack, label=real.label))
    config = make_trial(epochs=2)
    state = initial_state(config, digits, CPU)
    state.model = Spy(state.model)
    list(fit(config, digits, state=state))
    updates = len(digits.train) // config.train.batch_size
    return state.model.log[: 3 * updates], crafted, updates


def test_an_update_of_r_mc_la_is_three_passes(spied):
    log, crafted, updates = spied
    assert len(crafted) == 2 * updates
    assert [training for _, training, _ in log] == [False, False, True] * updates


def test_crafting_does_not_touch_batch_norms_statistics_and_the_update_does(spied):
    log, _, updates = spied
    assert [changed for _, _, changed in log] == [False, False, True] * updates


def test_the_update_sees_the_attacked_images_alone(spied):
    log, crafted, updates = spied
    for update in range(updates):
        clean, start, trained_on = (log[3 * update + position][0] for position in range(3))
        x, x_adv, label = crafted[update]
        assert torch.equal(clean, x)
        assert torch.equal(trained_on, x_adv)
        assert not torch.equal(x_adv, x)
        assert (start - x).abs().max() <= 40 / 255
        assert label.dtype == torch.float32
        assert not label.requires_grad


def test_each_image_is_met_once_an_epoch_in_an_order_of_its_own(spied, digits):
    _, crafted, updates = spied
    first, second = (
        [(image * 255).round().byte().numpy().tobytes() for x, _, _ in epoch for image in x]
        for epoch in (crafted[:updates], crafted[updates:])
    )
    assert sorted(first) == sorted(second) == sorted(image.numpy().tobytes() for image in digits.train.images)
    assert first != second


def test_what_a_caller_does_to_the_mode_between_epochs_changes_nothing(make_trial, digits):
    config = make_trial(epochs=2)
    state = initial_state(config, digits, CPU)
    state.model.eval()
    for report in fit(config, digits, state=state):
        report.state.model.eval()
    assert same(weights(state), trained(config, digits))


def test_test_images_are_not_looked_at(make_trial, digits):
    blind = dataclasses.replace(digits, test=digits.test.take(slice(0)))
    assert same(trained(make_trial(epochs=1), digits), trained(make_trial(epochs=1), blind))


def test_one_step_of_sgd_is_computed_by_hand(make_trial, digits):
    config = make_trial("Undefended", epochs=1, batch_size=128, schedule="cosine", weight_decay=0.1, lr=0.05, params={})
    state = initial_state(config, digits, CPU)
    copied = copy.deepcopy(state.model).train()
    loss = nn.functional.cross_entropy(copied(digits.train.images / 255), digits.train.labels)
    loss.backward()
    list(fit(config, digits, state=state))
    for before, after in zip(copied.parameters(), state.model.parameters(), strict=True):
        decay = 0.1 * before if before.ndim > 1 else 0
        torch.testing.assert_close(after, before - 0.05 * (before.grad + decay), rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", ["small_cnn_8", "small_cnn_gn_8", "preact_resnet18", "wrn_10_1"])
def test_weight_decay_is_for_convolution_and_linear_weights_alone(model, make_trial, digits):
    state = initial_state(make_trial(model=model), digits, CPU)
    decay = {
        id(parameter): group["weight_decay"] for group in state.optimizer.param_groups for parameter in group["params"]
    }
    for module in state.model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            decayed = isinstance(module, nn.Conv2d | nn.Linear) and name == "weight"
            assert decay[id(parameter)] == (2e-4 if decayed else 0)
    assert len(decay) == len(list(state.model.parameters()))


@pytest.mark.parametrize("schedule", ["one_cycle", "multi_step", "cosine"])
def test_the_rate_reported_is_the_last_updates(schedule, make_trial, digits):
    config = make_trial(epochs=2, schedule=schedule)
    expected = [learning_rate(config.train, 3 / 8), learning_rate(config.train, 7 / 8)]
    assert [report.lr for report in fit(config, digits)] == pytest.approx(expected, rel=1e-12)


def test_a_loss_that_is_no_number_stops_training(make_trial, digits):
    config = make_trial(epochs=1)
    state = initial_state(config, digits, CPU)
    with torch.no_grad():
        next(state.model.parameters())[0] = math.nan
    with pytest.raises(FloatingPointError, match="the training loss is nan in epoch 1"):
        list(fit(config, digits, state=state))


def test_a_batch_larger_than_the_data_is_refused(make_trial, digits):
    with pytest.raises(ValueError, match=r"train\.batch_size=129 is larger than the 128 training images"):
        next(fit(make_trial(batch_size=129), digits))


def test_a_batch_that_workers_cannot_share_is_refused(make_trial):
    with pytest.raises(ValueError, match=r"train\.batch_size=32 must be a multiple of the number of workers, 3"):
        batches_per_epoch(make_trial(), 128, Workers(0, 3))
    assert batches_per_epoch(make_trial(), 127, Workers(0, 2)) == 3
