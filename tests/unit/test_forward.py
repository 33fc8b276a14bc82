import pytest
import torch
from torch import nn

from bat_core.forward import autocast, evaluation_mode, frozen, resolve_precision


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
