"""What a colleague sees in MLflow, in a real browser: the leaderboard, a sweep, its trials, its models."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from mlflow.entities import Run

from bat_core.config import SecondThreat
from bat_core.norms import UNION
from sweeps.engine.paper.figure_1 import draw
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import Record
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
from sweeps.engine.tracking.names import MOST_PARAMS
from sweeps.engine.tracking.sync import SweepSync
from tests.integration.browser import content, find, words
from tests.integration.servers import Server

pytestmark = pytest.mark.slow


class Site:
    """A server that has one sweep: two verified seeds, one unverified model, one stopped early, one undefended."""

    def __init__(self, folder: Path, server: Server, syncing: SweepSync) -> None:
        self.folder, self.server, self.syncing = folder, server, syncing

    def text(self, path: str) -> str:
        return words(self.html(path))

    def html(self, path: str) -> str:
        return content(f"{self.server.uri}{path}", self.folder / "browser")

    def run(self, trial: str) -> Run:
        found = self.syncing.runs.find_trial(self.syncing.sweep.id, trial)
        assert found is not None
        return found

    def page(self, trial: str) -> str:
        run = self.run(trial)
        return self.text(f"/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, digits, make_digits_trial) -> Iterator[Site]:
    find()
    folder = tmp_path_factory.mktemp("site")
    config = make_digits_trial
    unverified = replace(config, attack=replace(config.attack, verify=0))
    plain = replace(config, recipe=replace(config.recipe, name="Undefended", params={}))
    trials = (
        *(Trial(id=f"eps8-seed{seed}", config=replace(config, seed=seed)) for seed in (0, 1)),
        Trial(id="unverified", config=replace(unverified, seed=2)),
        Trial(id="undefended", config=plain, role="reference"),
        Trial(id="pruned", config=replace(config, seed=3)),
    )
    place = SweepFolder(folder / "eps_budget-site")
    sweep = Sweep(
        name="eps_budget", command="python sweeps/eps_budget.py", data_dir=None, pixel=5 / 255,
        resources=Resources(), trials=trials,
    )  # fmt: skip
    place.create(sweep)
    for trial in trials[:-1]:
        run_trial(trial, digits, place.trial(trial), TrialRuntime(device=torch.device("cpu")))
    record = Record(place.trial(trials[-1]))
    record.append("start")
    record.append("epoch", epoch=1, val_clean_acc=0.2, val_robust_acc=0.1, seconds=1.0)
    record.append("stopped", reason="successive halving at epoch 1")
    place.write_report(draw(sweep, place))
    server = Server(folder)
    server.start()
    try:
        syncing = SweepSync(sweep, place, uri=server.uri)
        syncing.sync()
        yield Site(folder, server, syncing)
    finally:
        server.kill()


@pytest.fixture(scope="module")
def make_digits_trial():
    from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig

    return TrialConfig(
        data=DataConfig(train_size=128, val_size=32, test_size=64),
        model="small_cnn_8",
        recipe=RecipeConfig(name="R-MC-LA", params={"eps": 40 / 255}),
        train=TrainConfig(epochs=2, batch_size=32, val_steps=5, precision="float32"),
        attack=AttackConfig(eps=40 / 255, step_size=10 / 255, steps=(1, 2, 3), batch_size=32, verify=32),
    )


def test_the_link_opens_a_leaderboard_sorted_by_verified_robust_accuracy(site: Site) -> None:
    page = site.html(site.syncing.leaderboard())
    text = words(page)
    for head in ("robust_acc", "clean_acc", "bat.verdict", "recipe", "budget", "seed", "bat.suite"):
        assert f" {head} " in text
    assert "Sort: robust_acc" in text
    assert "5 models on digits: " in text
    rows = dict(re.findall(r'(?s)row-index="(\d+)"(?:(?!row-index).)*?/runs/(\w{32})', page))
    order = [site.syncing.runs.get(rows[number]) for number in sorted(rows, key=int)]
    robust = [run.data.metrics.get("robust_acc", -1.0) for run in order]
    assert robust == sorted(robust, reverse=True)
    assert [number >= 0 for number in robust] == [True] * 3 + [False] * 3


def test_the_leaderboard_of_a_search_in_two_norms_has_each_and_both_and_is_sorted_by_both(
    site: Site, digits, make_digits_trial
) -> None:
    attack = replace(make_digits_trial.attack, split="val", second=SecondThreat(norm="l2", eps=0.4))
    budgets = {"small": 10 / 255, "large": 40 / 255}
    trials = tuple(
        Trial(id=name, config=replace(make_digits_trial, attack=replace(attack, eps=eps)))
        for name, eps in budgets.items()
    )
    place = SweepFolder(site.folder / "two_norms")
    threats = (UNION, "linf", "l2")
    sweep = Sweep(
        name="two_norms", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=trials,
        threats=threats,
    )  # fmt: skip
    place.create(sweep)
    for trial in trials:
        run_trial(trial, digits, place.trial(trial), TrialRuntime(device=torch.device("cpu")))
    syncing = SweepSync(sweep, place, uri=site.server.uri)
    syncing.sync()
    both = Site(site.folder, site.server, syncing)
    reached = {trial.id: both.run(trial.id).data.metrics for trial in trials}
    verified = [one for one in reached.values() if f"robust_acc_{UNION}_val" in one]
    assert verified, "a model of which the gradients are masked is verified in no norm"
    for one in verified:
        union, *each = (one[f"robust_acc_{threat}_val"] for threat in threats)
        assert union <= min(each)
    text = both.text(syncing.leaderboard())
    for threat in threats:
        assert f" robust_acc_{threat}_val " in text
    assert f"Sort: robust_acc_{UNION}_val" in text


def test_a_number_that_is_not_verified_has_a_name_of_its_own(site: Site) -> None:
    seen, unseen = site.run("eps8-seed0").data.metrics, site.run("unverified").data.metrics
    assert "robust_acc" in seen
    assert "robust_acc_not_verified" not in seen
    assert "robust_acc_not_verified" in unseen
    assert "robust_acc" not in unseen
    assert {"val/pgd5_acc", "test_by_attack_steps/pgd_ce_final", "system/epoch_seconds"} <= set(seen)
    for trial in ("eps8-seed0", "undefended"):
        params = site.run(trial).data.params
        assert len(params) <= MOST_PARAMS
        assert "None" not in params.values()
    assert site.run("eps8-seed0").data.params["budget"] == "40/255 (8 px)"


def test_a_trials_page_describes_it_and_shows_its_pictures(site: Site) -> None:
    text = site.page("eps8-seed0")
    assert "small_cnn_8 trained by R-MC-LA on digits, 128 training images, budget 40/255 (8 px)" in text
    assert "(verified), clean" in text
    files = re.findall(r"\[picture get-artifact\?path=([\w.]+)", unquote(text))
    assert files == ["curves.png", "gallery.png"]
    assert "System metrics" in text
    assert "digits (" in text  # the data set, with its digest


def test_a_pruned_trial_is_no_failure(site: Site) -> None:
    text = site.page("pruned")
    assert "Stopped early after 1 epoch, as planned: successive halving at epoch 1" in text
    assert site.run("pruned").info.status == "FINISHED"
    assert "Failed" not in text
    assert "Killed" not in text


def test_a_sweeps_page_has_the_figure_the_best_setting_and_the_spread_over_seeds(site: Site) -> None:
    parent = site.syncing.runs.parent().run.info
    text = site.text(f"/#/experiments/{parent.experiment_id}/runs/{parent.run_id}")
    described = text[text.index("Description") :]
    assert "[picture get-artifact?path=figure_preview.png" in described
    assert described.index("[picture ") < described.index("Best setting (verified): R-MC-LA at 40/255 (8 px)")
    run = site.syncing.runs.get(parent.run_id).data
    both = [site.run(f"eps8-seed{seed}").data.metrics["robust_acc"] for seed in (0, 1)]
    assert run.metrics["best/robust_acc_mean"] == pytest.approx(sum(both) / 2)
    assert run.metrics["robust_acc_sd/R-MC-LA 8 px"] == pytest.approx(abs(both[0] - both[1]) / 2**0.5)
    assert "settings.json" in run.tags["mlflow.loggedArtifacts"]


def test_a_models_page_has_its_name_signature_data_set_and_verdict(site: Site) -> None:
    run = site.run("eps8-seed0")
    model = run.outputs.model_outputs[0].model_id
    text = site.text(f"/#/experiments/{run.info.experiment_id}/models/{model}")
    assert " eps8-seed0 " in text
    assert "Gradient masking: " in text
    assert "digits (" in text
    found = site.syncing.runs.client.get_logged_model(model)
    assert found.tags["bat.verdict"] == run.data.tags["bat.verdict"]
    assert {metric.dataset_name for metric in found.metrics} == {"digits"}
