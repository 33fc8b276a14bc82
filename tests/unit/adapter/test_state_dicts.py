"""Weights as they lie around: nested, prefixed, in halves; and what is said of those that do not fit."""

import argparse
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bat_core.adapter.state_dicts import load_weights
from bat_core.errors import InputError


def net(classes=10, width=4):
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, width, 3), bn=nn.BatchNorm2d(width), flat=nn.Flatten(), fc=nn.Linear(36 * width, classes)
        )
    )


@pytest.fixture
def weights():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = net()
        model.bn.running_mean += 0.5
        return model.state_dict()


def with_prefix(prefix, weights):
    return {prefix + name: tensor for name, tensor in weights.items()}


def other(weights):
    return {name: tensor + 1 for name, tensor in weights.items()}


def half(weights):
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}


FILES = {
    "plain": (lambda w: w, ""),
    "a wrapper's prefix": (lambda w: with_prefix("module.", w), "removes the prefix 'module.'"),
    "a compiled model's": (lambda w: with_prefix("_orig_mod.", w), "'_orig_mod.'"),
    "stacked": (lambda w: with_prefix("module._orig_mod.model.", w), "'module._orig_mod.model.'"),
    "Lightning's": (
        lambda w: {"state_dict": {**with_prefix("net.", w), "loss.weight": torch.ones(3)}, "epoch": 3, "hyper": {}},
        "uses 'state_dict.net' and removes the prefix 'net.' from the names, ignores 'loss.weight'",
    ),
    "nested twice": (
        lambda w: {"model": {"state_dict": w}, "optimizer": {"state": {0: {"m": torch.ones(2)}}}},
        "'model.state_dict'",
    ),
    "an average's alone": (lambda w: {"ema_state_dict": w, "epoch": 1}, "uses 'ema_state_dict'"),
    "an averaged model's": (lambda w: {"n_averaged": torch.tensor(3), **with_prefix("module.", w)}, "'module.'"),
    "the same under two keys": (lambda w: {"net": w, "ema": dict(w)}, "uses 'net'"),
    "no batch counts": (lambda w: {name: t for name, t in w.items() if "num_batches" not in name}, ""),
    "a profiler's counts": (lambda w: {**w, "total_ops": torch.zeros(1), "fc.total_params": torch.zeros(1)}, ""),
}


@pytest.mark.parametrize("name", FILES)
def test_weights_are_found_and_the_choice_is_said(tmp_path, weights, name):
    wrap, said = FILES[name]
    torch.save(wrap(weights), tmp_path / "net.pt")
    model = net()
    told = load_weights(model, tmp_path / "net.pt")
    assert said in told
    assert bool(told) == bool(said)
    assert all(torch.equal(model.state_dict()[key], t) for key, t in weights.items() if "num_batches" not in key)


def test_half_precision_becomes_the_models_own(tmp_path, weights):
    torch.save(half(weights), tmp_path / "net.pt")
    model = net()
    load_weights(model, tmp_path / "net.pt")
    assert model.fc.weight.dtype == torch.float32
    assert torch.allclose(model.fc.weight, weights["fc.weight"], atol=1e-3)


def test_safetensors_by_any_name(tmp_path, weights):
    save_file(with_prefix("model.", weights), tmp_path / "net.bin")
    model = net()
    assert "'model.'" in load_weights(model, tmp_path / "net.bin")
    assert torch.equal(model.fc.weight, weights["fc.weight"])


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod."])
def test_a_wrapped_model_takes_the_weights_of_a_plain_one(tmp_path, weights, prefix):
    torch.save(weights, tmp_path / "net.pt")
    holder = nn.Module()
    holder.add_module(prefix.rstrip("."), net())
    load_weights(holder, tmp_path / "net.pt")
    assert torch.equal(holder.state_dict()[f"{prefix}fc.weight"], weights["fc.weight"])


def test_wrappers_in_the_middle_of_names(tmp_path, weights):
    model = nn.Sequential(OrderedDict(body=net()))
    torch.save(with_prefix("body._orig_mod.", weights), tmp_path / "net.pt")
    assert "_orig_mod." in load_weights(model, tmp_path / "net.pt")
    assert torch.equal(model.body.fc.weight, weights["fc.weight"])


def test_tied_weights_may_be_stored_once(tmp_path):
    def tied():
        model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
        model["b"].weight = model["a"].weight
        return model

    given = {name: torch.full_like(t, 2.0) for name, t in tied().state_dict().items() if name != "a.weight"}
    torch.save(given, tmp_path / "net.pt")
    model = tied()
    load_weights(model, tmp_path / "net.pt")
    assert (model["a"].weight == 2).all()


def refused(model, path, key=""):
    with pytest.raises(InputError) as caught:
        load_weights(model, path, key=key)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert str(path) in sentence or key in sentence
    return sentence


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        (lambda w: {"model": w, "ema": other(w)}, ("model", "ema")),
        (lambda w: {"state_dict": {**with_prefix("net.", w), **with_prefix("ema_net.", other(w))}}, ("net", "ema_net")),
        (lambda w: {**w, **with_prefix("teacher.", other(w))}, ("top", "teacher")),
    ],
)
def test_two_that_fit_are_not_chosen_between(tmp_path, weights, content, keys):
    torch.save(content(weights), tmp_path / "net.pt")
    said = refused(net(), tmp_path / "net.pt")
    assert "2 state dicts that fit" in said
    assert "--weights-key" in said
    assert all(key in said for key in keys)
    for key, expected in zip(keys, (weights, other(weights)), strict=True):
        model = net()
        load_weights(model, tmp_path / "net.pt", key=key)
        assert torch.equal(model.fc.weight, expected["fc.weight"])


def test_a_key_that_is_not_there_is_told_with_those_that_are(tmp_path, weights):
    torch.save({"model": weights, "ema": other(weights)}, tmp_path / "net.pt")
    said = refused(net(), tmp_path / "net.pt", key="sd")
    assert "--weights-key='sd' is not in" in said
    assert "'model', 'ema'" in said


def test_what_does_not_fit_is_named_with_a_remedy(tmp_path, weights):
    torch.save(weights, tmp_path / "net.pt")
    said = refused(net(classes=7), tmp_path / "net.pt")
    assert "'fc.weight' is 10x144 in the file and 7x144 in the model and 1 more" in said
    assert "number of classes" in said
    wrong = {name.replace("conv", "stem"): t for name, t in weights.items()}
    torch.save(wrong, tmp_path / "other.pt")
    said = refused(net(), tmp_path / "other.pt")
    assert "it lacks 'conv.weight' and 1 more" in said
    assert "the model has no 'stem.weight' and 1 more" in said
    assert "architecture" in said


def test_files_that_are_not_weights(tmp_path, weights):
    torch.save({"args": argparse.Namespace(a=1), "state_dict": weights}, tmp_path / "args.pt")
    assert "argparse.Namespace" in refused(net(), tmp_path / "args.pt")
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "script.pt"))
    assert "TorchScript" in refused(net(), tmp_path / "script.pt")
    assert "is a folder" in refused(net(), tmp_path)
    torch.save({"epoch": 3}, tmp_path / "no.pt")
    assert "is not a state_dict" in refused(net(), tmp_path / "no.pt")


def test_extra_state_of_the_model_may_be_missing(tmp_path):
    class Extra(nn.Linear):
        seen = None

        def get_extra_state(self):
            return {"scale": 3}

        def set_extra_state(self, state):
            self.seen = state

    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "net.pt")
    model = Extra(2, 2)
    load_weights(model, Path(tmp_path / "net.pt"))
    assert model.seen == {"scale": 3}
