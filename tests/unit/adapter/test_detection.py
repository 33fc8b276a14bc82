"""How models of strangers have to be called, and that behind the adapter they are the model they were."""

import copy
import dataclasses
from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import nn

from bat_core.adapter.adapted import Adaptation, adapted
from bat_core.adapter.detection import Wishes, detect, wrapped_part
from bat_core.adapter.normalize import Normalization
from bat_core.evaluate import evaluate
from bat_core.forward import channels_last
from bat_core.masking.inspection import inspect
from bat_core.suites import get_suite
from tests.unit.toys import Altered

CLASSES = 10


@pytest.fixture
def sound(robust_digits):
    return copy.deepcopy(robust_digits.model).eval()


@dataclasses.dataclass
class Answer:
    loss: torch.Tensor | None
    logits: torch.Tensor


class Property(OrderedDict):
    @property
    def logits(self):
        return self["logits"]


Named = namedtuple("Named", ["features", "scores"])


class Keyword(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *, pixel_values):
        return self.inner(pixel_values)


class Second(Keyword):
    def forward(self, text=None, image=None):
        return self.inner(image)


class Unfinished(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, *args):
        return super().forward(*args)


class Half(nn.Module):
    def __init__(self, inner, dtype=torch.float16):
        super().__init__()
        self.inner, self.dtype = inner.to(dtype), dtype

    def forward(self, x):
        return self.inner(x.to(self.dtype))


def fixed(size):
    def after(z):
        return z.view(size, CLASSES)

    return after


def refuses_one(z):
    if len(z) == 1:
        raise IndexError("Dimension out of range")
    return z


def unseen(x):
    x.data.mul_(1.0001)
    return x


def needs_contiguous(x):
    assert x.is_contiguous()
    return x


class TrainedInside(nn.Module):
    """Holds its weights in a frozen TorchScript module, within a module of its own."""

    def __init__(self, script):
        super().__init__()
        self.script = script

    def forward(self, x):
        return self.script(x)


def scripted(model):
    return torch.jit.trace(model, torch.zeros(2, 1, 8, 8), check_trace=False)


STRANGERS = {
    "a tuple": (lambda m: Altered(m, after=lambda z: (z, z[:, :3])), {"logits_key": "0"}),
    "a list, logits last": (lambda m: Altered(m, after=lambda z: [z[:, :3], z]), {"logits_key": "1"}),
    "a mapping": (lambda m: Altered(m, after=lambda z: {"out": z, "features": z[:, :4]}), {"logits_key": "out"}),
    "an object": (lambda m: Altered(m, after=lambda z: Answer(None, z)), {"logits_key": "logits"}),
    "a property": (lambda m: Altered(m, after=lambda z: Property(logits=z)), {"logits_key": "logits"}),
    "a named tuple": (lambda m: Altered(m, after=lambda z: Named(z[:, :2], z)), {"logits_key": "scores"}),
    "nested": (lambda m: Altered(m, after=lambda z: {"head": (z, z[:, 1])}), {"logits_key": "head.0"}),
    "trailing dimensions": (lambda m: Altered(m, after=lambda z: z[:, :, None, None]), {"reshape": True}),
    "squeezes one": (lambda m: Altered(m, after=lambda z: z.squeeze()), {"reshape": True}),
    "squeezes one of a map": (lambda m: Altered(m, after=lambda z: z[:, :, None, None].squeeze()), {"reshape": True}),
    "fails on one": (lambda m: Altered(m, after=refuses_one), {"smallest_batch": 2}),
    "batches of 16": (lambda m: Altered(m, after=fixed(16)), {"batch": 16}),
    "batches of 1": (lambda m: Altered(m, after=fixed(1)), {"batch": 1}),
    "batches of 1, squeezed": (
        lambda m: Altered(m, after=lambda z: z.view(1, CLASSES)[0]),
        {"batch": 1, "reshape": True},
    ),
    "in place": (lambda m: Altered(m, lambda x: x.sub_(0.1).add_(0.1)), {"copy": True}),
    "in place, behind torch's back": (lambda m: Altered(m, unseen), {"copy": True}),
    "float64": (lambda m: m.double(), {"dtype": "float64", "cast": True}),
    "float16": (lambda m: m.half(), {"dtype": "float16", "cast": True, "half": True}),
    "bfloat16": (lambda m: m.bfloat16(), {"dtype": "bfloat16", "cast": True}),
    "half inside": (Half, {"cast": True, "half": True}),
    "double inside": (lambda m: Half(m, torch.float64), {"cast": True}),
    "a keyword alone": (Keyword, {"argument": "pixel_values"}),
    "a second argument": (Second, {"argument": "image"}),
    "no forward of its own": (Unfinished, {"part": "model"}),
    "data parallel": (nn.DataParallel, {"part": "module"}),
    "compiled": (torch.compile, {"part": "_orig_mod"}),
    "compiled and parallel": (lambda m: nn.DataParallel(torch.compile(m)), {"part": "module._orig_mod"}),
    "traced": (scripted, {"script": True}),
    "frozen": (lambda m: torch.jit.freeze(scripted(m)), {"script": True}),
    "frozen inside": (lambda m: TrainedInside(torch.jit.freeze(scripted(m))), {"script": True}),
    "a double tuple in batches": (
        lambda m: Altered(m.double(), after=lambda z: (z.view(8, CLASSES), 1)),
        {"dtype": "float64", "cast": True, "batch": 8, "logits_key": "0"},
    ),
}
LOW_PRECISION = {"float16": 2e-2, "half inside": 2e-2, "bfloat16": 2e-1, "in place, behind torch's back": 1e-2}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_answers_like_the_model_inside_it(robust_digits, sound, name):
    make, expected = STRANGERS[name]
    x = robust_digits.images[:21]
    with torch.no_grad():
        want = sound(x).clone()
    stranger = make(copy.deepcopy(sound)).eval()
    before = x.clone()
    found = detect(stranger, x, num_classes=CLASSES)
    assert found.adaptation == dataclasses.replace(Adaptation(), **expected)
    model = adapted(stranger, found.adaptation)
    tolerance = LOW_PRECISION.get(name, 1e-4) * float(want.abs().max())
    for images in (x, channels_last(x), x[:1], x[:2]):
        with torch.no_grad():
            logits = model(images)
        assert (logits.dtype, logits.shape) == (torch.float32, (len(images), CLASSES))
        assert torch.allclose(logits, want[: len(images)], atol=tolerance)
    assert torch.equal(x, before)
    given = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(given).logsumexp(1).sum(), given)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).abs().sum(1) > 0).all()
    assert inspect(model, x, robust_digits.labels[:21], num_classes=CLASSES) == ()


@pytest.mark.parametrize("name", ["in place", "squeezes one", "batches of 16", "traced", "frozen"])
def test_the_number_is_that_of_the_model_inside(robust_digits, sound, name):
    stranger = STRANGERS[name][0](copy.deepcopy(sound))
    x, y = robust_digits.images[:33], robust_digits.labels[:33]
    model = adapted(stranger, detect(stranger, x, num_classes=CLASSES).adaptation)
    suite = get_suite("paper", eps=0.1)
    want, got = (evaluate(one, x, y, attack=suite, batch_size=32) for one in (sound, model))
    assert (got.clean_acc, got.robust_acc) == (want.clean_acc, want.robust_acc)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: m,
        lambda m: Altered(m, lambda x: nn.functional.dropout(x, 0.2)),
        lambda m: Altered(m, lambda x: x - x.mean(0, keepdim=True)),
        lambda m: Altered(m, after=lambda z: z.masked_fill(z.argmax(1, keepdim=True) < 3, float("nan"))),
        lambda m: Altered(m, after=lambda z: z[:, :7]),
        lambda m: Altered(m, after=lambda z: z.log_softmax(1)),
        lambda m: m.train(),
    ],
    ids=["sound", "random", "batch dependent", "NaN", "seven classes", "log probabilities", "training mode"],
)
def test_what_needs_no_adapter_gets_none(robust_digits, sound, make):
    model = make(sound)
    found = detect(model, robust_digits.images, num_classes=CLASSES)
    assert found.adaptation == Adaptation()
    assert found.said == ()
    assert adapted(model, found.adaptation) is model


def test_the_random_generator_and_the_mode_are_left_as_they_were(robust_digits, sound):
    model = Altered(sound, lambda x: nn.functional.dropout(x, 0.2)).train()
    before = torch.random.get_rng_state()
    detect(model, robust_digits.images, num_classes=CLASSES)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.training


def test_two_parts_that_could_be_logits_are_told_and_one_can_be_chosen(robust_digits, sound):
    model, x = Altered(sound, after=lambda z: (-z, z)), robust_digits.images
    found = detect(model, x, num_classes=CLASSES).adaptation
    (finding,) = inspect(adapted(model, found), x, robust_digits.labels, num_classes=CLASSES)
    assert (finding.name, finding.severity) == ("output", "error")
    assert "a tuple of 0: 100x10, 1: 100x10" in finding.description
    assert "--logits-key, one of 0, 1" in finding.description
    chosen = detect(model, x, num_classes=CLASSES, wishes=Wishes(logits_key="1")).adaptation
    assert torch.equal(adapted(model, chosen)(x), sound(x))


def test_a_key_that_does_not_exist_is_told_with_those_that_do(robust_digits, sound):
    model, x = Altered(sound, after=lambda z: {"out": z}), robust_digits.images
    found = detect(model, x, num_classes=CLASSES, wishes=Wishes(logits_key="logits")).adaptation
    (finding,) = inspect(adapted(model, found), x, robust_digits.labels, num_classes=CLASSES)
    assert "no 'logits': it returns out" in finding.description


def test_the_batch_size_of_the_job_is_tried(robust_digits, sound):
    model = Altered(sound, after=fixed(7))
    assert detect(model, robust_digits.images, num_classes=CLASSES).adaptation.batch == 0
    wishes = Wishes(batch_size=7)
    assert detect(model, robust_digits.images, num_classes=CLASSES, wishes=wishes).adaptation.batch == 7


def test_a_normalisation_stands_before_the_model(robust_digits, sound):
    model = Altered(sound, lambda x: x * 0.25 + 0.5)
    wishes = Wishes(normalization=Normalization((0.5,), (0.25,)))
    found = detect(model, robust_digits.images, num_classes=CLASSES, wishes=wishes).adaptation
    assert (found.mean, found.std) == ((0.5,), (0.25,))
    x = robust_digits.images
    assert torch.allclose(adapted(model, found)(x), sound(x), atol=1e-3)


def test_a_gradient_that_float16_cannot_hold_is_not_lost(sound, robust_digits):
    """The gradient of a confident image's loss is far below float16's smallest number."""
    model = Altered(Half(copy.deepcopy(sound)))
    found = detect(model, robust_digits.images, num_classes=CLASSES).adaptation
    x, y = robust_digits.images[:20].clone().requires_grad_(), robust_digits.labels[:20]
    loss = 1e-9 * nn.functional.cross_entropy(adapted(model, found)(x), y, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, x)
    (want,) = torch.autograd.grad(1e-9 * nn.functional.cross_entropy(sound(x), y, reduction="sum"), x)
    assert (gradient - want).abs().max() < 0.05 * want.abs().max()
    (lost,) = torch.autograd.grad(1e-9 * nn.functional.cross_entropy(model(x), y, reduction="sum"), x)
    assert (lost == 0).all()


@pytest.mark.parametrize("order", [needs_contiguous, lambda x: x.as_strided(x.shape, (192, 64, 8, 1))])
def test_images_are_contiguous_for_a_model_that_relies_on_it(order):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, CLASSES)).eval()
    x = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = Altered(net, order).eval()
    found = detect(model, x, num_classes=CLASSES).adaptation
    assert found == Adaptation(contiguous=True)
    assert torch.allclose(adapted(model, found)(channels_last(x)), net(x), atol=1e-5)


def test_view_on_weights_in_channels_last_layout():
    class View(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(144, CLASSES)

        def forward(self, x):
            h = self.conv(x)
            return self.fc(h.view(len(h), -1))

    model = View().to(memory_format=torch.channels_last).eval()
    x = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    want = copy.deepcopy(model).to(memory_format=torch.contiguous_format)(x)
    found = detect(model, x, num_classes=CLASSES).adaptation
    assert found.plain_weights
    model = adapted(model, found)
    assert torch.allclose(model(channels_last(x)), want, atol=1e-5)


def test_wrappers_are_seen_through_and_others_are_not():
    assert wrapped_part(nn.Sequential(nn.Identity())) == ""
    assert wrapped_part(torch.optim.swa_utils.AveragedModel(nn.Linear(2, 2))) == ""
    assert wrapped_part(torch.compile(nn.DataParallel(nn.Linear(2, 2)))) == "_orig_mod.module"
