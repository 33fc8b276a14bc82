import pytest
import torch
from torch import nn

from bat_core.forward import FLOAT32_SETTINGS, autocast, eval_without_tf32, evaluation_mode, frozen, resolve_precision


def test_the_mode_found_is_restored():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    for training in (True, False):
        model.train(training)
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
        assert all(module.training == training for module in model.modules())


def test_a_part_that_was_frozen_stays_frozen():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()).train()
    model[0].eval()
    with evaluation_mode(model):
        pass
    assert [module.training for module in model.modules()] == [True, False, True]


def interrupted(model):
    with evaluation_mode(model):
        raise KeyError


def test_the_mode_is_restored_after_an_error():
    model = nn.Dropout().train()
    with pytest.raises(KeyError):
        interrupted(model)
    assert model.training


@pytest.mark.parametrize(("precision", "result"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_runs_products_in_the_precision_named(precision, result):
    cpu = torch.device("cpu")
    with autocast(cpu, resolve_precision(precision, cpu)):
        assert nn.Linear(2, 2)(torch.zeros(1, 2)).dtype == result


def test_auto_is_float32_where_there_is_no_gpu():
    assert resolve_precision("auto", torch.device("cpu")) == torch.float32


def test_frozen_weights_take_no_gradient_and_are_as_they_were_after():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    x = torch.ones(1, 2, requires_grad=True)
    with frozen(model):
        model(x).sum().backward()
    assert model.weight.grad is None
    assert x.grad is not None
    assert [parameter.requires_grad for parameter in model.parameters()] == [True, False]


def settings():
    return [setting.fp32_precision for setting in FLOAT32_SETTINGS]


@pytest.fixture
def precisions():
    """Restores torch's settings after a test."""
    found = settings()
    yield
    torch.set_float32_matmul_precision("highest")
    for setting, precision in zip(FLOAT32_SETTINGS, found, strict=True):
        setting.fp32_precision = precision


def fails_in_float32():
    with eval_without_tf32(nn.Dropout()):
        assert set(settings()) == {"ieee"}
        raise KeyError


@pytest.mark.parametrize("touched", ["nothing", "newer conv", "newer matmul", "both", "older", "medium"])
def test_float32_is_float32_whatever_was_set_and_that_is_restored(touched, precisions):
    if touched in ("newer conv", "both"):
        torch.backends.cudnn.conv.fp32_precision = "ieee"
    if touched in ("newer matmul", "both"):
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    if touched == "older":
        torch.backends.cudnn.allow_tf32 = False
    if touched == "medium":
        torch.set_float32_matmul_precision("medium")
    found = settings()
    with pytest.raises(KeyError):
        fails_in_float32()
    assert settings() == found


def test_a_product_in_bfloat16_is_not_a_verdicts(precisions):
    one, other = torch.rand(64, 64), torch.rand(64, 64)
    exact = one @ other
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    with eval_without_tf32(nn.Dropout()):
        assert torch.equal(one @ other, exact)
