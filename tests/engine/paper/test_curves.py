import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bat_core.config import AttackConfig, RecipeConfig, TrialConfig
from bat_core.verdicts import UNBROKEN, Outcome, Verdicts
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.paper.curve_plot import draw_curves
from sweeps.engine.paper.curves import EvaluatedTrial, curves_csv, evaluated_trials, families
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import VERDICTS, Record
from sweeps.engine.sweep.spec import Resources, Sweep, Trial

PIXEL = 5 / 255
STEPS = (1, 3)


def verdicts(broken: list[int]) -> Verdicts:
    broken_at = np.array(broken)
    final = np.stack([(broken_at == UNBROKEN) | (broken_at > step) for step in STEPS], axis=1)
    outcome = Outcome(broken_at=broken_at, steps=STEPS, final=final)
    return Verdicts(
        rows=np.arange(len(broken)),
        labels=np.zeros(len(broken), dtype=np.int64),
        clean_correct=broken_at != 0,
        outcomes={"ce": outcome, "cw": outcome},
    )


def trial(pixels: float, seed: int, role: str = "grid") -> Trial:
    recipe = RecipeConfig(params={"eps": pixels * PIXEL}) if pixels else RecipeConfig(name="Undefended")
    return Trial(id=f"{pixels}-{seed}", config=TrialConfig(recipe=recipe, seed=seed), role=role)


def judged(pixels: float, seed: int, broken: list[int], role: str = "grid") -> EvaluatedTrial:
    own = verdicts(broken)
    return EvaluatedTrial(
        trial(pixels, seed, role), own, pixels, headline=own, suite="PGD-3, not verified", masking_status="clear"
    )


@pytest.fixture
def some() -> list[EvaluatedTrial]:
    return [
        judged(8, 0, [UNBROKEN, UNBROKEN, 2, 0]),
        judged(8, 1, [UNBROKEN, 1, 1, 0]),
        judged(1, 0, [3, 1, 1, 1]),
        judged(0, 0, [1, 1, 1, 0], role="reference"),
    ]


def test_a_line_is_the_mean_over_seeds_between_the_lowest_and_the_highest(some: list[EvaluatedTrial]) -> None:
    reference, small, large = families(some)
    assert (reference.role, small.pixels, large.pixels) == ("reference", 1, 8)
    first, last = large.curve("ce", "worst")
    assert (first.low, first.mean, first.high) == (0.25, 0.5, 0.75)
    assert (last.low, last.mean, last.high) == (0.25, 0.375, 0.5)
    assert large.headline_acc.mean == 0.375
    assert large.clean_acc.mean == 0.75


def test_the_csv_has_every_trial_loss_reading_and_step(some: list[EvaluatedTrial]) -> None:
    rows = list(csv.DictReader(io.StringIO(curves_csv(some))))
    assert len({(r["trial"], r["loss"], r["reading"], r["steps"]) for r in rows}) == len(rows) == 4 * 2 * 2 * 2
    (row,) = [r for r in rows if (r["trial"], r["loss"], r["reading"], r["steps"]) == ("8-0", "cw", "worst", "3")]
    assert float(row["accuracy"]) == 0.5


def test_the_same_verdicts_draw_the_same_bytes(some: list[EvaluatedTrial], tmp_path: Path) -> None:
    attack = replace(AttackConfig(), steps=STEPS)
    drawn = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        figure = draw_curves(families(some), attack=attack, title="title", note="note")
        drawn.append([path.read_bytes() for path in save_figure(figure, tmp_path / name / "figure")])
    assert drawn[0] == drawn[1]


def test_only_finished_trials_are_drawn(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    trials = [trial(8, 0), trial(8, 1)]
    sweep = Sweep(name="s", command="", data_dir=None, pixel=PIXEL, resources=Resources(), trials=tuple(trials))
    for one in trials:
        record = Record(folder.trial(one))
        record.append("start")
        verdicts([UNBROKEN]).write(folder.trial(one) / VERDICTS)
        if one is trials[1]:
            record.append("finished", suite="PGD-3, not verified", verdict="clear")
    assert [one.trial.id for one in evaluated_trials(sweep, folder)] == ["8-1"]
    assert evaluated_trials(sweep, folder)[0].pixels == 8
