"""Accuracy by number of attack steps, read from the records of finished trials."""

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bat_core.curves import Curves
from bat_core.masking.flags import status_in_words
from bat_core.norms import LINF
from bat_core.suites import is_verified
from bat_core.verdicts import READINGS, Reading, Verdicts
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import VERDICTS, VERIFIED, TrialStatus
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
    "robust_verified",
    "robust_not_verified",
    "robust_n",
    "suite",
    "verdict",
)


@dataclass(frozen=True)
class EvaluatedTrial:
    """A finished trial with its verdicts, or what is kept of them: a sweep has thousands of trials.

    `verdicts` are those of its curves. `headline` are those behind its robust accuracy: the same or, if the trial was
    verified, those of a subset of images with the verifying suite's verdicts added. `suite` names the attacks behind
    `headline`; `masking_status` is the result of the checks. `pixels` is the training budget, 0 for an undefended
    model, and `budget` the same in words. `collapsed` is the first epoch lost to catastrophic overfitting, if any.
    """

    trial: Trial
    verdicts: Verdicts | Curves
    pixels: float
    headline: Verdicts | Curves
    suite: str
    masking_status: str
    collapsed: int | None = None
    budget: str | None = None

    @property
    def recipe(self) -> str:
        """The recipe's name."""
        return self.trial.config.recipe.name


@dataclass(frozen=True)
class Spread:
    """Mean, lowest and highest value over seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.fmean(values), min(values), max(values))


@dataclass(frozen=True)
class Family:
    """Models that differ only in their seed: one line of the figure."""

    recipe: str
    role: str
    pixels: float
    members: tuple[EvaluatedTrial, ...]

    @property
    def budget(self) -> str | None:
        """The training budget in words."""
        return self.members[0].budget

    @property
    def label(self) -> str:
        """The label of the line."""
        return f"{self.recipe}, {self.budget}" if self.budget else self.recipe

    def curve(self, loss: str, reading: Reading) -> list[Spread]:
        """The spread over seeds at each number of steps."""
        curves = [trial.verdicts.curve(loss, reading) for trial in self.members]
        return [Spread.of([float(value) for value in values]) for values in zip(*curves, strict=True)]

    @property
    def clean_acc(self) -> Spread:
        """Accuracy on clean test images."""
        return Spread.of([trial.verdicts.clean_acc for trial in self.members])

    @property
    def pgd_acc(self) -> Spread:
        """Per-example worst case over the curves."""
        return Spread.of([trial.verdicts.robust_acc for trial in self.members])

    @property
    def headline_acc(self) -> Spread:
        """Per-example worst case over all attacks. `suite` says whether it is verified."""
        return Spread.of([trial.headline.robust_acc for trial in self.members])

    @property
    def suite(self) -> str:
        """The suite behind its robust accuracy. If a member is masked, the masked member's suite."""
        masked = (one.suite for one in self.members if one.masking_status == "masked")
        return next(masked, self.members[0].suite)

    @property
    def verified(self) -> bool:
        """Whether a verifying suite attacked every member."""
        return all(trial.headline is not trial.verdicts for trial in self.members)


def evaluated_trials(sweep: Sweep, folder: SweepFolder) -> list[EvaluatedTrial]:
    """The finished trials, in the sweep's order."""
    rows = [(trial, status) for trial, status in folder.statuses(sweep) if status.phase == "finished"]
    folder.fetch_results([trial for trial, _ in rows])
    return [_evaluated(trial, status, sweep, folder) for trial, status in rows]


def _evaluated(trial: Trial, status: TrialStatus, sweep: Sweep, folder: SweepFolder) -> EvaluatedTrial:
    assert status.result is not None
    home = folder.results(trial.id)
    curves, verified = Curves.of(Verdicts.read(home / VERDICTS)), home / VERIFIED
    return EvaluatedTrial(
        trial=trial,
        verdicts=curves,
        pixels=sweep.budget_in_pixels(trial),
        budget=sweep.training_budget(trial, 6),
        headline=Curves.of(Verdicts.read(verified)) if verified.exists() else curves,
        suite=status.result["suite"],
        masking_status=status.result["verdict"],
        collapsed=status.collapsed,
    )


def families(trials: Sequence[EvaluatedTrial]) -> list[Family]:
    """Group trials by recipe and budget: references first, then by increasing budget."""
    groups: dict[tuple[str, str, float], list[EvaluatedTrial]] = {}
    for one in trials:
        groups.setdefault((one.trial.role, one.recipe, one.pixels), []).append(one)
    found = [Family(recipe, role, pixels, tuple(members)) for (role, recipe, pixels), members in groups.items()]
    return sorted(found, key=lambda family: (family.role != "reference", family.pixels))


def curves_csv(trials: Sequence[EvaluatedTrial]) -> str:
    """All curves, one line per trial, loss, reading and number of steps. Accuracies in [0, 1]."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    norms = {one.trial.config.attack.norm for one in trials} - {LINF}
    writer.writerow([*COLUMNS, *(["norm"] if norms else [])])
    for one in trials:
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
                            *_by_kind(one),
                            len(one.headline),
                            one.suite,
                            status_in_words(one.masking_status, one.headline.robust_acc),
                            *norms,
                        ]
                    )
    return text.getvalue()


def _by_kind(one: EvaluatedTrial) -> tuple[float | str, float | str]:
    """The robust accuracy in the column of its kind: verified, or not."""
    number = round(one.headline.robust_acc, 6)
    return (number, "") if is_verified(one.suite) else ("", number)
