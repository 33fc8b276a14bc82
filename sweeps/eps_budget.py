"""Figure 1 of the paper: does training with a larger budget make a model more robust?

python sweeps/eps_budget.py                                           # digits, minutes on a laptop
python sweeps/eps_budget.py --dataset cifar10 --data-dir DIR          # the paper's, on GPUs
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from bat_core.config import FIGURE_1_STEPS, AttackConfig, RecipeConfig, TrialConfig
from bat_core.data import Dataset
from bat_core.errors import InputError
from bat_core.recipes import recipe_params
from bat_core.suites import evaluation_suite
from sweeps.engine.cli.app import command
from sweeps.engine.cli.options import Amount, Several, SweepOptions, evaluation_budget, short_name
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.cli.text import counted
from sweeps.engine.driver.run import run_sweep
from sweeps.engine.paper.curve_plot import LOSS_TITLES, draw_curves
from sweeps.engine.paper.curves import Family, curves_csv, evaluated_trials, families
from sweeps.engine.storage.files import write_atomically
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Report, Sweep, Trial

PIXELS = (1, 2, 4, 8, 12)  # training budgets
STEM = "figure_1"


@dataclass(frozen=True, kw_only=True)
class EpsBudgetOptions(SweepOptions):
    """Options of the sweep's grid and its evaluation."""

    eps_x: Annotated[tuple[Amount, ...] | None, Several] = None
    """Training budgets, such as 4/255. Default: 1, 2, 4, 8 and 12 pixels of the data set (5/255 each on digits)."""
    recipe: str = "R-MC-LA"
    """Training recipe. A + selects the long schedule: R-MC-LA+."""
    beta: float | None = None
    """Multiplier of the adversarial label. Default: the recipe's, 9."""
    eps: Amount | None = None
    """Evaluation budget. Default: 8 pixels."""
    step_size: Amount | None = None
    """Evaluation step size. Default: a quarter of --eps, 2 pixels."""
    steps: Annotated[tuple[int, ...], Several] = FIGURE_1_STEPS
    """Numbers of PGD steps at which to measure accuracy, all on one trajectory."""
    reference: str | None = "Undefended"
    """Baseline recipe for comparison, one model per seed; "none" disables it."""


def main(options: EpsBudgetOptions = EpsBudgetOptions()) -> int:
    """Figure 1: accuracy under PGD against the number of steps, for models trained with increasing budgets.

    Trains the recipe at every budget and seed, attacks each model once with cross-entropy and once with
    the CW margin, verifies the worst case with APGD-CE and APGD-T, and draws all curves. Write pixel amounts
    as 8/255.
    """

    def make_trials(dataset: Dataset) -> Sequence[Trial]:
        return grid(options, dataset)

    return run_sweep(options, name="eps_budget", make_trials=make_trials, draw=draw)


def grid(options: EpsBudgetOptions, dataset: Dataset) -> list[Trial]:
    """One trial per budget and seed, then one reference trial per seed."""
    pixel = dataset.pixel
    eps, step_size = evaluation_budget(options.eps, options.step_size, pixel)
    recipe, long = short_name(options.recipe)
    base = TrialConfig(
        data=options.data_config(),
        model=options.model_name(),
        train=options.train_config(long=long),
        attack=AttackConfig(eps=eps, step_size=step_size, steps=options.steps, verify=options.verify_size()),
    )
    params = dict(recipe_params(recipe)) | ({} if options.beta is None else {"beta": options.beta})
    budgets = options.eps_x if options.eps_x is not None else tuple(count * pixel for count in PIXELS)
    varied = [
        Trial(
            id=f"eps{round(budget / pixel, 3):g}-seed{seed}",
            config=replace(base, seed=seed, recipe=RecipeConfig(name=recipe, params=params | {"eps": budget})),
        )
        for budget in budgets
        for seed in options.seeds
    ]
    if not varied:
        raise InputError("give at least one budget (--eps-x) and one seed (--seeds)")
    if options.reference in (None, "none"):
        return varied
    references = [
        Trial(
            id=f"{options.reference.lower()}-seed{seed}",
            config=replace(base, seed=seed, recipe=RecipeConfig(name=options.reference)),
            role="reference",
        )
        for seed in options.seeds
    ]
    return varied + references


def draw(sweep: Sweep, folder: SweepFolder) -> Report:
    """Draw Figure 1 and write its numbers."""
    judged = evaluated_trials(sweep, folder)
    write_atomically(folder.path / f"{STEM}.csv", curves_csv(judged))
    lines = families(judged)
    config = judged[0].trial.config
    attack, pixel = config.attack, sweep.pixel
    scope = Scope(
        n=len(judged[0].verdicts),
        verified_n=len(judged[0].headline),
        suite=evaluation_suite(attack).label,
        seeds=counted(len({one.trial.config.seed for one in judged}), "seed"),
    )
    eps, step_size = attack.eps / pixel, attack.step_size / pixel
    beyond = (
        f"Squares: verified worst case ({scope.suite}: with APGD-CE and APGD-T), n = {scope.verified_n} of them."
        if lines[0].verified
        else "Not verified: stronger attacks, such as AutoAttack, can only lower these numbers."
    )
    figure = draw_curves(
        lines,
        attack=attack,
        title=f"{config.data.name}, {config.model}: accuracy under PGD at {eps:g} px, by training budget",
        note=(
            f"n = {scope.n} test images, {scope.seeds}; step {step_size:g} px from a random start,"
            f" 1 px = {pixel * 255:g}/255. Solid: final iterate, band from lowest to highest seed;"
            f" dotted: worst so far; diamond: clean.\n{beyond}"
        ),
    )
    files = [path.name for path in save_figure(figure, folder.path / STEM)]
    return Report(files=(*files, f"{STEM}.csv"), sentence=_sentence(lines, attack, pixel, scope))


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What the numbers refer to: images, suite and seeds."""

    n: int
    verified_n: int
    suite: str
    seeds: str


def _sentence(lines: Sequence[Family], attack: AttackConfig, pixel: float, scope: Scope) -> str:
    trained = [family for family in lines if family.role == "grid"]
    names = [LOSS_TITLES.get(loss, loss) for loss in attack.losses]
    pgd = f"PGD-{attack.steps[-1]} of {attack.eps / pixel:g} pixels (worst of {' and '.join(names)}, n = {scope.n})"
    words = []
    if trained:
        best = max(trained, key=lambda family: family.robust_acc.mean)
        robust = f"{best.pgd_acc.mean:.1%} of test images are correct under {pgd}"
        if best.verified:
            robust += f" and {best.robust_acc.mean:.1%} under {best.suite} (n = {scope.verified_n})"
        words.append(
            f"{best.recipe} trained at {best.pixels:g} pixels is most robust: {robust},"
            f" {best.clean_acc.mean:.1%} without attack"
        )
    words += [
        f"{family.recipe.lower()} models reach {family.robust_acc.mean:.1%}"
        for family in lines
        if family.role == "reference"
    ]
    unverified = "" if lines[0].verified else "; not verified"
    return f"{'; '.join(words)} (means over {scope.seeds}{unverified})."


if __name__ == "__main__":
    command(main)
