"""Networks and recipes of users: what can be trained is trained, and what cannot is refused in one sentence."""

import random
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from bat_core.adapter.importing import import_object
from bat_core.checkpoint import load_model, save_model
from bat_core.config import RecipeConfig
from bat_core.errors import InputError
from bat_core.fit import fit, initial_state
from bat_core.models import build_model
from bat_core.recipes import get_recipe, recipe_params
from bat_core.trainable import check_trainable
from bat_core.workers import Workers

GOOD = """
import random
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from bat_core.attacks import FGSM
from bat_core.recipes import OneHot, Recipe


class Net(nn.Module):
    def __init__(self, classes=10, channels=1):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(4, classes)
        self.unused = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return self.head(self.drop(F.relu(self.norm(self.conv(x))).mean((2, 3))))


def both(num_classes, image_shape):
    return Net(num_classes, image_shape[0])


def classes_only(*, num_classes):
    return Net(num_classes)


def neither():
    return Net()


def anything(**given):
    return Net(given["num_classes"], given["image_shape"][0])


given_before = partial(Net, channels=1)


def lazy(num_classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))


def tied(num_classes):
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), second, nn.Linear(64, num_classes))


def numpys(num_classes):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    with torch.no_grad():
        net[1].weight.copy_(torch.from_numpy(np.random.rand(num_classes, 64)) + random.random())
    return net


def items(num_classes):
    rates = [x.item() for x in torch.linspace(0, 0.1, 3)]  # no meta tensor has items
    return nn.Sequential(nn.Flatten(), nn.Dropout(rates[1]), nn.Linear(64, num_classes))


def recipe(*, eps=8 / 255, steps=1, loss="ce"):
    return Recipe(attack=FGSM(eps=eps, random_start=True))


class Mine(Recipe):
    pass


def with_label(*, eps=0.1, label=OneHot()):
    return Mine(attack=FGSM(eps=eps), label=label)
"""
REFUSED = {  # a factory's lines, and what is said of it
    "def net(): return 3": "returns of type int: it must return a torch.nn.Module",
    "def net(width): return None": "needs an argument 'width': give it a default",
    "def net(): raise KeyError('wide')": "KeyError: 'wide' (other.py, line",
    "def net(): raise SystemExit('no licence')": "SystemExit: no licence",
    "def net(): assert False": "AssertionError (other.py, line",
    "net = nn.Linear(2, 2)": "is a module, not a function that makes a network",
    "net = 3": "is of type int, not a function",
    "ONE = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\ndef net(): return ONE": "returns the same network twice",
    "import secrets\ndef net():\n  torch.manual_seed(secrets.randbits(60)); return flat()": "give different weights in",
    "def net(): return nn.Flatten()": "has no parameter that requires a gradient",
    "def net(): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64, affine=False))": "has no parameter",
    "def net(): return nn.Conv2d(3, 10, 8)": "expected input[1, 1, 8, 8] to have 3 channels, but got 1 channels",
    "def net(): return flat(7)": "(1, 7) in evaluation mode for 1 gray image (1, 1, 8, 8), not (1, 10): take num_cl",
    "def net(): return with_(flat(), lambda y, m: y.squeeze())": "(10,) in evaluation mode for 1 gray image",
    "def net(): return with_(flat(), lambda y, m: y.view(-1))": "keep one row for each image",
    "def net(): return with_(flat(), lambda y, m: y.view(4, 10))": "shape '[4, 10]' is invalid",
    "def net(): return with_(flat(), lambda y, m: y.detach())": "have no gradient with respect to the images",
    "def net(): return with_(flat(), lambda y, m: (y, y) if m.training else y)": "returns tuple in training mode",
    "def net(): return with_(flat(), lambda y, m: {'logits': y})": "returns dict in evaluation mode",
    "def net(): return with_(flat(), lambda y, m: y * float('nan'))": "logits that are not finite",
    "def net(): return with_(flat(), lambda y, m: y.double())": "float64 logits",
    "def net(): return flat().double()": "is float64: train a float32 network",
    "def net(): return with_(flat(), lambda y, m: y, lambda x: x.sub_(0.5))": "changes its input",
    "def net(): return with_(flat(), lambda y, m: y + bad(y))": "backward, no (other.py, line",
    "def net():\n  m = flat(); m.get_extra_state = lambda: {}; return Extra(m)": "its state_dict holds '_extra_state'",
}
OTHER = """
import torch
from torch import nn


def flat(classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


class with_(nn.Module):
    def __init__(self, net, after, before=lambda x: x):
        super().__init__()
        self.net, self.after, self.before = net, after, before

    def forward(self, x):
        return self.after(self.net(self.before(x)), self)


class Extra(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)

    def get_extra_state(self):
        return {"epoch": 3}

    def set_extra_state(self, state):
        pass


class Bad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return y * 1

    @staticmethod
    def backward(ctx, gradient):
        raise ValueError("backward, no")


bad = Bad.apply


"""
FACTORIES = (
    *("both", "classes_only", "neither", "anything", "given_before"),
    *("lazy", "tied", "numpys", "items"),
)


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a module into the working folder, and forgets it afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two texts of one length may be written in one second

    def write(name, text):
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text)

    return write


def check(config, dataset, workers=1):
    check_trainable(
        config, num_classes=dataset.num_classes, image_shape=dataset.image_shape, workers=Workers(size=workers)
    )


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_users_network_trains_and_is_rebuilt_from_its_factory(written, make_trial, digits, tmp_path, factory):
    written("mine", GOOD)
    config = make_trial(model=f"mine:{factory}", epochs=1)
    check(config, digits)
    (report,) = fit(config, digits)
    save_model(tmp_path / "model", report.state, config, digits)
    again, same = load_model(tmp_path / "model")
    assert same.model == f"mine:{factory}"
    for name, value in report.state.model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize("factory", FACTORIES)
def test_the_trials_seed_decides_its_weights_and_shifts_nothing_else(written, make_trial, digits, factory):
    written("mine", GOOD)

    def drawn(seed):
        random.random(), np.random.rand()  # what was drawn before has no influence
        model = initial_state(make_trial(model=f"mine:{factory}", seed=seed), digits, torch.device("cpu")).model
        return torch.cat([value.flatten().double() for value in model.state_dict().values()])

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))
    before = random.getstate(), np.random.get_state()[1].tolist()
    build_model(f"mine:{factory}", num_classes=10, image_shape=(1, 8, 8))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


def test_the_import_path_is_in_the_hash(make_trial):
    assert make_trial(model="a:net").hash != make_trial(model="b:net").hash


@pytest.mark.parametrize("lines", REFUSED)
def test_a_network_that_cannot_be_trained_is_refused_in_one_sentence(written, make_trial, digits, lines):
    written("other", OTHER + lines + "\n")
    with pytest.raises(InputError) as refused:
        check(make_trial(model="other:net"), digits)
    assert str(refused.value).startswith("model 'other:net'")
    assert REFUSED[lines] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_batch_norm_on_a_batch_of_one_is_refused(written, make_trial, digits):
    written("norms", OTHER + "def net(): return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10))\n")
    with pytest.raises(InputError, match=r"in training mode on 1 gray image .*Expected more than 1 value per channel"):
        check(make_trial(model="norms:net", batch_size=2), digits, workers=2)
    check(make_trial(model="norms:net", batch_size=2), digits)


def test_a_parameter_without_gradient_stops_several_workers_only(written, make_trial, digits):
    written("mine", GOOD)
    check(make_trial(model="mine:both"), digits)
    with pytest.raises(InputError, match="'unused' gets no gradient, and several workers wait for that"):
        check(make_trial(model="mine:both"), digits, workers=2)


def test_a_module_that_is_missing_comes_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"module 'absent\.nets' cannot be imported: there is no 'absent'"):
        build_model("absent.nets:net", num_classes=10, image_shape=(1, 8, 8))


def test_a_module_that_needs_a_missing_one_names_that_one(written):
    written("needy", "import absent_package\n")
    with pytest.raises(InputError, match="'needy' cannot be imported: ModuleNotFoundError: No module named 'absent_p"):
        import_object("needy:net", what="model 'needy:net'")


def test_a_changed_network_does_not_take_the_old_weights(written, make_trial, digits, tmp_path):
    written("mine", GOOD)
    config = make_trial(model="mine:both")
    save_model(tmp_path / "model", initial_state(config, digits, torch.device("cpu")), config, digits)
    written("mine", GOOD.replace("Conv2d(channels, 4,", "Conv2d(channels, 5,").replace("(4", "(5"))
    with pytest.raises(InputError, match=r"does not match the model in config\.json"):
        load_model(tmp_path / "model")


def test_a_recipe_of_a_user_has_its_parameters_and_trains(written, make_trial, digits):
    written("mine", GOOD)
    assert recipe_params("mine:recipe") == {"eps": 8 / 255, "steps": 1, "loss": "ce"}
    assert recipe_params("mine:with_label") == {"eps": 0.1}
    assert get_recipe("mine:recipe", eps=0.2).max_distance == 0.2
    config = make_trial("mine:recipe", params={"eps": 0.1}, epochs=1)
    check(config, digits)
    (report,) = fit(config, digits)
    assert report.train_loss > 0
    assert config.hash != replace(config, recipe=RecipeConfig(name="other:recipe", params={"eps": 0.1})).hash
    with pytest.raises(InputError, match="recipe 'mine:recipe' has no parameter 'beta'"):
        get_recipe("mine:recipe", beta=9.0)


BAD_RECIPES = {
    "def recipe(eps): return Recipe()": "parameter 'eps' needs a default",
    "def recipe(): return 3": "returns int: it must return a bat_core.recipes.Recipe",
    "def recipe(): raise OSError('no disk')": "OSError: no disk (bad.py, line",
    "recipe = 3": "is of type int: it must be a function or class",
    "class recipe(Recipe):\n  def perturb(self, f, x, y, rng, c): return x + 1": "crafts images outside [0, 1]",
    "class recipe(Recipe):\n  def perturb(self, f, x, y, rng, c): return x.mul_(0.5)": "changes the clean images",
    "class recipe(Recipe):\n  def perturb(self, f, x, y, rng, c): return x[:1]": "they must be alike, and detached",
    "class recipe(Recipe):\n  def perturb(self, f, x, y, rng, c): raise IndexError('far')": "IndexError: far (bad.py",
    "class recipe(Recipe):\n  def loss(self, m, x, a, y): return m(a).sum(), m(a)": "one loss for each image",
    "class recipe(Recipe):\n  def loss(self, m, x, a, y): return m(a)[:, 0] / 0, m(a)": "losses that are not finite",
}


@pytest.mark.parametrize("lines", BAD_RECIPES)
def test_a_recipe_that_cannot_train_is_refused_in_one_sentence(written, make_trial, digits, lines):
    written("bad", "from bat_core.recipes import Recipe\n" + lines + "\n")
    with pytest.raises(InputError) as refused:
        check(make_trial("bad:recipe", params={}), digits)
    assert BAD_RECIPES[lines] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["torchvision:shufflenet_v2_x0_5", "timm:resnet10t"])
def test_networks_of_packages_train(name, make_trial, digits):
    pytest.importorskip(name.partition(":")[0])
    config = make_trial(model=name)
    check_trainable(config, num_classes=3, image_shape=(3, 32, 32), workers=Workers())
    first, same, other = (weights(name, seed) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def weights(name, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(name, num_classes=3, image_shape=(3, 32, 32))
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision:resnet18", "needs colour images, not 1x8x8"),
        ("torchvision:resnet81", "unknown torchvision network 'resnet81'; did you mean 'resnet18'?"),
        ("torchvision:fcn_resnet50", "unknown torchvision network 'fcn_resnet50'"),
    ],
)
def test_a_network_of_torchvision_that_does_not_fit_is_refused(name, said):
    with pytest.raises(InputError) as refused:
        build_model(name, num_classes=10, image_shape=(1, 8, 8))
    assert said in str(refused.value)


def test_timm_missing_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"needs the package timm, which is not installed: pip install 'bat-sweeps"):
        build_model("timm:resnet18", num_classes=10, image_shape=(1, 8, 8))
