"""Figure 1: accuracy under PGD against its number of steps, and the sentence that sums it up."""

from collections.abc import Sequence
from dataclasses import dataclass

from bat_core.config import AttackConfig, TrialConfig
from bat_core.few_classes import classes_in
from bat_core.norms import LINF, TITLES, Unit
from bat_core.paths import write_atomically
from bat_core.suites import evaluation_suite
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.cli.text import counted
from sweeps.engine.pages.charts import Chart, Mark, Series, percent_axis, steps_axis
from sweeps.engine.pages.sweep_page import Story, write_sweep_page
from sweeps.engine.paper.curve_plot import LOSS_TITLES, draw_curves
from sweeps.engine.paper.curves import Family, curves_csv, evaluated_trials, families
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Report, Sweep

STEM = "figure_1"


def draw(sweep: Sweep, folder: SweepFolder) -> Report:
    """Draw Figure 1 and write its numbers."""
    judged = evaluated_trials(sweep, folder)
    write_atomically(folder.file(f"{STEM}.csv"), curves_csv(judged))
    lines = families(judged)
    config = judged[0].trial.config
    attack, unit = config.attack, sweep.unit
    suite = evaluation_suite(attack).for_classes(classes_in(judged[0].suite))
    scope = Scope(
        n=len(judged[0].verdicts),
        verified_n=len(judged[0].headline),
        suite=suite.label,
        seeds=counted(len({one.trial.config.seed for one in judged}), "seed"),
    )
    beyond = (
        f"Squares: verified worst case ({scope.suite}: with {suite.verified_in_words}), n = {scope.verified_n} of them."
        if lines[0].verified
        else "Not verified: stronger attacks, such as AutoAttack, can only lower these numbers."
    )
    figure = draw_curves(
        lines,
        attack=attack,
        title=(
            f"{config.data.name}, {config.model}: accuracy under {_pgd(unit)} at {unit.amount(attack.eps)}, by training"
            " budget"
        ),
        note=(
            f"n = {scope.n} test images, {scope.seeds}; step {unit.amount(attack.step_size)} from a random start,"
            f" {unit.note}. Solid: final iterate, band from lowest to highest seed;"
            f" dotted: worst so far; diamond: clean.\n{beyond}"
        ),
    )
    files = [path.name for path in save_figure(figure, folder.path / STEM)]
    sentence = _sentence(lines, attack, unit, scope)
    page = write_sweep_page(sweep, folder, _story(lines, config, unit, sentence))
    return Report(files=(*files, f"{STEM}.csv", page), sentence=sentence)


def _story(lines: Sequence[Family], config: TrialConfig, unit: Unit, sentence: str) -> Story:
    attack = config.attack
    return Story(
        title=f"Figure 1 on {config.data.name}: {config.model} under {_pgd(unit)} at {unit.amount(attack.eps)}",
        question="Does training with a larger budget make a model more robust?",
        answer=sentence,
        subcommand="figure-1",
        charts=[*(_curves(lines, loss, attack) for loss in attack.losses)],
    )


def _curves(lines: Sequence[Family], loss: str, attack: AttackConfig) -> Chart:
    """Accuracy after each number of steps, which no verifying suite has seen."""
    series = [Series(name=family.label, marks=_marks(family, loss, attack), line=True, hollow=True) for family in lines]
    shares = [mark.y for one in series for mark in one.marks]
    return Chart(
        heading=f"Accuracy under PGD, {LOSS_TITLES.get(loss, loss)}",
        x=steps_axis("attack steps", attack.steps),
        y=percent_axis("accuracy, not verified", shares),
        series=series,
        note="The final iterate, means over seeds. The leaderboard has the worst case that a verifying suite found.",
    )


def _marks(family: Family, loss: str, attack: AttackConfig) -> list[Mark]:
    if loss not in family.members[0].verdicts.outcomes:
        return []
    points = zip(attack.steps, family.curve(loss, "final"), strict=True)
    return [
        Mark(step, one.mean, f"{family.label}, {step} steps: {one.mean:.1%} (seeds {one.low:.1%} to {one.high:.1%})")
        for step, one in points
    ]


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What the numbers refer to: images, suite and seeds."""

    n: int
    verified_n: int
    suite: str
    seeds: str


def _sentence(lines: Sequence[Family], attack: AttackConfig, unit: Unit, scope: Scope) -> str:
    trained = [family for family in lines if family.role == "grid"]
    names = [LOSS_TITLES.get(loss, loss) for loss in attack.losses]
    budget = _spelt(unit.amount(attack.eps))
    pgd = f"{_pgd(unit)}-{attack.steps[-1]} of {budget} (worst of {' and '.join(names)}, n = {scope.n})"
    words = []
    if trained:
        best = max(trained, key=lambda family: family.headline_acc.mean)
        robust = f"{best.pgd_acc.mean:.1%} of test images are correct under {pgd}"
        if best.verified:
            robust += f" and {best.headline_acc.mean:.1%} under {best.suite} (n = {scope.verified_n})"
        words.append(
            f"{best.recipe} trained at {_spelt(best.budget or '0 px')} is most robust: {robust},"
            f" {best.clean_acc.mean:.1%} without attack"
        )
    words += [
        f"{family.recipe.lower()} models reach {family.headline_acc.mean:.1%}"
        for family in lines
        if family.role == "reference"
    ]
    unverified = "" if lines[0].verified else "; not verified"
    return f"{'; '.join(words)} (means over {scope.seeds}{unverified})."


def _pgd(unit: Unit) -> str:
    return "PGD" if unit.norm == LINF else f"{TITLES[unit.norm]} PGD"


def _spelt(amount: str) -> str:
    """An amount in a sentence: "8 pixels"."""
    return amount.replace(" px", " pixels")
