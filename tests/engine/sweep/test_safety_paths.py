"""Names that files bring along do not lead out of the folder they belong to."""

import json
import shutil
from pathlib import Path

import pytest

from bat_core.checkpoint import CHECKSUMS, read_description
from bat_core.config import TrialConfig, to_dict
from bat_core.errors import InputError, check_file_name
from bat_core.jsontext import read_json
from sweeps.engine.evaluation.attack import EvaluationFolder
from sweeps.engine.evaluation.model_sources import ModelSource, _with_own_names
from sweeps.engine.evaluation.spec import ModelRecord
from sweeps.engine.search.spec import Final
from sweeps.engine.sweep.folder import REPORT, SPEC, TRIAL, SweepFolder
from sweeps.engine.sweep.spec import Report, Resources, Sweep, Trial
from sweeps.engine.transfer.craft import Matrix, MatrixFolder
from tests.engine.evaluation.evaluations import evaluation

NAMES = {
    "up": "../../x",
    "above": "..",
    "here": ".",
    "absolute": "/tmp/x",
    "deeper": "a/b",
    "backwards": "..\\x",
    "NUL": "a\0b",
    "nothing": "",
    "blank": "a b",
    "line": "a\n",
    "hidden": ".lock",
    "an option": "-rf",
    "a quote": "a' or 'a",
    "half a character": "a\ud800",
    "long": "a" * 201,
    "long in bytes": "ä" * 150,
}
leads_out = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
REFUSAL = "is no name for a file"


def sweep_of(*trials, **more):
    return Sweep(name="s", command="", data_dir=None, pixel=0.1, resources=Resources(), trials=tuple(trials), **more)


@pytest.fixture
def folder(tmp_path):
    """A sweep's folder with one trial, two levels below a folder that is to stay empty."""
    folder = SweepFolder(tmp_path / "outer" / "sweep")
    folder.create(sweep_of(Trial(id="a", config=TrialConfig())))
    return folder


def change(path: Path, where: tuple[str | int, ...], value):
    content = json.loads(path.read_text())
    place = content
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["a", "eps0.25-seed0", "final-trial-003-seed1-40epochs", "ärger", "x" * 200, "1+1"])
def test_ordinary_names_pass(name):
    check_file_name("x", name)


@leads_out
def test_a_trial_of_a_sweep(folder, name):
    change(folder.path / SPEC, ("trials", 0, "id"), name)
    with pytest.raises(InputError, match=REFUSAL):
        folder.load()


@leads_out
@pytest.mark.parametrize("field", ["id", "name"])
def test_a_sweeps_own_name(folder, field, name):
    """It names a folder of Ray's, and stands in questions to MLflow."""
    change(folder.path / SPEC, (field,), name)
    with pytest.raises(InputError, match=REFUSAL):
        folder.load()


@leads_out
def test_a_trial_that_is_asked_for_by_its_id(folder, name):
    with pytest.raises(InputError, match=REFUSAL):
        folder.find(sweep_of(open=True), name)


@leads_out
def test_a_trial_that_was_proposed(folder, name):
    sweep = sweep_of(open=True)
    folder.propose(Trial(id="b", config=TrialConfig()))
    change(folder.path / "trials" / "b" / TRIAL, ("id",), name)
    with pytest.raises(InputError, match=REFUSAL):
        folder.trials(sweep)


def test_a_trial_that_bears_anothers_name(folder):
    sweep = sweep_of(open=True)
    folder.propose(Trial(id="b", config=TrialConfig()))
    change(folder.path / "trials" / "b" / TRIAL, ("id",), "c")
    with pytest.raises(InputError, match="a trial lies in the folder of its own name"):
        folder.trials(sweep)
    with pytest.raises(InputError, match="a trial lies in the folder of its own name"):
        folder.find(sweep, "b")


@leads_out
def test_a_file_of_a_report(folder, name):
    """It would be read, and sent to MLflow."""
    folder.write_report(Report(files=("figure.png",), sentence=""))
    change(folder.path / REPORT, ("files", 0), name)
    with pytest.raises(InputError, match=REFUSAL):
        folder.report()


@leads_out
def test_a_file_of_a_models_checksums(tmp_path, name):
    (tmp_path / CHECKSUMS).write_text(json.dumps({"config.json": "", "model.safetensors": "", name: ""}))
    with pytest.raises(InputError, match=REFUSAL):
        read_description(tmp_path)


@leads_out
@pytest.mark.parametrize("field", ["models", "transfer_from"])
def test_a_model_of_an_evaluation(tmp_path, field, name):
    place = EvaluationFolder(tmp_path / "evaluation")
    one = evaluation("net", suite="quick")
    place.create(one)
    examined = to_dict(one.models[0]) | {"source": {"name": name, "factory": "nets:net"}}
    change(place.path / "evaluation.json", (field,), [examined])
    with pytest.raises(InputError, match=REFUSAL):
        place.load()


@leads_out
def test_a_model_of_a_transfer_matrix(tmp_path, name):
    place, one = MatrixFolder(tmp_path / "matrix"), evaluation("net")
    known = {field: value for field, value in vars(one).items() if field in Matrix.__dataclass_fields__}
    place.create(Matrix(**known))
    change(place.path / "transfer.json", ("models", 0, "source", "name"), name)
    with pytest.raises(InputError, match=REFUSAL):
        place.load()


@leads_out
def test_a_model_whose_name_comes_from_mlflow_gets_a_safe_one(name):
    """A run may be called anything; what becomes a folder is made of it."""
    (source,) = _with_own_names([ModelSource(name=name)])
    assert ModelRecord(source=source, fingerprint="").source.name == source.name


@pytest.mark.parametrize("name", ["a/b", "a'b", 'a"b', "a:b", "", "a\0"])
def test_a_name_that_the_registry_would_take_for_something_else(name):
    with pytest.raises(InputError, match="is no name for a model"):
        Final(count=1, epochs=None, seeds=(0,), rule="r", registered_name=name)


def test_nothing_was_written_outside(folder, tmp_path):
    """The whole way, with one bad trial among the good: nothing is made, not even for the good ones."""
    spec = json.loads((folder.path / SPEC).read_text())
    spec["trials"].append(spec["trials"][0] | {"id": "../../../escaped"})
    (folder.path / SPEC).write_text(json.dumps(spec))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=REFUSAL):
        folder.load()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": NaN}', "NaN is no JSON value"),
        ('{"a": -Infinity}', "-Infinity is no JSON value"),
        ('{"a": 1, "a": 2}', "key 'a' stands in one object twice"),
        ('{"b": {"a": 1, "a": 1}}', "key 'a' stands in one object twice"),
        ("[" * 100_000, "nested too deep"),
        ("{", "no JSON"),
        (b"\xff", "no JSON"),
        ("1" * 5000, "no JSON"),
        ("", "no JSON"),
    ],
)
def test_json_is_read_strictly(text, said):
    with pytest.raises(InputError, match=said) as caught:
        read_json(text)
    assert len(str(caught.value)) < 300


def test_a_folder_that_is_a_copy_is_read_like_the_original(folder, tmp_path):
    shutil.copytree(folder.path, tmp_path / "copy")
    assert SweepFolder(tmp_path / "copy").load() == folder.load()
