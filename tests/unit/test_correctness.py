"""What a correct answer is, and that every search takes the absence of a finite answer for a break."""

import math

import pytest
import torch
from torch import nn

from bat_core.attacks import APGD, PGD, AutoAttack, Square, Transfer
from bat_core.correctness import is_correct, is_finite
from bat_core.evaluate import evaluate
from bat_core.suites import Entry, Suite

from .toys import Linear, normal, uniform

EPS = 0.05


@pytest.mark.parametrize(
    ("logits", "correct"),
    [
        ([3.0, 1.0, 2.0], True),
        ([1.0, 3.0, 2.0], False),
        ([math.inf, 1.0, 2.0], False),
        ([3.0, -math.inf, 2.0], False),
        ([math.nan, 1.0, 2.0], False),
        ([3.0, math.nan, 2.0], False),
        ([math.nan] * 3, False),
    ],
)
def test_a_correct_answer_has_finite_logits_and_its_largest_at_the_label(logits, correct):
    batch = torch.tensor([logits, [9.0, 0.0, 0.0]])
    assert is_correct(batch, torch.tensor([0, 0])).tolist() == [correct, True]
    assert is_finite(batch).tolist() == [all(map(math.isfinite, logits)), True]


def test_infinity_of_half_precision_is_no_answer():
    logits = torch.tensor([[70000.0, 0.0], [6.0, 0.0]]).half()
    assert is_correct(logits, torch.tensor([0, 0])).tolist() == [False, True]


class Overflow(nn.Module):
    """A linear model whose largest logit is infinite where an image is not the clean one: its argmax never changes."""

    def __init__(self, value, *, dtype=torch.float32):
        super().__init__()
        self.model, self.value = Linear(10 * normal(5, 27).to(dtype)), value
        self.clean = uniform(6, 3, 3, 3).to(dtype)

    def forward(self, x):
        logits = self.model(x)
        moved = (x[:, None] - self.clean[None]).abs().flatten(2).amax(2).amin(1) > 1e-6
        top = logits == logits.amax(1, keepdim=True)
        return torch.where(moved[:, None] & top, torch.full_like(logits, self.value), logits)


def attacked(value, attack):
    model = Overflow(value)
    x, y = model.clean, model.model(model.clean).argmax(1)
    return model, x, y, attack(model, x, y)


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize(
    "attack",
    [
        APGD(eps=EPS, num_steps=5),
        PGD(eps=EPS, step_size=EPS, num_steps=2, restarts=2),
        Square(eps=EPS, num_steps=5),
        Transfer(eps=EPS, sources=(Linear(normal(5, 27)), Linear(normal(5, 27, seed=1))), crafted_by=APGD(eps=EPS)),
        AutoAttack(eps=EPS, part="apgd-ce"),
        AutoAttack(eps=EPS, part="apgd-t"),
        AutoAttack(eps=EPS, part="fab-t"),
        AutoAttack(eps=EPS, part="square"),
    ],
    ids=lambda one: getattr(one, "part", type(one).__name__) if not isinstance(one, float) else str(one),
)
def test_an_attack_that_leads_to_no_finite_answer_has_broken_the_image(attack, value):
    model, x, y, x_adv = attacked(value, attack)
    assert is_correct(model(x), y).all()
    assert not is_correct(model(x_adv), y).any()
    assert (x_adv - x).abs().max() <= EPS + 1e-6


def test_square_keeps_the_first_image_without_a_finite_answer():
    class Once(nn.Module):
        """Infinite at the first point queried, and robust at all later ones."""

        def __init__(self):
            super().__init__()
            self.queries, self.first = 0, None

        def forward(self, x):
            self.queries += 1
            self.first = x.clone() if self.queries == 1 else self.first
            return torch.tensor([[math.inf if self.queries == 1 else 1.0, 0.0]]).expand(len(x), 2)

    model, x = Once(), uniform(2, 1, 4, 4)
    x_adv = Square(eps=EPS, num_steps=5)(model, x, torch.zeros(2, dtype=torch.int64))
    assert torch.equal(x_adv, model.first)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_clean_images_without_a_finite_answer_are_misclassified(value):
    model = Overflow(value)
    x = model.clean.clone()
    x[::2] += 0.01  # these have an infinite logit already
    suite = Suite(name="one", entries=(Entry(name="ce", attack=PGD(eps=EPS, step_size=EPS, num_steps=1)),))
    verdicts = evaluate(model, x.clamp(0, 1), model.model(x).argmax(1), attack=suite)
    assert verdicts.clean_correct.tolist() == [False, True] * 3
    assert verdicts.robust_acc == 0
