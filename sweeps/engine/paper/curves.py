"""Accuracy against the number of attack steps, read from the records of finished trials."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bat_core.verdicts import READINGS, Reading, Verdicts
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import VERDICTS, VERIFIED, TrialStatus, read_status
from sweeps.engine.sweep.spec import Sweep, Trial

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
    "n",
    "clean_acc",
    "pgd_acc",
    "robust_acc",
    "robust_n",
    "suite",
    "verdict",
)


@dataclass(frozen=True)
class EvaluatedTrial:
    """A finished trial with its verdicts.

    `verdicts` are those of its own curves, `headline` those that its robustness is read from: the same
    or, where the trial was verified, some of them with the verifying suite's. `suite` names what they
    stand for, `masking_status` is that of the checks. `pixels` is the training budget, 0 for an undefended model.
    `collapsed` is the first epoch lost to catastrophic overfitting.
    """

    trial: Trial
    verdicts: Verdicts
    pixels: float
    headline: Verdicts
    suite: str
    masking_status: str
    collapsed: int | None = None

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
    members: tuple[EvaluatedTrial, ...]

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
    def pgd_acc(self) -> Spread:
        """Per-example worst case over the curves."""
        return Spread.of([judged.verdicts.robust_acc for judged in self.members])

    @property
    def robust_acc(self) -> Spread:
        """Per-example worst case over all that was tried."""
        return Spread.of([judged.headline.robust_acc for judged in self.members])

    @property
    def suite(self) -> str:
        """What its robust accuracy stands for; a member whose number is not to be believed speaks for all."""
        masked = (one.suite for one in self.members if one.masking_status == "masked")
        return next(masked, self.members[0].suite)

    @property
    def verified(self) -> bool:
        """Whether a verifying suite had its say on every member."""
        return all(judged.headline is not judged.verdicts for judged in self.members)


def evaluated_trials(sweep: Sweep, folder: SweepFolder) -> list[EvaluatedTrial]:
    """The finished trials, in the sweep's order."""
    statuses = [(trial, read_status(folder.trial(trial))) for trial in folder.trials(sweep)]
    return [_evaluated(trial, status, sweep, folder) for trial, status in statuses if status.phase == "finished"]


def _evaluated(trial: Trial, status: TrialStatus, sweep: Sweep, folder: SweepFolder) -> EvaluatedTrial:
    assert status.result is not None
    verdicts, verified = Verdicts.read(folder.trial(trial) / VERDICTS), folder.trial(trial) / VERIFIED
    return EvaluatedTrial(
        trial=trial,
        verdicts=verdicts,
        pixels=sweep.budget_in_pixels(trial),
        headline=Verdicts.read(verified) if verified.exists() else verdicts,
        suite=status.result["suite"],
        masking_status=status.result["verdict"],
        collapsed=status.collapsed,
    )


def families(judged: Sequence[EvaluatedTrial]) -> list[Family]:
    """Trials grouped by recipe and budget, references first, then by growing budget."""
    groups: dict[tuple[str, str, float], list[EvaluatedTrial]] = {}
    for one in judged:
        groups.setdefault((one.trial.role, one.recipe, one.pixels), []).append(one)
    found = [Family(recipe, role, pixels, tuple(members)) for (role, recipe, pixels), members in groups.items()]
    return sorted(found, key=lambda family: (family.role != "reference", family.pixels))


def curves_csv(judged: Sequence[EvaluatedTrial]) -> str:
    """All curves, one line for each trial, loss, reading and number of steps. Accuracies in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in judged:
        verdicts, config = one.verdicts, one.trial.config
        for loss, outcome in verdicts.outcomes.items():
            for reading in READINGS:
                for steps, accuracy in zip(outcome.steps, outcome.curve(reading), strict=True):
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
                            len(verdicts),
                            round(verdicts.clean_acc, 6),
                            round(verdicts.robust_acc, 6),
                            round(one.headline.robust_acc, 6),
                            len(one.headline),
                            one.suite,
                            one.masking_status,
                        ]
                    )
    return text.getvalue()
