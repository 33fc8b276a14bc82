"""MLflow's model registry: the champion of a search, and the best model so far per data set and budget.

`mlflow.pyfunc.load_model("models:/<name>@champion").get_raw_model()` returns the torch module. It classifies images
in [0, 1] and can be attacked. Its files are safetensors and config.json.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from bat_core.norms import LINF, TITLES, Norm, Unit
from bat_core.suites import is_verified
from sweeps.engine.cli.text import budget, percent
from sweeps.engine.sweep.records import TrialStatus
from sweeps.engine.sweep.spec import Sweep, Trial
from sweeps.engine.tracking.names import fitting, verdict
from sweeps.engine.tracking.runs import (
    BUDGET_TAG,
    CHAMPION_TAG,
    DATASET_TAG,
    MODEL_TAG,
    NOTE_TAG,
    SUITE_TAG,
    SWEEP_TAG,
    TRIAL_TAG,
    VERDICT_TAG,
    Runs,
)

CHAMPION = "champion"
ROBUST_TAG = "bat.robust_acc"  # of a version: verified, on test images


@dataclass(frozen=True, kw_only=True)
class Merit:
    """What a registered model is worth: its verified robust accuracy on test images, and what that means.

    `pixels` is the attack's budget in the data set's pixels, `eps` the same in [0, 1].
    """

    dataset: str
    eps: float
    pixels: float
    robust_acc: float
    clean_acc: float
    n: int
    suite: str
    verdict: str
    norm: Norm = LINF

    @classmethod
    def of(cls, sweep: Sweep, trial: Trial, **numbers: Any) -> "Merit":
        """That of a trial's model, whose data set and budget are the trial's; `numbers` are the other fields."""
        eps, dataset = trial.config.attack.eps, trial.config.data.name
        return cls(dataset=dataset, eps=eps, pixels=round(eps / sweep.pixel, 6), norm=sweep.norm, **numbers)

    @property
    def budget(self) -> str:
        """The attack's budget in words."""
        return budget(self.eps, Unit(self.eps / self.pixels, self.norm))

    @property
    def alias(self) -> str:
        """The alias of the best model for this data set and budget."""
        amount = f"{self.pixels:g}px" if self.norm == LINF else f"{self.norm}-{self.eps:.4g}"
        return fitting(f"candidate-{self.dataset}-{amount}").replace(" ", "_")

    def tags(self) -> dict[str, str]:
        """The tags of its version."""
        return {
            DATASET_TAG: f"{self.dataset} test (n = {self.n})",
            BUDGET_TAG: self.budget,
            ROBUST_TAG: f"{self.robust_acc:.6g}",
            SUITE_TAG: self.suite,
            VERDICT_TAG: self.verdict,
        }

    def __str__(self) -> str:
        amount = f"{TITLES[LINF]} {self.budget}" if self.norm == LINF else self.budget
        return (
            f"robust {percent(self.robust_acc)} (verified), clean {percent(self.clean_acc)} on {self.n} test images of"
            f" {self.dataset}, {amount}, {self.suite}, {self.verdict}"
        )


def register_champion(sweep: Sweep, trial_id: str, merit: Merit, *, name: str, description: str, uri: str) -> str:
    """Register a trial's model as `name` with the alias "champion". Repeated calls create one version.

    Args:
        description: how the model was chosen, for the version and the run.
    Returns:
        The version.
    Raises:
        MlflowException: the server rejected the request or does not have the trial's model yet.
    """
    runs = Runs(uri)
    client, run = runs.client, runs.find_trial(sweep.id, trial_id)
    if run is None:
        raise MlflowException(f"trial {trial_id} is not in MLflow")
    if MODEL_TAG not in run.data.tags:
        raise MlflowException(f"the model of trial {trial_id} is not in MLflow")
    version = _version(client, name, sweep, trial_id, run)
    client.update_model_version(name, version.version, description)
    for tag, text in merit.tags().items():
        client.set_model_version_tag(name, version.version, tag, text)
    client.set_registered_model_alias(name, CHAMPION, version.version)
    _make_candidate(client, name, version, merit)
    note, before = run.data.tags.get(NOTE_TAG, ""), run.data.tags.get(CHAMPION_TAG, "")
    rest = note.removeprefix(before).strip()
    runs.set_tags(run.info.run_id, {NOTE_TAG: f"{description}\n\n{rest}".strip(), CHAMPION_TAG: description})
    return str(version.version)


def best_merits(sweep: Sweep, rows: Sequence[tuple[Trial, TrialStatus]]) -> dict[str, Merit]:
    """By trial: the best verified model of a sweep for each data set and budget, if its gradients are clear."""
    best: dict[str, tuple[str, Merit]] = {}
    for trial, status in rows:
        if (result := status.result) is None or trial.role == "reference":
            continue
        merit = Merit.of(
            sweep,
            trial,
            robust_acc=result["robust_acc"],
            clean_acc=result["clean_acc"],
            n=result["robust_n"],
            suite=result["suite"],
            verdict=verdict(result),
        )
        usable = is_verified(merit.suite) and merit.verdict == "clear" and result.get("split", "test") == "test"
        if usable and (merit.alias not in best or merit.robust_acc > best[merit.alias][1].robust_acc):
            best[merit.alias] = (trial.id, merit)
    return dict(best.values())


def register_candidate(client: MlflowClient, sweep: Sweep, trial_id: str, run: Run, merit: Merit) -> None:
    """Register a trial's model under its data set's name, if it is better than the candidate that is there.

    Args:
        run: of the trial, with its model.
    Raises:
        MlflowException: the server rejected the request.
    """
    name = f"bat-sweeps-{fitting(merit.dataset)}"
    if merit.robust_acc <= _standing(client, name, merit.alias):
        return
    version = _version(client, name, sweep, trial_id, run, merit.tags())
    client.update_model_version(name, version.version, f"Trial {trial_id} of {sweep.name}: {merit}.")
    _make_candidate(client, name, version, merit)


def _make_candidate(client: MlflowClient, name: str, version: ModelVersion, merit: Merit) -> None:
    if is_verified(merit.suite) and merit.robust_acc > _standing(client, name, merit.alias):
        client.set_registered_model_alias(name, merit.alias, version.version)


def _standing(client: MlflowClient, name: str, alias: str) -> float:
    """The robust accuracy of the candidate that is there; -1 if there is none."""
    try:
        found = client.get_model_version_by_alias(name, alias)
    except MlflowException:
        return -1.0
    return float(found.tags.get(ROBUST_TAG, -1.0))


def _version(
    client: MlflowClient, name: str, sweep: Sweep, trial_id: str, run: Run, tags: Mapping[str, str] | None = None
) -> ModelVersion:
    """The version of a trial's model: the one that is there, or a new one."""
    identity = {SWEEP_TAG: sweep.id, TRIAL_TAG: trial_id}
    if client.search_registered_models(f"name = '{name}'"):
        versions = client.search_model_versions(f"name = '{name}'")
        if known := next((one for one in versions if identity.items() <= one.tags.items()), None):
            return known
    else:
        client.create_registered_model(name, description="Robust classifiers, the best of sweeps.")
    model, tags = run.data.tags[MODEL_TAG], identity | dict(tags or {})
    model_id = model.removeprefix("models:/")
    return client.create_model_version(name, source=model, run_id=run.info.run_id, tags=tags, model_id=model_id)
