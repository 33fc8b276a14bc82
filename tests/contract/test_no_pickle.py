"""A pickle that would leave a mark, planted wherever a file from outside is read: refused, and never loaded."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
from mlflow.tracking import MlflowClient

from bat_core.checkpoint import CHECKSUMS, MODEL, OPTIMIZER, load_checkpoint, load_model, save_checkpoint, save_model
from bat_core.data import load_dataset
from bat_core.data.cifar10 import FORMAT
from bat_core.errors import InputError
from bat_core.fit import fit
from bat_core.verdicts import Verdicts
from sweeps.engine.evaluation.model_sources import find_models
from sweeps.engine.search.study import STUDY, _storage
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import RECORD, read_status
from sweeps.engine.sweep.spec import SPEC
from sweeps.engine.tracking.artifacts import download_model
from sweeps.engine.tracking.models import LOADER

CPU = torch.device("cpu")
# A state_dict in a user's own file is in tests/engine/evaluation/test_model_sources.py, where --weights is tested.


class Marks:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def marker(tmp_path):
    """The file that must not be there in the end."""
    path = tmp_path / "it-ran"
    yield path
    assert not path.exists()


WRITERS = {
    "pickle": lambda evil, path: path.write_bytes(pickle.dumps({"weight": torch.zeros(1), "x": evil})),
    "torch.save": lambda evil, path: torch.save({"weight": torch.zeros(1), "x": evil}, path),
    "torch.save of old": lambda evil, path: torch.save(evil, path, _use_new_zipfile_serialization=False),
}
written_by = pytest.mark.parametrize("writer", WRITERS)


@written_by
def test_these_pickles_do_run_where_they_are_let(tmp_path, writer):
    WRITERS[writer](Marks(tmp_path / "it-ran"), tmp_path / "file")
    if writer == "pickle":
        pickle.loads((tmp_path / "file").read_bytes())
    else:
        torch.load(tmp_path / "file", weights_only=False)
    assert (tmp_path / "it-ran").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def made(tmp_path, trained, make_trial, digits):
    """A config, and a folder with model/ and checkpoints/ of two epochs."""
    config = make_trial("Undefended", params={}, epochs=2)
    if not any(trained.iterdir()):
        for report in fit(config, digits):
            save_checkpoint(trained / "checkpoints", report.state, config, digits)
        save_model(trained / "model", report.state, config, digits)
    shutil.copytree(trained, tmp_path / "trial")
    return config, tmp_path / "trial"


def plant(path, writer, marker):
    """The file, and its digest where the folder keeps it: as whoever made the folder would."""
    WRITERS[writer](Marks(marker), path)
    known = json.loads((path.parent / CHECKSUMS).read_text())
    known[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / CHECKSUMS).write_text(json.dumps(known))


@written_by
def test_a_model_whose_weights_are_a_pickle(made, marker, writer):
    _, folder = made
    plant(folder / "model" / MODEL, writer, marker)
    with pytest.raises(InputError, match=r"model\.safetensors is not a safetensors file; no other format is loaded"):
        load_model(folder)


@written_by
@pytest.mark.parametrize("name", [MODEL, OPTIMIZER])
def test_a_checkpoint_that_is_a_pickle(made, marker, writer, digits, name):
    config, folder = made
    plant(folder / "checkpoints" / "epoch_0002" / name, writer, marker)
    with pytest.raises(InputError, match=rf"{name} is not a safetensors file; no other format is loaded"):
        load_checkpoint(folder / "checkpoints", config, digits, CPU)


@written_by
@pytest.mark.parametrize("name", ["model.pt", "checkpoint.pkl", "data.pkl", "optimizer.pt"])
def test_a_pickle_beside_is_left_alone(made, marker, digits, writer, name):
    config, folder = made
    plant(folder / "model" / name, writer, marker)
    plant(folder / "checkpoints" / "epoch_0002" / name, writer, marker)
    WRITERS[writer](Marks(marker), folder / name)
    assert load_model(folder)[1] == config
    state = load_checkpoint(folder / "checkpoints", config, digits, CPU)
    assert state is not None
    assert state.epoch == 2


@written_by
def test_a_sweep_a_record_and_verdicts_that_are_pickles(tmp_path, marker, writer):
    evil = Marks(marker)
    for name in (SPEC, RECORD, "verdicts.parquet", "report.json"):
        WRITERS[writer](evil, tmp_path / name)
    folder = SweepFolder(tmp_path)
    with pytest.raises(InputError, match=r"sweep\.json is not a valid sweep: not valid JSON"):
        folder.load()
    with pytest.raises(InputError, match=r"report\.json': not valid JSON"):
        folder.report()
    with pytest.raises(InputError, match="is not a complete verdicts file"):
        Verdicts.read(tmp_path / "verdicts.parquet")
    assert read_status(tmp_path).phase == "waiting"


@written_by
def test_a_study_that_is_a_pickle(tmp_path, marker, writer):
    WRITERS[writer](Marks(marker), tmp_path / STUDY)
    with pytest.raises(InputError, match=r"study\.journal' is damaged"):
        _storage(tmp_path / STUDY)


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """An MLflow of this file's own."""
    folder = tmp_path_factory.mktemp("mlflow")
    client = MlflowClient(f"sqlite:///{folder / 'tracking.db'}")
    return client, client.create_experiment("foreign", artifact_location=(folder / "artifacts").as_uri())


@pytest.fixture
def registry(tracking, tmp_path, monkeypatch):
    """Logs a folder as the model of a run and gives its URI."""
    client, experiment = tracking
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    mlflow.set_tracking_uri(client.tracking_uri)

    def log(folder, described):
        run = client.create_run(experiment)
        (folder / "MLmodel").write_text(described.replace("RUN", run.info.run_id))
        client.log_artifacts(run.info.run_id, str(folder), "model")
        return f"runs:/{run.info.run_id}/model"

    return log


MLMODEL = """
artifact_path: model
flavors:
  python_function:
    loader_module: {loader}
    data: {data}
{more}
run_id: RUN
"""
FOREIGN = {
    "a Python model": ("mlflow.pyfunc.model", "    python_model: python_model.pkl"),
    "PyTorch's flavour": ("mlflow.pytorch", "  pytorch:\n    model_data: data\n    pytorch_version: 2.15.0"),
    "scikit-learn's": ("mlflow.sklearn", "  sklearn:\n    pickled_model: model.pkl\n    serialization_format: pickle"),
    "code that it brings": ("brought", "    code: code"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_model_in_mlflow_that_is_none_of_ours(tmp_path, marker, registry, kind):
    folder = tmp_path / "foreign"
    (folder / "data").mkdir(parents=True)
    (folder / "code").mkdir()
    for name in ("python_model.pkl", "model.pkl", "data/model.pth", "data/pickle_module_info.txt"):
        WRITERS["pickle"](Marks(marker), folder / name)
    (folder / "code" / "brought.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()")
    loader, more = FOREIGN[kind]
    uri = registry(folder, MLMODEL.format(loader=loader, data="data", more=more))
    with pytest.raises(InputError, match="was not logged by bat-sweeps: loading it could run foreign code"):
        find_models([uri], weights=None, downloads=tmp_path / "downloads")


@written_by
def test_a_model_in_mlflow_that_says_it_is_ours_and_is_a_pickle(tmp_path, made, marker, registry, writer):
    _, trial = made
    folder = tmp_path / "ours"
    shutil.copytree(trial / "model", folder / "model")
    plant(folder / "model" / MODEL, writer, marker)
    more = "    code: code\n    python_model: model/model.safetensors"
    (folder / "code" / "sweeps").mkdir(parents=True)
    (folder / "code" / "sweeps" / "__init__.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()")
    uri = registry(folder, MLMODEL.format(loader=LOADER, data="model", more=more))
    with pytest.raises(InputError, match="is not a safetensors file; no other format is loaded"):
        find_models([uri], weights=None, downloads=tmp_path / "downloads")


def test_a_model_in_mlflow_whose_description_builds_objects(tmp_path, marker, registry):
    (tmp_path / "yaml").mkdir()
    path = f"!!python/object/apply:pathlib.Path [{marker}]"
    described = f"run_id: RUN\nflavors: !!python/object/apply:pathlib.Path.touch [{path}]"
    uri = registry(tmp_path / "yaml", described)
    with pytest.raises(InputError, match="its MLmodel cannot be read: ConstructorError"):
        download_model(uri, tmp_path / "downloads")


@pytest.mark.parametrize("data", ["../outside", "/etc", "..", ".", "", "null"])
def test_a_model_in_mlflow_that_leads_out_of_its_folder(tmp_path, made, registry, data):
    _, trial = made
    shutil.copytree(trial / "model", tmp_path / "downloads" / "outside")
    (tmp_path / "ours").mkdir()
    uri = registry(tmp_path / "ours", MLMODEL.format(loader=LOADER, data=json.dumps(data), more=""))
    if data == "null":
        with pytest.raises(InputError, match="no model in"):
            find_models([uri], weights=None, downloads=tmp_path / "downloads")
        return
    with pytest.raises(InputError, match="is not a valid file name"):
        find_models([uri], weights=None, downloads=tmp_path / "downloads")


def test_cifar10_as_pickles_is_refused_with_the_remedy(tmp_path, marker):
    folder = tmp_path / "data" / FORMAT.pickled
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        WRITERS["pickle"](Marks(marker), folder / name)
    with pytest.raises(InputError) as caught:
        load_dataset("cifar10", tmp_path / "data")
    assert str(caught.value) == (
        f"{tmp_path / 'data'} has neither train-*.parquet nor cifar-10-batches-bin/, only cifar-10-batches-py/,"
        " whose pickles can run code: give a folder with one of them, or add --download to fetch cifar-10-batches-bin/"
    )


@written_by
def test_images_that_are_pickles(tmp_path, marker, writer):
    WRITERS[writer](Marks(marker), tmp_path / "file")
    evil = (tmp_path / "file").read_bytes()
    folder = tmp_path / "data"
    folder.mkdir()
    for split in ("train", "test"):
        table = pa.table({"img": [{"bytes": evil, "path": "../../x"}], "label": [0]})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    with pytest.raises(InputError, match="cannot decode an image"):
        load_dataset("cifar10", folder)
    (folder / "train-00000-of-00001.parquet").write_bytes(evil)
    with pytest.raises(InputError, match="as Parquet, it is truncated or damaged"):
        load_dataset("cifar10", folder)


def test_a_parquet_file_whose_types_are_pickles(tmp_path, marker):
    """Arrow of old rebuilt extension types by loading their metadata (CVE-2023-47248)."""
    evil = pickle.dumps(Marks(marker))
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": evil}
    for split in ("train", "test"):
        fields = [pa.field("img", pa.binary(), metadata=metadata), pa.field("label", pa.int64(), metadata=metadata)]
        table = pa.table([pa.array([evil]), pa.array([0])], schema=pa.schema(fields, metadata={b"pandas": evil}))
        pq.write_table(table, tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(InputError, match="cannot decode an image"):
        load_dataset("cifar10", tmp_path)


def test_svhn_as_anything_but_the_published_file(tmp_path, marker):
    """torchvision compares digests before scipy reads."""
    WRITERS["pickle"](Marks(marker), tmp_path / "train_32x32.mat")
    with pytest.raises(InputError, match=r"nor a valid train_32x32\.mat"):
        load_dataset("svhn", tmp_path)
    objects = np.empty(1, dtype=object)
    objects[0] = {"x": pickle.dumps(Marks(marker))}
    scipy.io.savemat(tmp_path / "train_32x32.mat", {"X": objects, "y": [1]})
    with pytest.raises(InputError, match=r"nor a valid train_32x32\.mat"):
        load_dataset("svhn", tmp_path)
