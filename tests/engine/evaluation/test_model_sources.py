"""What a person may name as a model, what is made of it, and what is refused without being run."""

import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bat_core.checkpoint import load_model
from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.errors import InputError
from sweeps.engine.evaluation.model_sources import ModelSource, _with_unique_names, find_models, fingerprint
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial

FINISHED, STOPPED, WAITING = "finished-one", "stopped-one", "waiting-one"


CONFIG = TrialConfig(
    data=DataConfig(train_size=128, val_size=32, test_size=64),
    model="small_cnn_8",
    recipe=RecipeConfig(name="Undefended"),
    train=TrainConfig(epochs=2, batch_size=32, val_steps=1),
    attack=AttackConfig(eps=40 / 255, step_size=10 / 255, steps=(1,), verify=0),
)


class Killed(BaseException):
    """Stands in for a signal."""


def kill(_):
    raise Killed


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, digits):
    """A sweep's folder: one trial is finished, one was killed after its first epoch, one has not begun."""
    folder = SweepFolder(tmp_path_factory.mktemp("sweep"))
    trials = [Trial(id=name, config=replace(CONFIG, seed=n)) for n, name in enumerate((FINISHED, STOPPED, WAITING))]
    folder.create(
        Sweep(name="s", command="", data_dir="/images", pixel=5 / 255, resources=Resources(), trials=tuple(trials))
    )
    run_trial(trials[0], digits, folder.trial(trials[0]), TrialRuntime(device=torch.device("cpu")))
    with pytest.raises(Killed):
        run_trial(trials[1], digits, folder.trial(trials[1]), TrialRuntime(device=torch.device("cpu")), report=kill)
    return folder


NETS = """
from torch import nn

def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def trained():
    return linear().train()

def wanting(width):
    return linear()

def text():
    return "a model"

number = 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a module of the person's own, `nets`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets.py").write_text(NETS)
    yield tmp_path
    sys.modules.pop("nets", None)


def find(*names, weights=None):
    return find_models([str(name) for name in names], weights=weights, downloads=Path("downloads"))


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


def refused(*names, weights=None) -> str:
    with pytest.raises(InputError) as caught:
        _ = [source.load() for source in find(*names, weights=weights)]
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("place", ["", "model"])
def test_a_finished_trial_is_known_by_its_folder_and_by_its_models(sweep, place):
    folder = sweep.path / "trials" / FINISHED / place
    (source,) = find(folder)
    spec = sweep.load()
    assert (source.name, source.dataset, source.data_dir) == (FINISHED, "digits", "/images")
    assert (source.sweep_id, source.trial_id) == (spec.id, FINISHED)
    assert same_weights(source.load(), load_model(folder)[0])


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/epoch_0001"])
def test_a_trial_that_is_not_finished_is_known_by_its_checkpoint(sweep, place):
    folder = sweep.path / "trials" / STOPPED / place
    (source,) = find(folder)
    assert (source.name, source.sweep_id, source.trial_id) == (STOPPED, sweep.load().id, STOPPED)
    assert same_weights(source.load(), load_model(folder)[0])


def test_a_sweep_stands_for_its_finished_trials(sweep):
    assert [(source.name, source.trial_id) for source in find(sweep.path)] == [(FINISHED, FINISHED)]


def test_a_sweep_none_of_whose_trials_is_finished(sweep, tmp_path):
    shutil.copytree(sweep.path, tmp_path / "copy", ignore=shutil.ignore_patterns(FINISHED))
    assert "copy' has no finished trial yet" in refused(tmp_path / "copy")


def test_a_model_outside_any_sweep_belongs_to_none(sweep, tmp_path):
    shutil.copytree(sweep.path / "trials" / FINISHED / "model", tmp_path / "robust")
    (source,) = find(tmp_path / "robust")
    assert (source.name, source.dataset, source.data_dir) == ("robust", "digits", None)
    assert (source.sweep_id, source.trial_id, source.run_id) == ("", "", "")


def test_names_may_be_mixed_and_keep_their_order(sweep, here):
    sources = find("nets:linear", sweep.path, sweep.path / "trials" / STOPPED)
    assert [source.name for source in sources] == ["nets.linear", FINISHED, STOPPED]


def test_a_damaged_model_is_refused(sweep, tmp_path):
    shutil.copytree(sweep.path / "trials" / FINISHED / "model", tmp_path / "robust")
    weights = tmp_path / "robust" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    assert "is damaged" in refused(tmp_path / "robust")


def test_a_folder_without_a_model_and_a_name_for_nothing(here):
    assert "no model in" in refused(here)
    assert "'nowhere' is not a folder, an MLflow URI" in refused("nowhere")


def test_a_factory_is_imported_from_the_working_folder(here):
    (source,) = find("nets:linear")
    assert (source.name, source.factory, source.dataset, source.sweep_id) == ("nets.linear", "nets:linear", None, "")
    model = source.load()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_model_comes_in_the_mode_its_owner_left_it_in(sweep, here):
    in_training, judged = find("nets:trained", sweep.path)
    assert in_training.load().training
    assert not judged.load().training


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("netz:linear", "module 'netz' cannot be imported"),
        ("nets:nothing", "has no 'nothing'"),
        ("nets:wanting", "missing 1 required positional argument"),
        ("nets:number", "must be callable without arguments"),
        ("nets:text", "returns str: it must return a torch.nn.Module"),
    ],
)
def test_a_factory_that_makes_no_model(here, name, words):
    assert words in refused(name)


@pytest.fixture
def weights():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict()


SAVERS = {
    "net.safetensors": save_file,
    "net.pt": torch.save,
    "nested.pth": lambda weights, path: torch.save({"state_dict": weights, "epoch": torch.tensor(3)}, path),
    "old.pt": lambda weights, path: torch.save(weights, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", SAVERS)
def test_a_factory_with_weights(here, weights, name):
    SAVERS[name](weights, here / name)
    (source,) = find("nets:linear", weights=Path(name))
    assert Path(source.weights).is_absolute()  # a process elsewhere finds them too
    loaded = source.load().state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in weights.items())


class RunsCode:
    """A pickle of it touches a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


PICKLES = {
    "a state_dict with a passenger": lambda evil, weights, path: torch.save({**weights, "0.extra": evil}, path),
    "a passenger alone": lambda evil, weights, path: torch.save(evil, path),
    "a plain pickle": lambda evil, weights, path: path.write_bytes(pickle.dumps({**weights, "x": evil}, protocol=2)),
    "named as if it were safe": lambda evil, weights, path: torch.save(
        evil, path.with_suffix(".safetensors").as_posix()
    ),
    "a whole module": lambda evil, weights, path: torch.save(nn.Linear(64, 10), path),
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_refused_and_nothing_in_it_runs(here, weights, name):
    marker = here / "it ran"
    PICKLES[name](RunsCode(marker), weights, here / "net.pt")
    (file,) = here.glob("net.*")
    said = refused("nets:linear", weights=file)
    assert file.name in said
    assert not marker.exists()


def test_the_pickles_of_this_test_do_run_code_where_they_are_let(here):
    torch.save(RunsCode(here / "it ran"), here / "net.pt")
    torch.load(here / "net.pt", weights_only=False)
    assert (here / "it ran").exists()


def other_shape(weights):
    return {"1.weight": torch.zeros(10, 63), "1.bias": weights["1.bias"]}


def other_names(weights):
    return {f"2.{name}": tensor for name, tensor in zip(("weight", "bias"), weights.values(), strict=True)}


@pytest.mark.parametrize(
    ("change", "told"), [(other_shape, "1.weight"), (other_names, "and 1 more; build the architecture")]
)
@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
def test_weights_that_do_not_fit_say_what_does_not(here, weights, change, told, name):
    SAVERS[name](change(weights), here / name)
    said = refused("nets:linear", weights=here / name)
    assert f"{name}' does not fit the model" in said
    assert told in said


@pytest.mark.parametrize("name", ["net.safetensors", "net.pt"])
@pytest.mark.parametrize(("content", "words"), [(b"no weights at all", "net"), (None, "No such file")])
def test_a_file_of_weights_that_cannot_be_read(here, name, content, words):
    if content is not None:
        (here / name).write_bytes(content)
    said = refused("nets:linear", weights=here / name)
    assert words in said
    assert said.count("--weights") == 1


def test_a_list_of_tensors_is_no_state_dict(here, weights):
    torch.save(list(weights.values()), here / "net.pt")
    assert "is not a state_dict" in refused("nets:linear", weights=here / "net.pt")


@pytest.mark.parametrize("names", [["trial"], ["nets:linear", "nets:trained"], ["nets:linear", "trial"], []])
def test_weights_belong_to_one_factory(here, sweep, weights, names):
    save_file(weights, here / "net.safetensors")
    (here / "trial").symlink_to(sweep.path / "trials" / FINISHED)
    assert "--weights applies to one package.module:factory" in refused(*names, weights=here / "net.safetensors")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["x", "x", "y", "x"], ["x", "x-2", "y", "x-3"]),
        (["a b/c", "a-b-c"], ["a-b-c", "a-b-c-2"]),
        (["ärger", "m_1.5+e"], ["ärger", "m_1.5+e"]),
    ],
)
def test_models_of_one_name_get_folders_of_their_own(given, expected):
    assert [source.name for source in _with_unique_names([ModelSource(name=name) for name in given])] == expected


@pytest.mark.parametrize("given", [["x", "x", "x-2"], ["x-2", "x", "x"], ["x", "x-2", "x", "x-3", "x"]])
def test_a_name_that_looks_numbered_is_not_given_twice(given):
    named = [source.name for source in _with_unique_names([ModelSource(name=name) for name in given])]
    assert len(set(named)) == len(given)


def test_two_models_of_one_name_stay_two(sweep, tmp_path):
    shutil.copytree(sweep.path / "trials" / STOPPED / "checkpoints" / "epoch_0001", tmp_path / FINISHED)
    one, other = find(sweep.path / "trials" / FINISHED, tmp_path / FINISHED)
    assert (one.name, other.name) == (FINISHED, f"{FINISHED}-2")
    assert fingerprint(one.load()) != fingerprint(other.load())


def test_a_fingerprint_is_that_of_the_weights_and_their_names():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = fingerprint(model)
    assert fingerprint(model.to(memory_format=torch.channels_last)) == before
    model[1].running_mean[0] += 1e-6
    assert fingerprint(model) != before
    assert fingerprint(nn.ModuleDict({"a": nn.Identity()})) == fingerprint(nn.Identity())
