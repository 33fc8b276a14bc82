"""kill -9 at any moment, then --resume: the same models, the same figure, nothing twice."""

import os
import random
import time
from collections.abc import Callable

import pytest
from mlflow.tracking import MlflowClient

from sweeps.engine.sweep.records import TrialStatus
from tests.integration.conftest import CHEAP, GRID, TINY
from tests.integration.running import Output, Place, kill_tree_when

pytestmark = pytest.mark.ray

Moment = Callable[[dict[str, TrialStatus]], bool]


def in_the_middle_of_training(statuses: dict[str, TrialStatus]) -> bool:
    return any(1 <= len(status.epochs) < 3 for status in statuses.values())


def while_attacking_with_one_finished(statuses: dict[str, TrialStatus]) -> bool:
    phases = [status.phase for status in statuses.values()]
    return "finished" in phases and ("attacking" in phases or "training" in phases)


def at_random_moments(count: int) -> list[Moment]:
    """Each somewhere after a number of events that is drawn from all that a sweep's records come to."""
    draw = random.Random(0)
    targets = sorted(draw.randrange(1, 40) for _ in range(count))

    def moment(target: int, later: float) -> Moment:
        def reached(statuses: dict[str, TrialStatus]) -> bool:
            done = sum(len(status.epochs) + 4 * status.done + (status.attempts > 0) for status in statuses.values())
            if done >= target:
                time.sleep(later)  # anywhere between this event and the next
            return done >= target

        return reached

    return [moment(target, draw.uniform(0, 1)) for target in targets]


KILLS = int(os.environ.get("BAT_SWEEPS_KILLS", "0"))  # benchmarks/faults.py asks for twenty
MOMENTS = {"two moments": [in_the_middle_of_training, while_attacking_with_one_finished]} | (
    {f"{KILLS} random moments": at_random_moments(KILLS)} if KILLS else {}
)


@pytest.mark.parametrize("moments", MOMENTS.values(), ids=MOMENTS)
def test_a_killed_sweep_resumes_to_the_same_end(
    finished: tuple[Output, str], place: Place, moments: list[Moment]
) -> None:
    undisturbed, _ = finished
    killed = f"killed-{len(moments)}-times"
    output = place.sweep(killed)
    arguments = [*TINY, *CHEAP, *GRID, "--output", killed]
    for moment in moments:
        process = place.start("eps_budget.py", *arguments)
        kill_tree_when(process, lambda moment=moment: moment(output.statuses()))
        arguments = ["--resume", killed]
    kept = {trial for trial, status in output.statuses().items() if status.phase == "finished"}
    assert kept

    code, printed = place.run("eps_budget.py", *arguments)
    assert code == 0, printed
    statuses = output.statuses()
    assert all(status.phase == "finished" for status in statuses.values())
    assert all([epoch["epoch"] for epoch in status.epochs] == [1, 2, 3] for status in statuses.values())
    assert any(status.attempts > 1 for status in statuses.values())
    assert output.weights() == undisturbed.weights()
    for trial in statuses:
        for name in ("verdicts.parquet", "verified.parquet"):
            assert output.file(f"trials/{trial}/{name}") == undisturbed.file(f"trials/{trial}/{name}")
    assert output.file("figure_1.csv") == undisturbed.file("figure_1.csv")
    assert output.file("figure_1.png") == undisturbed.file("figure_1.png")

    client = MlflowClient(place.uri)
    experiment = client.get_experiment_by_name(f"eps_budget-{killed}")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == len(statuses) + 1
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        for name in run.data.metrics:
            steps = [metric.step for metric in client.get_metric_history(run.info.run_id, name)]
            assert len(steps) == len(set(steps))


def test_resuming_a_finished_sweep_runs_nothing(finished: tuple[Output, str], place: Place) -> None:
    output, _ = finished
    before = {trial: status.attempts for trial, status in output.statuses().items()}
    figure = output.file("figure_1.svg")
    code, printed = place.again("eps_budget.py", "--resume", "undisturbed")
    assert code == 0, printed
    assert "0 of 6 trials to run" in printed
    assert {trial: status.attempts for trial, status in output.statuses().items()} == before
    assert output.file("figure_1.svg") == figure
