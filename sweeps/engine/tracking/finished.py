"""The finished models that a tracking server knows, for a leaderboard of many sweeps."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from mlflow.entities import Run

from bat_core.norms import L2, LINF, Norm
from sweeps.engine.tracking.names import clean_metric, robust_metric
from sweeps.engine.tracking.runs import BUDGET_TAG, DATASET_TAG, PAGE, SUITE_TAG, VERDICT_TAG, Runs

L2_BUDGET = re.compile(r"L2 ([\d.e+-]+)")
BUDGET = re.compile(r"([\d.e+-]+)/255 \(([\d.e+-]+) px\)")
DATASET = re.compile(r"(.+) (test|val) \(n = \d+\)")
SUITE = re.compile(r"(.+) \(n = (\d+), \w+\)")


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run with a headline accuracy. Accuracies and `eps` are in [0, 1], pixels are the data set's."""

    dataset: str
    split: str
    eps: float
    eps_pixels: float
    model: str
    experiment: str
    clean_acc: float
    robust_acc: float
    n: int
    suite: str
    verdict: str
    recipe: str | None
    train_eps_pixels: float | None
    seed: int | None
    norm: Norm = LINF


def finished_runs(uri: str) -> Iterator[FinishedRun]:
    """All runs of this project on a tracking server that have accuracies, in today's names.

    Raises:
        MlflowException: the server did not answer.
    """
    runs = Runs(uri)
    names = {one.experiment_id: one.name for one in runs.client.search_experiments()}
    token: str | None = None
    while True:
        query = f"tags.`{DATASET_TAG}` LIKE '%'"
        page = runs.client.search_runs(list(names), query, max_results=PAGE, page_token=token)
        for run in page:
            if (found := _finished(run, names[run.info.experiment_id])) is not None:
                yield found
        if not (token := page.token):
            return


def _finished(run: Run, experiment: str) -> FinishedRun | None:
    tags, metrics, params = run.data.tags, run.data.metrics, run.data.params
    data, suite = DATASET.fullmatch(tags.get(DATASET_TAG, "")), SUITE.fullmatch(tags.get(SUITE_TAG, ""))
    budget = _budget(tags.get(BUDGET_TAG, ""))
    if data is None or suite is None or budget is None:
        return None
    eps, eps_pixels, norm = budget
    split = data[2]
    names = (robust_metric(split, verified=verified) for verified in (True, False))
    robust = next((metrics[name] for name in names if name in metrics), None)
    clean = metrics.get(clean_metric(split))
    if robust is None or clean is None:
        return None
    trained = _budget(params.get("budget", ""))
    return FinishedRun(
        dataset=data[1],
        split=split,
        eps=eps,
        eps_pixels=eps_pixels,
        model=run.info.run_name,
        experiment=experiment,
        clean_acc=clean,
        robust_acc=robust,
        n=int(suite[2]),
        suite=suite[1],
        verdict=tags.get(VERDICT_TAG, "not checked"),
        recipe=params.get("recipe"),
        train_eps_pixels=_count(trained, eps) if trained is not None else 0.0 if "budget" in params else None,
        seed=int(params["seed"]) if params.get("seed", "").isdecimal() else None,
        norm=norm,
    )


def _budget(text: str) -> tuple[float, float, Norm] | None:
    """Amount, amount in the unit of budgets, and norm of a text of `cli.text.budget`. In L2 the unit is the amount."""
    if (found := BUDGET.fullmatch(text)) is not None:
        return float(found[1]) / 255, float(found[2]), LINF
    if (found := L2_BUDGET.fullmatch(text)) is not None:
        return float(found[1]), 1.0, L2
    return None


def _count(trained: tuple[float, float, Norm], eps: float) -> float:
    """A training budget in the unit of the evaluation's."""
    amount, pixels, norm = trained
    return pixels if norm == LINF else amount / eps
