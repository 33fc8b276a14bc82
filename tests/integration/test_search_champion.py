"""From the front to a champion: trained anew, chosen on validation images, tested once, registered, loaded back."""

import json
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from bat_core.attacks import pgd
from bat_core.checkpoint import load_model
from bat_core.data import load_dataset, to_unit
from tests.integration.running import Output, Place

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SMALL = ("--epochs", "3", "--train-size", "400", "--val-size", "40", "--test-size", "20", "--model", "small_cnn_8")
FINAL = ("--finalists", "1", "--seeds", "0", "1", "--final-epochs", "4", "--rule", "knee", "--register", "nets")
OF_SEEDS = {"final-{}-seed0-4epochs", "final-{}-seed1-4epochs"}


class Crowned(NamedTuple):
    place: Place
    output: Output
    printed: str

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.place.uri)


@pytest.fixture(scope="module")
def crowned(tmp_path_factory: pytest.TempPathFactory) -> Crowned:
    place = Place(tmp_path_factory.mktemp("champion"))
    arguments = ("--num-trials", "2", "--early-stopping", "none", "--set", "num_steps=1", "--output", "out")
    code, printed = place.run("search.py", *SMALL, *FINAL, *arguments)
    assert code == 0, printed
    return Crowned(place, place.sweep("out"), printed)


def finalists(crowned: Crowned) -> list:
    return [trial for trial in crowned.output.folder.trials(crowned.output.spec) if trial.role == "finalist"]


def test_the_best_of_the_front_trains_anew_with_every_seed(crowned: Crowned) -> None:
    trials = finalists(crowned)
    (origin,) = {trial.id.removeprefix("final-").rpartition("-seed")[0] for trial in trials}
    assert {trial.id for trial in trials} == {name.format(origin) for name in OF_SEEDS}
    assert [trial.config.seed for trial in trials] == [0, 1]
    statuses = crowned.output.statuses()
    assert [len(statuses[trial.id].epochs) for trial in trials] == [4, 4]
    searched = next(t for t in crowned.output.folder.trials(crowned.output.spec) if t.id == origin)
    assert all(trial.config.recipe == searched.config.recipe for trial in trials)


def test_it_is_chosen_on_validation_and_tested_once_by_autoattack(crowned: Crowned) -> None:
    found = {}
    for split in ("val", "test"):
        (folder,) = crowned.output.folder.path.glob(f"{split}-*")
        found[split] = [json.loads((folder / trial.id / "summary.json").read_text()) for trial in finalists(crowned)]
    assert {(one["split"], one["n"], one["suite"]) for one in found["val"]} == {("val", 40, "quick")}
    assert {(one["split"], one["n"], one["suite"]) for one in found["test"]} == {("test", 20, "standard")}
    report = crowned.output.file("report.md").decode()
    for one in found["test"]:
        assert f"{one['robust_acc']:.1%}" in report
    assert "The rule is `knee`" in report


def test_the_champion_is_registered_with_its_rule(crowned: Crowned) -> None:
    version = crowned.client.get_model_version_by_alias("nets", "champion")
    run = crowned.client.get_run(version.run_id)
    for said in (version.description, run.data.tags["mlflow.note.content"]):
        assert said.startswith("Chosen by the rule knee from 1 finalists with 2 seeds each, on validation images")
        assert "On test images, evaluated once" in said
    assert run.info.run_name in {trial.id for trial in finalists(crowned)}
    assert f"champion: models:/nets@champion, version {version.version}" in crowned.printed


def test_it_comes_back_as_a_module_that_can_be_attacked(crowned: Crowned, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(crowned.place.uri)
    loaded = mlflow.pyfunc.load_model("models:/nets@champion")
    model = loaded.get_raw_model()
    name = crowned.client.get_run(loaded.metadata.run_id).info.run_name
    own, config = load_model(crowned.output.folder.path / "trials" / name)
    test = load_dataset("digits").test.take(slice(20))
    x, y = to_unit(test.images), test.labels
    torch.testing.assert_close(model(x), own(x), rtol=0, atol=0)
    np.testing.assert_allclose(loaded.predict(x.numpy()), own(x).detach().numpy())
    x_adv = pgd(model, x, y, eps=config.attack.eps, step_size=config.attack.step_size, num_steps=5)
    assert not torch.equal(x_adv, x)
    files = mlflow.artifacts.download_artifacts("models:/nets@champion", dst_path=str(tmp_path))
    assert {"model.safetensors", "config.json"} <= {path.name for path in Path(files).rglob("*")}


def test_gone_on_with_it_trains_and_registers_nothing_again(crowned: Crowned) -> None:
    before = crowned.output.statuses()
    tested = sorted(path.stat().st_mtime_ns for path in crowned.output.folder.path.glob("*/*/verdicts.parquet"))
    code, printed = crowned.place.again("search.py", "--resume", "out")
    assert code == 0, printed
    assert crowned.output.statuses() == before
    after = sorted(path.stat().st_mtime_ns for path in crowned.output.folder.path.glob("*/*/verdicts.parquet"))
    assert after == tested
    assert len(crowned.client.search_model_versions("name = 'nets'")) == 1


def test_a_second_search_learns_from_it(crowned: Crowned) -> None:
    arguments = ("--early-stopping", "none", "--set", "num_steps=1", "--num-trials", "1", "--sampler", "tpe")
    arguments += ("--warm-start", "out")
    code, printed = crowned.place.run("search.py", *SMALL, *arguments, "--output", "taught")
    assert code == 0, printed
    assert len(crowned.place.sweep("taught").statuses()) == 1
    for change, words in (
        ({"--eps": "20/255"}, "attack.eps is"),
        ({"--train-size": "300"}, "its data.train_size is 400, and this search's is 300"),
    ):
        settings = dict(zip(SMALL[::2], SMALL[1::2], strict=True)) | change
        code, printed = crowned.place.again(
            "search.py", *(word for pair in settings.items() for word in pair), *arguments, "--output", "refused"
        )
        assert code == 2
        assert words in printed, printed
        assert not (crowned.place.path / "refused").exists()


def test_a_search_of_another_space_teaches_nothing(crowned: Crowned) -> None:
    code, printed = crowned.place.again(
        "search.py", *SMALL[2:], "--space", "bat", "schedule", "--warm-start", "out", "--output", "refused"
    )
    assert code == 2
    assert "searched another data set or space: it lacks parameter" in printed
    assert not (crowned.place.path / "refused").exists()
