"""A model that the last update of an epoch destroyed: the loss was finite, and the trial has failed all the same."""

import math

import pytest
import torch

import bat_core.fit
from bat_core.divergence import check_answers, check_loss, check_weights
from bat_core.fit import fit, initial_state

CPU = torch.device("cpu")


def destroyed(monkeypatch, config, digits, harm):
    """Training in which `harm` is done to the model after the last update."""
    state = initial_state(config, digits, CPU)
    step = state.optimizer.step

    def step_and_harm():
        step()
        with torch.no_grad():
            harm(state.model)

    monkeypatch.setattr(state.optimizer, "step", step_and_harm)
    return list(fit(config, digits, state=state))


def weight(value):
    return lambda model: next(model.parameters()).view(-1)[:1].fill_(value)


def buffer(value):
    def harm(model):
        next(tensor for name, tensor in model.named_buffers() if name.endswith("running_var"))[0] = value

    return harm


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (weight(math.nan), r"\d+\.weight"),
        (weight(math.inf), r"\d+\.weight"),
        (weight(-math.inf), r"\d+\.weight"),
        (buffer(math.nan), "running_var"),
        (buffer(math.inf), "running_var"),
    ],
)
def test_what_is_not_finite_after_the_last_update_is_named(monkeypatch, make_trial, digits, harm, named):
    config = make_trial(epochs=1, batch_size=128, model="small_cnn_8")
    with pytest.raises(FloatingPointError, match=rf"{named}.* is not finite after epoch 1: training has diverged"):
        destroyed(monkeypatch, config, digits, harm)


def test_finite_weights_that_overflow_on_every_image_have_diverged(monkeypatch, make_trial, digits):
    def harm(model):
        for parameter in model.parameters():
            parameter.fill_(1e30)

    config = make_trial(epochs=1, batch_size=128)
    with pytest.raises(FloatingPointError, match="no validation image has finite logits after epoch 1"):
        destroyed(monkeypatch, config, digits, harm)


class ForSome(torch.nn.Module):
    """Answers class 0 for every image, with an infinite logit for those whose first pixel is set."""

    def __init__(self, value):
        super().__init__()
        self.bias, self.value = torch.nn.Parameter(torch.tensor([5.0] + 9 * [0.0])), value

    def forward(self, x):
        logits = self.bias + 0 * x.flatten(1).sum(1, keepdim=True)
        odd = (x.flatten(1)[:, 20] > 0.5)[:, None] & (logits == logits.amax(1, keepdim=True))
        return torch.where(odd & (not self.training), torch.full_like(logits, self.value), logits)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_validation_images_without_a_finite_answer_are_misclassified(monkeypatch, make_trial, digits, value):
    monkeypatch.setattr(bat_core.fit, "build_model", lambda *_, **__: ForSome(value))
    config = make_trial("Undefended", params={}, epochs=1, batch_size=128)
    (report,) = fit(config, digits)
    images, labels = digits.val.images.float() / 255, digits.val.labels
    answered = images.flatten(1)[:, 20] <= 0.5
    expected = ((labels == 0) & answered).double().mean().item()
    assert 0 < answered.double().mean() < 1
    assert ((labels == 0) & ~answered).any()
    assert report.val_clean_acc == expected
    assert report.val_robust_acc <= expected


def test_a_sound_model_passes():
    model = torch.nn.BatchNorm2d(3)
    check_weights(model, 1)
    check_weights(torch.nn.ReLU(), 1)
    check_loss(0.5, 1)
    check_answers(1, 1)
    with pytest.raises(FloatingPointError, match="the training loss is inf in epoch 3"):
        check_loss(math.inf, 3)
