"""Accuracy against the number of attack steps, read from the records of finished trials."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bat_core.evaluate import READINGS, Reading, Verdicts
from sweeps.engine.records import VERDICTS, read_status
from sweeps.engine.sweep import Sweep, SweepFolder, Trial

COLUMNS = (
    "trial",
    "role",
    "recipe",
    "eps_x",
    "eps_x_pixels",
    "seed",
    "loss",
    "reading",
    "steps",
    "accuracy",
    "clean_acc",
    "robust_acc",
    "n",
)


@dataclass(frozen=True)
class Judged:
    """A finished trial with its verdicts. `pixels` is its training budget, 0 for an undefended model."""

    trial: Trial
    verdicts: Verdicts
    pixels: float

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return self.trial.config.recipe.name


@dataclass(frozen=True)
class Spread:
    """Mean, least and largest over seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.fmean(values), min(values), max(values))


@dataclass(frozen=True)
class Family:
    """Models that differ in their seed alone: one line of the figure."""

    recipe: str
    role: str
    pixels: float
    members: tuple[Judged, ...]

    @property
    def label(self) -> str:
        """How the line is called."""
        return f"{self.recipe}, {self.pixels:g} px" if self.pixels else self.recipe

    def curve(self, loss: str, reading: Reading) -> list[Spread]:
        """A spread over seeds for each step read."""
        curves = [judged.verdicts.curve(loss, reading) for judged in self.members]
        return [Spread.of([float(value) for value in values]) for values in zip(*curves, strict=True)]

    @property
    def clean_acc(self) -> Spread:
        """Accuracy on clean test images."""
        return Spread.of([judged.verdicts.clean_acc for judged in self.members])

    @property
    def robust_acc(self) -> Spread:
        """Per-example worst case over all trajectories."""
        return Spread.of([judged.verdicts.robust_acc for judged in self.members])


def judged_trials(sweep: Sweep, folder: SweepFolder) -> list[Judged]:
    """The finished trials, in the sweep's order."""
    return [
        Judged(trial, Verdicts.read(folder.trial(trial) / VERDICTS), budget_in_pixels(trial, sweep.pixel))
        for trial in sweep.trials
        if read_status(folder.trial(trial)).phase == "finished"
    ]


def budget_in_pixels(trial: Trial, pixel: float) -> float:
    """The trial's training budget in the data set's pixels; 0 where it trains on clean images."""
    return round(trial.config.recipe.params.get("eps", 0.0) / pixel, 6)


def families(judged: Sequence[Judged]) -> list[Family]:
    """Trials grouped by recipe and budget, references first, then by growing budget."""
    groups: dict[tuple[str, str, float], list[Judged]] = {}
    for one in judged:
        groups.setdefault((one.trial.role, one.recipe, one.pixels), []).append(one)
    found = [Family(recipe, role, pixels, tuple(members)) for (role, recipe, pixels), members in groups.items()]
    return sorted(found, key=lambda family: (family.role != "reference", family.pixels))


def curves_csv(judged: Sequence[Judged]) -> str:
    """All curves, one line for each trial, loss, reading and number of steps. Accuracies in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in judged:
        verdicts, config = one.verdicts, one.trial.config
        for loss in verdicts.losses:
            for reading in READINGS:
                for steps, accuracy in zip(verdicts.steps, verdicts.curve(loss, reading), strict=True):
                    writer.writerow(
                        [
                            one.trial.id,
                            one.trial.role,
                            one.recipe,
                            config.recipe.params.get("eps", 0.0),
                            one.pixels,
                            config.seed,
                            loss,
                            reading,
                            steps,
                            round(float(accuracy), 6),
                            round(verdicts.clean_acc, 6),
                            round(verdicts.robust_acc, 6),
                            len(verdicts),
                        ]
                    )
    return text.getvalue()
