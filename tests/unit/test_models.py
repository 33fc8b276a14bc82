import pytest
import torch
from torch import nn

from bat_core.errors import InputError
from bat_core.models import build_model
from bat_core.models.base import MODELS as REGISTRY

from .toys import uniform

SHAPES = [(1, 8, 8), (3, 32, 32)]
MODELS = ["small_cnn", "small_cnn_8", "small_cnn_gn_8", "preact_resnet18", "wrn_10_1"]


def build(name, shape=(3, 32, 32), num_classes=10, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_model(name, num_classes=num_classes, image_shape=shape)


def size(name, shape=(3, 32, 32), num_classes=10):
    with torch.device("meta"):
        model = build_model(name, num_classes=num_classes, image_shape=shape)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("num_classes", [2, 7])
def test_a_model_turns_images_into_logits_that_depend_on_each_pixel(name, shape, num_classes):
    model = build(name, shape, num_classes).eval()
    x = uniform(3, *shape).requires_grad_()
    logits = model(x)
    assert logits.shape == (3, num_classes)
    assert logits.isfinite().all()
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), x)
    assert (gradient.abs().amax(1) > 0).double().mean() > 0.9


@pytest.mark.parametrize("name", MODELS)
def test_a_seed_decides_the_weights(name):
    one, same, other = (build(name, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", [*MODELS, "resnet18"])
def test_normalisation_is_inside_and_centres_grey(name):
    model = build(name).eval()
    inputs = []
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    x = uniform(2, 3, 32, 32)
    model(x)
    torch.testing.assert_close(inputs[0], (x - 0.5) / 0.5, rtol=0, atol=1e-6)


def wide_resnet_size(depth, width, num_classes):
    """Convolutions and norms counted from the architecture; the shortcuts have no weights."""
    total, channels = 3 * 16 * 9, 16
    for stage in (16 * width, 32 * width, 64 * width):
        for _ in range((depth - 4) // 6):
            total += 2 * channels + 9 * channels * stage + 2 * stage + 9 * stage * stage
            channels = stage
    return total + 2 * channels + channels * num_classes + num_classes


@pytest.mark.parametrize(("depth", "width"), [(28, 10), (16, 4), (34, 10), (10, 1)])
def test_a_wide_resnet_has_the_weights_of_its_name(depth, width):
    assert size(f"wrn_{depth}_{width}") == wide_resnet_size(depth, width, 10)


def test_wrn_28_10_lacks_only_the_shortcuts_of_the_published_36_5_million():
    shortcuts = 16 * 160 + 160 * 320 + 320 * 640
    assert size("wrn_28_10") + shortcuts == 36_479_194


def test_preact_resnet18_has_the_published_11_17_million():
    without_last_norm, last_norm = 11_171_146, 2 * 512
    assert size("preact_resnet18") == without_last_norm + last_norm


def test_a_narrow_preact_resnet18_has_a_quarter_of_every_width():
    def channels(name):
        return [module.out_channels for module in build(name).modules() if isinstance(module, nn.Conv2d)]

    assert [4 * width for width in channels("preact_resnet18_16")] == channels("preact_resnet18")
    assert channels("preact_resnet18_64") == channels("preact_resnet18")


def test_a_wide_resnet_is_the_authors():
    model = build("wrn_10_2")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.1}
    kernels = {module.kernel_size for module in model.modules() if isinstance(module, nn.Conv2d)}
    assert kernels == {(3, 3)}


def test_a_widening_shortcut_averages_and_pads_with_zeros():
    widen = build("wrn_10_2").blocks[1]
    for convolution in (widen.conv1, widen.conv2):
        nn.init.zeros_(convolution.weight)
    x = uniform(2, 32, 8, 8)
    out = widen.eval()(x)
    assert out.shape == (2, 64, 4, 4)
    expected = x.view(2, 32, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(out[:, 16:48], expected, rtol=0, atol=1e-6)
    assert not out[:, :16].any()
    assert not out[:, 48:].any()


def test_a_group_norm_model_knows_nothing_of_its_batch():
    model = build("small_cnn_gn_8", (1, 8, 8)).double().train()
    x = uniform(6, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(model(x)[:2], model(x[:2]), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("wrn_11_1", (3, 32, 32), r"model 'wrn_11_1': depth must be 6n \+ 4"),
        ("wrn_4_1", (3, 32, 32), r"model 'wrn_4_1': depth must be 6n \+ 4"),
        ("wrn_10_0", (3, 32, 32), "model 'wrn_10_0': width must be at least 1"),
        ("wrn_10_1", (3, 30, 30), "model 'wrn_10_1' needs a height and width that are multiples of 4, not 30x30"),
        (
            "preact_resnet18",
            (3, 28, 28),
            "model 'preact_resnet18' needs a height and width that are multiples of 8, not 28x28",
        ),
        ("preact_resnet18_0", (3, 32, 32), "model 'preact_resnet18': width must be at least 1"),
        ("small_cnn_0", (1, 8, 8), "width must be at least 1"),
        ("small_cnn_gn_12", (1, 8, 8), "model 'small_cnn_gn_12': width must be a multiple of 8"),
        ("small_cn", (1, 8, 8), "unknown model 'small_cn'; did you mean 'small_cnn'.* wrn_<depth>_<width>"),
        ("wrn_28", (3, 32, 32), "unknown model 'wrn_28'; did you mean 'wrn_28_10'"),
    ],
)
def test_a_model_that_cannot_be_is_told(name, shape, message):
    with pytest.raises(ValueError, match=message):
        build_model(name, num_classes=10, image_shape=shape)


@pytest.mark.parametrize(
    ("depth", "millions"), [(18, 11.690), (34, 21.798), (50, 25.557), (101, 44.549), (152, 60.193)]
)
def test_resnets_have_the_published_sizes(depth, millions):
    assert round(size(f"resnet{depth}", (3, 224, 224), 1000) / 1e6, 3) == millions


@pytest.mark.parametrize("shape", [(3, 224, 224), (3, 64, 64), (3, 32, 48)])
def test_a_resnet_takes_photographs_of_any_size(shape):
    assert build("resnet18", shape, 7).eval()(uniform(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 28, 64), (1, 8, 8)])
def test_a_resnet_refuses_what_is_no_photograph(shape):
    with pytest.raises(ValueError, match=r"model 'resnet50' needs colour images of at least 32x32, not"):
        build("resnet50", shape)


def test_a_resnet_of_an_unknown_depth_is_refused():
    with pytest.raises(ValueError, match=r"model 'resnet51': depth must be one of 18, 34, 50, 101, 152"):
        build("resnet51")


@pytest.mark.parametrize(
    ("name", "num_classes", "image_shape"),
    [
        *(
            ("small_cnn_1000000000", 10, (1, 8, 8)),
            ("small_cnn_4096", 10**12, (1, 8, 8)),
            ("small_cnn_" + "9" * 5000, 10, (1, 8, 8)),
        ),
        *(("wrn_1000000_1", 10, (3, 32, 32)), ("wrn_28_4096", 10, (3, 32, 32)), ("small_cnn", 0, (1, 8, 8))),
        *(("small_cnn", 10, (10**9, 8, 8)), ("small_cnn", 10, (1, 10**9, 8)), ("small_cnn", 10, (1, 8))),
    ],
)
def test_an_absurd_size_is_refused_before_memory_is_taken(name, num_classes, image_shape, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "state_dict", lambda _: pytest.fail("it was built"))
    with pytest.raises(InputError, match=r"at most|must be 1 to|must have 1 to") as caught:
        build_model(name, num_classes=num_classes, image_shape=image_shape)
    assert len(str(caught.value)) < 300


def test_counting_the_parameters_draws_no_random_number():
    torch.manual_seed(0)
    once = build_model("wrn_10_1", num_classes=10, image_shape=(3, 8, 8)).state_dict()
    torch.manual_seed(0)
    again = REGISTRY.find("wrn_10_1")[0](num_classes=10, image_shape=(3, 8, 8), depth=10, width=1).state_dict()
    assert all(torch.equal(once[name], again[name]) for name in once)
