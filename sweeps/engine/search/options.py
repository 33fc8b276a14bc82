"""The command line options of a search, and the Search that they describe."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from bat_core.config import EVAL_PIXELS, AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.errors import LARGEST_INTEGER, InputError, check_choice, check_finite
from search_spaces.base import Space, compose, get_space
from search_spaces.narrowing import narrow
from sweeps.engine.cli.options import Amount, Several, SweepOptions, evaluation_budget, file_name
from sweeps.engine.search.spec import (
    DEFAULT_OBJECTIVE,
    DEFAULT_RULE,
    SAMPLERS,
    TRIAL_SEEDS,
    Final,
    Halving,
    Search,
    longest_trial,
)
from sweeps.engine.search.trial_config import trial_config

if TYPE_CHECKING:
    from bat_core.data import Dataset

SIGNAL_STEPS = 20  # PGD steps of the early-stopping signal
DIGITS_VAL = 300  # of 1,400 training images
FACTOR, FRONT_FACTOR = 3, 7  # successive halving keeps one trial in so many: by PGD accuracy, by both aims
FRONT_ALWAYS = 2  # trials that it keeps at least, by both aims
STOPPING = ("asha", "none")


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SweepOptions):
    """The search space, the objective, the search budget, and how to treat the finalists."""

    val_size: int | None = None
    """Number of training images held out for validation, by which a search chooses. Default: 300 on digits, else a
    tenth, at most 1,000."""
    verify: int | None = None
    """Validation images to verify with --verify-suite, at least 1. Default: all."""
    seeds: Annotated[tuple[int, ...], Several] = (0, 1, 2)
    """Random seeds of the finalists; one model per finalist and seed."""
    space: Annotated[tuple[str, ...], Several] = ("bat",)
    """Search spaces, which can be combined: bat, schedule, model."""
    fixed: Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=True)] = ()
    """Fix parameters: name=value. Example: eps=4/255 sets the training budget (eps_x), unlike --eps."""
    ranges: Annotated[tuple[str, ...], Parameter(name="--range", consume_multiple=True)] = ()
    """Narrow ranges: name=low:high, or name=a,b. Examples: beta=4:64; eps=2/255:8/255, the training budget (eps_x)."""
    show_space: bool = False
    """Print the search space and exit."""
    recipe: str = "R-MC-LA"
    """Training recipe, by name or as package.module:recipe, if the space does not set one."""
    objective: str = DEFAULT_OBJECTIVE
    """One or several of clean, robust, robust-per-hour, hours and pgd (not verified), joined by +; or
    robust-at-clean>=X. With two norms in --threat also robust-linf, robust-l2 and robust-union (both at once)."""
    threat: Annotated[tuple[str, ...], Several] = ()
    """One or two norms and budgets, in place of --norm and --eps: linf:8/255 l2:0.5. Trials are verified in each. The
    first is that of training and of PGD."""
    sampler: str = "auto"
    """Sampler: auto (a Gaussian process that knows its noise), tpe, gp (Optuna's) or random."""
    seed: int = 0
    """Seed of the sampler and of the trials."""
    num_trials: int = 40
    """Stop after this many trials."""
    max_hours: float | None = None
    """Start no trial after this many hours of wall time spent running trials. If hours are left after the last new
    trial, trials that were stopped early continue."""
    stop_when_flat: int | None = None
    """Start no new trial once this many finished trials in a row did not increase the hypervolume."""
    early_stopping: str = "asha"
    """asha (asynchronous successive halving by clean and PGD accuracy on validation images) or none."""
    grace: int | None = None
    """Epochs before successive halving can stop a trial. Default: 20 % of the epochs, at least 2, if the objective
    includes clean accuracy; else 30 %."""
    verify_all: bool = False
    """Also verify trials whose PGD accuracy shows that they cannot enter the front."""
    warm_start: Annotated[tuple[Path, ...], Several] = ()
    """Folders of earlier searches; the sampler learns from their finished trials. With --sampler auto, those of other
    images or budgets are a prior, used while it explains what this search sees."""
    eps: Amount | None = None
    """Evaluation budget. Default: 8 pixels. The training budget is --set eps= or --range eps=."""
    step_size: Amount | None = None
    """Step size of the evaluation attacks. Default: a quarter of --eps."""
    finalists: int = 0
    """Retrain this many trials of the front with each of --seeds, and evaluate them once on test images. The front is
    that of the accuracies that a model of all trials expects, if ten have finished."""
    final_epochs: int | None = None
    """Epochs of a finalist. Default: those of its original trial."""
    max_seeds: int | None = None
    """Give finalists more seeds, up to this many each, until --rule's choice is clear. Default: only --seeds."""
    rule: str = DEFAULT_RULE
    """Rule that chooses the champion: robust-at-clean>=X, knee or robust-per-hour."""
    register: str | None = None
    """Name of the champion in the MLflow model registry. Default: bat-sweeps-<dataset>."""

    def check(self) -> None:
        """Raises InputError for invalid options, before anything is loaded."""
        from sweeps.engine.search.objectives import check_rule, get_objective

        get_objective(self.objective)
        self._check_threats()
        check_rule(self.rule)
        check_choice("--sampler", self.sampler, SAMPLERS)
        check_choice("--early-stopping", self.early_stopping, STOPPING)
        for name, low in (
            ("num_trials", 1),
            ("stop_when_flat", 1),
            ("grace", 1),
            ("finalists", 0),
            ("final_epochs", 1),
            ("max_seeds", 1),
        ):
            if getattr(self, name) is not None:
                check_finite(f"--{name.replace('_', '-')}", getattr(self, name), low=low)
        if self.max_hours is not None:
            check_finite("--max-hours", self.max_hours, strict=True)
        check_finite("--seed", self.seed)
        if (most := (LARGEST_INTEGER - self.num_trials) // TRIAL_SEEDS) < self.seed:
            raise InputError(
                f"--seed={self.seed} must be at most {most}: trials take seeds from {TRIAL_SEEDS} times it on"
            )
        if self.finalists and not self.seeds:
            raise InputError("--finalists needs at least one seed: give --seeds")

    def _check_threats(self) -> None:
        """Raises InputError for threats beside a norm or budget, and for an objective that they do not fit."""
        from sweeps.engine.cli.threat import refuse_beside
        from sweeps.engine.search.threats import check_aims, parsed

        if self.threat:
            refuse_beside(self)
        if self.resume is None:
            check_aims(self.objective, [threat.norm for threat in parsed(self.threat)] or [self.norm])

    def at_first_threat(self) -> "SearchOptions":
        """The same options with the norm of the first --threat; these themselves without one."""
        from sweeps.engine.search.threats import parsed

        if not self.threat:
            return self
        return self.with_defaults(norm=parsed(self.threat)[0].norm)

    def data_config(self) -> DataConfig:
        """The images. On digits, more are held out than usual, because a search chooses by validation images."""
        data = super().data_config()
        few = self.dataset == "digits" and self.val_size is None
        return replace(data, val_size=DIGITS_VAL) if few else data

    def verify_size(self) -> int:
        """Number of validation images for the verifying suite. Default: all."""
        return super().verify_size() if self.verify is not None else 10**9

    def narrowed_space(self, pixel: float) -> Space:
        """The space to search, with amounts in [0, 1]."""
        whole = compose([get_space(name) for name in dict.fromkeys(self.space)])
        return narrow(whole.at(pixel), fixed=self.fixed, ranges=self.ranges)

    def base(self, dataset: "Dataset") -> TrialConfig:
        """The config that a point of the space modifies. It evaluates on validation images.

        Raises:
            InputError: no image is left to verify on, or the evaluation budget is invalid.
        """
        from bat_core.recipes import budget_params
        from sweeps.engine.search.threats import parsed, second

        pixel = dataset.unit(self.norm)
        threats = parsed(self.threat)
        eps, step_size = evaluation_budget(threats[0].eps if threats else self.eps, self.step_size, pixel)
        verify = min(self.verify_size(), len(dataset.val))
        if verify < 1:
            raise InputError("--verify must be at least 1: a search optimises verified robustness")
        own_budget = budget_params(self.recipe, EVAL_PIXELS * pixel, self.norm)
        return TrialConfig(
            data=self.data_config(),
            model=self.model_name(),
            recipe=RecipeConfig(name=self.recipe, params=own_budget),
            train=self.train_config(),
            attack=AttackConfig(
                eps=eps,
                norm=self.norm,
                step_size=step_size,
                steps=(SIGNAL_STEPS,),
                losses=("ce",),
                verify=verify,
                verify_suite=self.verify_suite,
                split="val",
                second=second(threats),
            ),
        )

    def search(self, dataset: "Dataset") -> Search:
        """Everything that is fixed before the first trial. `at_first_threat` comes before it.

        Raises:
            InputError: a point of the space is not a valid trial config.
        """
        space, base = self.narrowed_space(dataset.unit(self.norm)), self.base(dataset)
        self._refuse_overridden(space)
        trial_config(space, space.default_point(), base)
        return Search(
            space=space,
            base=base,
            objective=self.objective,
            sampler=self.sampler,
            seed=self.seed,
            num_trials=self.num_trials,
            max_hours=self.max_hours,
            flat=self.stop_when_flat,
            halving=self._halving(space, base.train),
            final=self.final(self.dataset),
            warm_start=tuple(str(path.resolve()) for path in self.warm_start),
            skip_dominated=self._skips_dominated(),
        )

    def _skips_dominated(self) -> bool:
        """Whether trials that cannot enter the front stay unverified. Optuna's GP learns from finished ones only."""
        both = set(self.objective.split("+")) == set(DEFAULT_OBJECTIVE.split("+"))
        return both and self.sampler != "gp" and not self.verify_all

    def _refuse_overridden(self, space: Space) -> None:
        """Refuse a model or recipe that the space would override."""
        set_by_space = set(space.fixed) | {parameter.field_path for parameter in space.parameters}
        if self.model is not None and "model" in set_by_space:
            raise InputError(f"--model={self.model}: space {space.name!r} sets the network: leave one of them out")
        if self.recipe != SearchOptions.recipe and "recipe.name" in set_by_space:
            raise InputError(f"--recipe={self.recipe}: space {space.name!r} sets the recipe: use --space schedule")

    def _halving(self, space: Space, train: TrainConfig) -> Halving | None:
        if self.early_stopping == "none":
            return None
        longest = longest_trial(space, train.epochs)
        halving = default_halving(self.objective, longest)
        if self.grace is not None:
            halving = replace(halving, grace=self.grace)
        if (grace := halving.grace) >= longest > 1:
            raise InputError(f"--grace={grace} must be below the {longest} epochs of a trial: give a smaller --grace")
        return halving

    def final(self, dataset: str) -> Final | None:
        """How to treat the finalists; None without --finalists."""
        if not self.finalists:
            return None
        return Final(
            count=self.finalists,
            epochs=self.final_epochs,
            seeds=self.seeds,
            max_seeds=self.max_seeds,
            by="expected",
            rule=self.rule,
            registered_name=self.register or f"bat-sweeps-{file_name(dataset)}",
        )


def default_halving(objective: str, epochs: int) -> Halving:
    """How trials of so many epochs are stopped: by both aims if clean accuracy is one of several."""
    if {"clean"} < set(objective.split("+")):
        grace = max(min(max(round(0.2 * epochs), 2), epochs - 1), 1)
        return Halving(grace=grace, factor=FRONT_FACTOR, by="front", always=FRONT_ALWAYS, continues=True)
    return Halving(grace=max(round(0.3 * epochs), 1), factor=FACTOR)


FINAL_OPTIONS = {
    "final_epochs": "epochs",
    "rule": "rule",
    "register": "registered_name",
    "seeds": "seeds",
    "max_seeds": "max_seeds",
}
BUDGET_OPTIONS = {"num_trials": "num_trials", "max_hours": "max_hours", "stop_when_flat": "flat"}
RESIZABLE = {*BUDGET_OPTIONS, "finalists", *FINAL_OPTIONS}


def resized(search: Search, options: SearchOptions) -> Search:
    """Apply the options that may change when a search is resumed: its budget and its finalists.

    Raises:
        InputError: an option about finalists, but the search has none.
    """
    given = {option: getattr(options, option) for option in options.given}
    changes: dict[str, Any] = {name: given[option] for option, name in BUDGET_OPTIONS.items() if option in given}
    of_final = {name: given[option] for option, name in FINAL_OPTIONS.items() if option in given}
    if "finalists" in given and not options.finalists:
        changes["final"] = None
    elif "finalists" in given:
        new = options.final(search.base.data.name)
        changes["final"] = replace(search.final, count=options.finalists, **of_final) if search.final else new
    elif search.final:
        changes["final"] = replace(search.final, **of_final)
    if of_final and changes.get("final", search.final) is None:
        option = next(option for option in FINAL_OPTIONS if option in given)
        none = "this search has none: add --finalists" if search.final is None else "--finalists 0 leaves none"
        raise InputError(f"{options.flag(option)} applies to finalists, and {none}")
    return replace(search, **changes)
