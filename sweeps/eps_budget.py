"""Figure 1 of the paper: does training with a larger budget make a model more robust?

python sweeps/eps_budget.py                                           # digits, minutes on a laptop
python sweeps/eps_budget.py --dataset cifar10 --data-dir DIR          # the paper's, on GPUs
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from bat_core.config import FIGURE_1_STEPS, AttackConfig, Param, RecipeConfig, TrialConfig
from bat_core.errors import InputError
from sweeps.engine.cli.app import command
from sweeps.engine.cli.options import Amount, Several, SweepOptions, evaluation_budget, short_name
from sweeps.engine.sweep.spec import Trial

if TYPE_CHECKING:
    from bat_core.data import Dataset

PIXELS = (1, 2, 4, 8, 12)  # training budgets


@dataclass(frozen=True, kw_only=True)
class EpsBudgetOptions(SweepOptions):
    """Options of the sweep's grid and its evaluation."""

    eps_x: Annotated[tuple[Amount, ...] | None, Several] = None
    """Training budgets, such as 4/255. Default: 1, 2, 4, 8 and 12 pixels of the data set (5/255 each on digits);
    in L2 as many eighths of its usual budget."""
    recipe: str = "R-MC-LA"
    """Training recipe, by name or as package.module:recipe. A + selects the long schedule: R-MC-LA+."""
    beta: float | None = None
    """Multiplier of the adversarial label. Default: the recipe's, 9."""
    eps: Amount | None = None
    """Evaluation budget. Default: 8 pixels; in L2 the data set's usual one, 0.5 on cifar10 and 0.4 on digits."""
    step_size: Amount | None = None
    """Evaluation step size. Default: a quarter of --eps, 2 pixels."""
    steps: Annotated[tuple[int, ...], Several] = FIGURE_1_STEPS
    """Numbers of PGD steps at which to measure accuracy, all on one trajectory."""
    reference: str | None = "Undefended"
    """Baseline recipe for comparison, one model per seed; "none" disables it."""


def main(options: EpsBudgetOptions = EpsBudgetOptions()) -> int:
    """Figure 1: accuracy under PGD against the number of steps, for models trained with increasing budgets.

    Trains the recipe at every budget and seed, attacks each model once with cross-entropy and once with
    the CW margin, verifies the worst case with stronger attacks, and draws all curves. Write pixel amounts
    as 8/255.
    """

    from sweeps.engine.driver.run import run_sweep
    from sweeps.engine.paper.figure_1 import draw

    def make_trials(dataset: "Dataset") -> Sequence[Trial]:
        return grid(options, dataset)

    return run_sweep(options, name="eps_budget", make_trials=make_trials, draw=draw)


def grid(options: EpsBudgetOptions, dataset: "Dataset") -> list[Trial]:
    """One trial per budget and seed, then one reference trial per seed."""
    from bat_core.recipes import budget_params, recipe_params

    pixel = dataset.unit(options.norm)
    eps, step_size = evaluation_budget(options.eps, options.step_size, pixel)
    recipe, long = short_name(options.recipe)
    base = TrialConfig(
        data=options.data_config(),
        model=options.model_name(),
        train=options.train_config(long=long),
        attack=AttackConfig(
            eps=eps,
            norm=options.norm,
            step_size=step_size,
            steps=options.steps,
            verify=options.verify_size(),
            verify_suite=options.verify_suite,
        ),
    )
    params = dict(recipe_params(recipe)) | ({} if options.beta is None else {"beta": options.beta})

    def own(budget: float) -> dict[str, Param]:
        return {"eps": budget} | budget_params(recipe, budget, options.norm)

    budgets = options.eps_x if options.eps_x is not None else tuple(count * pixel for count in PIXELS)
    varied = [
        Trial(
            id=f"eps{round(budget / pixel, 3):g}-seed{seed}",
            config=replace(base, seed=seed, recipe=RecipeConfig(name=recipe, params=params | own(budget))),
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
            id=f"{options.reference.lower().replace(':', '.')}-seed{seed}",
            config=replace(base, seed=seed, recipe=RecipeConfig(name=options.reference)),
            role="reference",
        )
        for seed in options.seeds
    ]
    return varied + references


if __name__ == "__main__":
    command(main)
