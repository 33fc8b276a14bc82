"""What people get wrong when they bring a model, and what inspection says of it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bat_core.masking.inspection import inspect
from bat_core.models import build_model
from tests.unit.toys import Altered

CLASSES = 10


@pytest.fixture
def look(robust_digits):
    """What is found in the sound model, altered, on images that may be dimmed."""
    model, images, labels = robust_digits

    def look(before=lambda x: x, after=lambda logits: logits, dimmed=1.0):
        altered = Altered(model, before, after).eval()
        return inspect(altered, images * dimmed, labels, num_classes=CLASSES)

    return look


def severities(findings):
    return {finding.name: finding.severity for finding in findings}


def test_nothing_is_found_in_a_sound_model(robust_digits):
    model, images, labels = robust_digits
    assert inspect(model, images, labels, num_classes=CLASSES) == ()
    bytes_of_them = (images * 255).round().to(torch.uint8)
    assert inspect(model, bytes_of_them, labels, num_classes=CLASSES) == ()


def test_log_probabilities_are_logits(look):
    assert look(after=lambda logits: logits.log_softmax(1)) == ()


def test_probabilities_are_an_error(look):
    (finding,) = look(after=lambda logits: logits.softmax(1))
    assert (finding.name, finding.severity) == ("probabilities", "error")
    assert "return the logits" in finding.description


@pytest.mark.parametrize("after", [lambda z: z.sigmoid(), lambda z: z.softmax(1) * 2], ids=["sigmoid", "not summing"])
def test_what_only_looks_like_probabilities_is_none(look, after):
    assert look(after=after) == ()


def test_the_number_of_classes_must_be_the_data_sets(look):
    (finding,) = look(after=lambda logits: logits[:, :7])
    assert (finding.name, finding.severity) == ("classes", "error")
    assert "7 classes and the data set has 10" in finding.description


RANGES = {
    "[0, 255]": (lambda x: x / 255, 1.0, "expect [0, 255]"),
    "[-1, 1]": (lambda x: (x + 1) / 2, 1.0, "expect"),  # on digits, standardised images are nearly the same
    "standardised": (lambda x: (x * 0.38 + 0.3).clamp(0, 1), 0.1, "expect standardised images"),  # but not dimmed
}


@pytest.mark.parametrize("name", RANGES)
def test_a_model_made_for_another_range_is_told_apart(look, name):
    before, dimmed, words = RANGES[name]
    (finding,) = [one for one in look(before=before, dimmed=dimmed) if one.severity == "error"]
    assert finding.name == "range"
    assert words in finding.description
    assert "inside the model" in finding.description


def test_a_model_that_is_right_nowhere_is_made_for_no_range(robust_digits):
    model, images, labels = robust_digits
    assert inspect(model, images, (labels + 1) % CLASSES, num_classes=CLASSES) == ()


@pytest.mark.parametrize("count", [8, 40])
def test_a_few_images_do_not_make_a_range(robust_digits, count):
    _, images, labels = robust_digits
    for seed in range(10):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            untrained = build_model("small_cnn_8", num_classes=CLASSES, image_shape=(1, 8, 8)).eval()
        found = inspect(untrained, images[:count], labels[:count], num_classes=CLASSES)
        assert severities(found).keys() <= ({"one_class"} if count >= 20 else set())


def test_a_model_that_answers_one_class_alone_is_told(look, robust_digits):
    (finding,) = look(after=lambda logits: logits + 1e5 * F.one_hot(torch.tensor(3), CLASSES))
    assert (finding.name, finding.severity) == ("one_class", "warning")
    assert "the model predicts class 3 for all 100 images" in finding.description
    _, images, labels = robust_digits
    model = Altered(robust_digits.model, after=lambda logits: logits + 1e5 * F.one_hot(torch.tensor(3), CLASSES)).eval()
    alike = labels == 3
    assert inspect(model, images[alike], labels[alike], num_classes=CLASSES) == ()
    assert inspect(model, images[:19], labels[:19], num_classes=CLASSES) == ()


def test_one_image_is_enough_to_look_at(robust_digits):
    model, images, labels = robust_digits
    assert inspect(model, images[:1], labels[:1], num_classes=CLASSES) == ()


def test_training_mode_is_told_and_left_as_it_was(robust_digits):
    model = nn.Sequential(copy.deepcopy(robust_digits.model), nn.Dropout(0.5)).train()
    model[0].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    findings = inspect(model, robust_digits.images, robust_digits.labels, num_classes=CLASSES)
    assert severities(findings) == {"training_mode": "warning"}  # dropout is off while it is looked at
    assert (model.training, model[0].training, model[1].training) == (True, False, True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_looking_at_batch_norm_in_training_mode_moves_no_statistics(robust_digits):
    model = copy.deepcopy(robust_digits.model).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    findings = inspect(model, robust_digits.images, robust_digits.labels, num_classes=CLASSES)
    assert severities(findings) == {"training_mode": "warning"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_model_that_is_random_in_evaluation_mode_is_told(look):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        findings = look(before=lambda x: F.dropout(x, 0.2, training=True))
    assert severities(findings)["random"] == "warning"


def test_logits_that_depend_on_the_batch_are_told(look):
    findings = look(after=lambda logits: logits - logits.mean(0))
    assert severities(findings) == {"batch_dependent": "warning"}


def test_nan_for_some_images_is_a_warning_that_counts_them(look, robust_digits):
    limit = robust_digits.images.mean((1, 2, 3)).sort().values[-3]

    def broken(x):
        bright = x.mean((1, 2, 3), keepdim=True) >= limit
        return x * torch.where(bright, float("nan"), 1.0)

    findings = {finding.name: finding for finding in look(before=broken)}
    assert findings["not_finite"].severity == "warning"
    assert "NaN or infinity for 3 of 100 images" in findings["not_finite"].description
    assert "3 of 100" in findings["gradient_not_finite"].description
    assert "probabilities" not in findings


NEVER_FINITE = {
    "NaN throughout": lambda logits: logits * float("nan"),
    "NaN in one class": lambda logits: logits + torch.tensor([float("nan")] + [0.0] * 9),
    "infinity": lambda logits: logits.abs() * float("inf"),
}


@pytest.mark.parametrize("name", NEVER_FINITE)
def test_a_model_that_is_finite_for_no_image_is_an_error_and_is_called_that(look, name):
    errors = [finding.name for finding in look(after=NEVER_FINITE[name]) if finding.severity == "error"]
    assert errors == ["not_finite"]


def detached(x):
    return x.detach()


def by_way_of_numpy(x):
    return torch.from_numpy(x.detach().numpy().copy())


@pytest.mark.parametrize("break_off", [detached, by_way_of_numpy])
@pytest.mark.parametrize("trainable", [False, True])
def test_logits_without_a_gradient_to_the_image_are_an_error(robust_digits, break_off, trainable):
    model = Altered(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)), before=break_off).eval()
    model.requires_grad_(trainable)
    findings = inspect(model, robust_digits.images, robust_digits.labels, num_classes=CLASSES)
    assert severities(findings) == {"no_gradient": "error"}


OUTPUTS = {
    "(100, 10, 1)": lambda logits: logits[:, :, None],
    "(100,)": lambda logits: logits[:, 0],
    "int64": lambda logits: logits.argmax(1, keepdim=True).expand(-1, 10),
    "tuple": lambda logits: (logits, logits),
    "dict": lambda logits: {"logits": logits},
}


@pytest.mark.parametrize("given", OUTPUTS)
def test_an_output_that_is_no_logits_is_an_error_that_says_what_it_is(look, given):
    (finding,) = look(after=OUTPUTS[given])
    assert (finding.name, finding.severity) == ("output", "error")
    assert given in finding.description


@pytest.mark.parametrize(
    "model", [nn.Conv2d(3, 10, 3), nn.Linear(5, 10), nn.Bilinear(2, 2, 2)], ids=["channels", "size", "arguments"]
)
def test_a_model_that_does_not_take_the_images_is_an_error_in_one_line(robust_digits, model):
    (finding,) = inspect(model.eval(), robust_digits.images, robust_digits.labels, num_classes=CLASSES)
    assert (finding.name, finding.severity) == ("forward", "error")
    assert "does not accept 1x8x8 images" in finding.description
    assert "\n" not in finding.description


def test_errors_come_before_warnings(robust_digits):
    model = Altered(copy.deepcopy(robust_digits.model), after=lambda logits: logits.softmax(1)).train()
    findings = inspect(model, robust_digits.images, robust_digits.labels, num_classes=CLASSES)
    assert [finding.severity for finding in findings] == ["error", "warning"]


def test_a_model_whose_memory_holds_a_few_images_alone_is_sound(look):
    def hungry(x):
        if len(x) > 20:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return x

    assert look(before=hungry) == ()


def test_images_without_a_finite_answer_do_not_look_like_another_range():
    class Overflow(torch.nn.Module):
        """Right everywhere, with an infinite logit for half of the images, on [0, 1] alone."""

        def forward(self, x):
            logits = x.mean((1, 2, 3))[:, None].expand(-1, 2)
            inside = (x.amin() >= 0) & (x.amax() <= 1)
            odd = (torch.arange(len(x)) % 2 == 1)[:, None] & inside
            return torch.where(odd, torch.full_like(logits, torch.inf), logits + torch.tensor([1.0, 0.0]))

    x = torch.rand(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    found = inspect(Overflow(), x, torch.zeros(64, dtype=torch.int64), num_classes=2)
    assert "range" not in {one.name for one in found}
    assert "not_finite" in {one.name for one in found}
