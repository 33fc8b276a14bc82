"""Models by name: each source loads a real one, tiny and random, without a network."""

import importlib.util
import sys

import pytest
import torch

from bat_core.adapter.sources import SOURCES, Target, find_source, source_forms, split_name
from bat_core.adapter.sources.base import no_pickles
from bat_core.errors import InputError

TARGET = Target(dataset="digits", num_classes=10, image_shape=(1, 32, 32))
needs = {
    package: pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")
    for package in ("timm", "transformers", "onnx", "onnx2pytorch")
}


def loaded(name, target):
    source, rest = find_source(name)
    rest = source.resolve(rest)
    return source.load(source.complete(rest, target) if target else rest, target)


def refused(name, target=None):
    with pytest.raises(InputError) as caught:
        loaded(name, target)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_source_is_discovered():
    assert SOURCES.names() == ("hf", "onnx", "package.module", "robustbench", "timm", "torchvision")
    assert "package.module:factory" in source_forms()


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("timm:resnet18", ("timm", "resnet18")),
        ("timm:hf_hub:timm/resnet18", ("timm", "hf_hub:timm/resnet18")),
        ("nets:wide", ("package.module", "nets:wide")),
        ("models:/bat/3", None),
        ("folder/with:colon", None),
        ("timm:", None),
    ],
)
def test_a_name_belongs_to_one_source(name, found):
    assert split_name(name) == found


@needs["timm"]
def test_timm_builds_an_architecture():
    source, name = find_source("timm:resnet10t")
    model = source.architecture(name, TARGET).module.eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    source, name = find_source("timm:vit_tiny_patch16_224")
    assert source.architecture(name, TARGET).module(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert "unknown model of timm 'resnet10x'; did you mean 'resnet10t'?" in refused("timm:resnet10x")


def test_torchvision_builds_an_architecture():
    source, name = find_source("torchvision:squeezenet1_1")
    model = source.architecture(name, TARGET).module.eval()
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 10)
    assert "did you mean 'resnet18'?" in refused("torchvision:resnet17")
    assert "unknown weights of resnet18" in refused("torchvision:resnet18.NOPE")


@needs["transformers"]
def test_a_local_folder_of_transformers(tmp_path):
    transformers = importlib.import_module("transformers")
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, num_channels=1, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, num_labels=10,
    )  # fmt: skip
    made = transformers.ViTForImageClassification(config).eval()
    made.save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.25]}')
    source, name = find_source(f"hf:{tmp_path / 'vit'}")
    built = source.load(source.resolve(name), None)
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(built.module(x).logits, made(x).logits)
    assert (built.normalization.mean, built.normalization.std) == ((0.5,), (0.25,))
    assert "there is no such folder" in refused(f"hf:{tmp_path / 'nothing'}")


@needs["onnx"]
@needs["onnx2pytorch"]
def test_an_onnx_file(tmp_path):
    onnx = importlib.import_module("onnx")
    generator = torch.Generator().manual_seed(0)
    conv, fc = torch.randn(4, 1, 3, 3, generator=generator), torch.randn(10, 256, generator=generator)
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "conv"], ["h"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Flatten", ["r"], ["f"], axis=1),
            helper.make_node("Gemm", ["f", "fc"], ["y"], transB=1),
        ],
        "net",
        [helper.make_tensor_value_info("x", float32, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("y", float32, ["batch", 10])],
        [onnx.numpy_helper.from_array(t.numpy(), name) for name, t in (("conv", conv), ("fc", fc))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]), tmp_path / "net.onnx")
    source, name = find_source(f"onnx:{tmp_path / 'net.onnx'}")
    model = source.load(source.resolve(name), None).module
    x = torch.rand(3, 1, 8, 8, generator=generator).requires_grad_()
    want = torch.nn.functional.conv2d(x, conv, padding=1).relu().flatten(1) @ fc.T
    assert torch.allclose(model(x), want, atol=1e-4)
    (gradient,) = torch.autograd.grad(model(x).sum(), x)
    assert gradient.abs().sum() > 0
    (tmp_path / "bad.onnx").write_bytes(b"no graph")
    assert "is not an ONNX file" in refused(f"onnx:{tmp_path / 'bad.onnx'}")
    assert "no such file" in refused(f"onnx:{tmp_path / 'none.onnx'}")


ZOO = """
import torch
from torch import nn
from robustbench.model_zoo import nets

def load_model(model_name, model_dir, dataset, threat_model):
    model = nets[model_name]()
    path = f"{model_dir}/{dataset}/{threat_model}/{model_name}.pt"
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False))
    return model.eval()
"""
DICTS = """
from torch import nn
from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel

nets = {"Tiny2020": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))}
model_dicts = {BenchmarkDataset.cifar_10: {ThreatModel.Linf: {"Tiny2020": {"model": nets["Tiny2020"]}}}}
"""
ENUMS = """
import enum

class BenchmarkDataset(enum.Enum):
    cifar_10 = "cifar10"

class ThreatModel(enum.Enum):
    Linf = "Linf"
"""


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    """A package of RobustBench's shape: it is not installed, since it brings a package `tests` of its own."""
    package = tmp_path / "robustbench"
    (package / "model_zoo").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "utils.py").write_text(ZOO)
    (package / "model_zoo" / "__init__.py").write_text(DICTS)
    (package / "model_zoo" / "enums.py").write_text(ENUMS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "robustbench"]:
        del sys.modules[name]


def test_robustbench_loads_by_its_own_package(zoo):
    folder = zoo / "models" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    weights = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).state_dict()
    torch.save(weights, folder / "Tiny2020.pt")
    source, name = find_source("robustbench:Tiny2020")
    target = Target(dataset="cifar10", num_classes=10, image_shape=(3, 32, 32))
    complete = source.complete(name, target)
    assert complete == "cifar10/Tiny2020"
    model = source.load(complete, target).module
    assert torch.equal(model[1].weight, weights["1.weight"])
    assert "did you mean 'Tiny2020'?" in refused("robustbench:Tiny2021", target)
    assert "RobustBench has no models for 'digits'" in refused("robustbench:Tiny2020", TARGET)


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def test_a_zoo_cannot_unpickle_code(zoo):
    folder = zoo / "models" / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    torch.save(RunsCode(zoo / "it ran"), folder / "Tiny2020.pt")
    assert "robustbench" in refused("robustbench:cifar10/Tiny2020")
    assert not (zoo / "it ran").exists()
    with no_pickles():
        pass
    torch.load(folder / "Tiny2020.pt", weights_only=False)
    assert (zoo / "it ran").exists()


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("timm:resnet18", "timm", "timm"),
        ("hf:org/name", "transformers", "hf"),
        ("robustbench:cifar10/X", "robustbench", "robustbench"),
    ],
)
def test_a_missing_package_is_told_with_its_remedy(monkeypatch, name, package, extra):
    for module in [module for module in sys.modules if module.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr("importlib.import_module", missing(package))
    said = refused(name)
    assert f"needs the package '{package}'" in said
    assert f"pip install 'bat-sweeps[{extra}]'" in said


def missing(package):
    real = importlib.import_module

    def import_module(name, *rest):
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *rest)

    return import_module
