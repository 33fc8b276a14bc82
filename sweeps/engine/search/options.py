"""What can be said to a search on the command line, and what it makes of it."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bat_core.config import EVAL_PIXELS, AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Dataset
from bat_core.errors import InputError, check_choice, check_finite
from bat_core.recipes import recipe_params
from search_spaces.base import Space, compose, get_space
from search_spaces.narrowing import narrow
from sweeps.engine.cli.options import Amount, Several, SweepOptions, evaluation_budget
from sweeps.engine.search.objectives import DEFAULT_OBJECTIVE, DEFAULT_RULE, check_rule, get_objective
from sweeps.engine.search.spec import SAMPLERS, Final, Halving, Search
from sweeps.engine.search.trial_config import trial_config

SIGNAL_STEPS = 20  # PGD steps that are read beside the verified number
DIGITS_VAL = 300  # of 1,400 training images
FACTOR = 3  # successive halving keeps one trial in so many
STOPPING = ("asha", "none")


@dataclass(frozen=True, kw_only=True)
class SearchOptions(SweepOptions):
    """Where to look, what to aim at, when to end, what to do with what was found."""

    space: Annotated[tuple[str, ...], Several] = ("bat",)
    """Spaces to search, which compose: bat, schedule, model."""
    fixed: Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=True)] = ()
    """Parameters that do not vary: name=value, as eps=4/255."""
    ranges: Annotated[tuple[str, ...], Parameter(name="--range", consume_multiple=True)] = ()
    """Smaller ranges: name=low:high, as beta=4:64; or name=one,another."""
    show_space: bool = False
    """Print the space as it would be searched, and end."""
    recipe: str = "R-MC-LA"
    """Recipe where the space has none of its own."""
    objective: str = DEFAULT_OBJECTIVE
    """clean, robust, robust-per-hour, hours, pgd (not verified), joined by +; or robust-at-clean>=X."""
    sampler: str = "tpe"
    """tpe, gp or random."""
    seed: int = 0
    """Names what the sampler draws, and the seeds of the trials."""
    num_trials: int = 40
    """End after so many trials."""
    max_hours: float | None = None
    """Propose nothing after so many hours of wall time at work."""
    stop_when_flat: int | None = None
    """Propose nothing once so many finished trials in a row have added nothing to the hypervolume."""
    early_stopping: str = "asha"
    """asha: successive halving by PGD on validation images; or none."""
    grace: int | None = None
    """Epochs before successive halving may stop a trial. Default: three tenths of the epochs."""
    warm_start: Annotated[tuple[Path, ...], Several] = ()
    """Folders of finished searches whose trials the sampler learns from."""
    eps: Amount | None = None
    """Evaluation budget. Default: 8 pixels."""
    step_size: Amount | None = None
    """Evaluation step. Default: a quarter of --eps, 2 pixels."""
    finalists: int = 0
    """Train so many of the front anew with every one of --seeds, and evaluate them on test once."""
    final_epochs: int | None = None
    """Epochs of a finalist. Default: as many as the trial had that found it."""
    rule: str = DEFAULT_RULE
    """Chooses the champion of the finalists: robust-at-clean>=X, knee or robust-per-hour."""
    register: str | None = None
    """Name in MLflow's model registry. Default: bat-sweeps-<dataset>."""

    def check(self) -> None:
        """Raises InputError for what cannot be used, before anything is loaded."""
        get_objective(self.objective)
        check_rule(self.rule)
        check_choice("--sampler", self.sampler, SAMPLERS)
        check_choice("--early-stopping", self.early_stopping, STOPPING)
        for name, low in (
            ("num_trials", 1),
            ("stop_when_flat", 1),
            ("grace", 1),
            ("finalists", 0),
            ("final_epochs", 1),
        ):
            if getattr(self, name) is not None:
                check_finite(f"--{name.replace('_', '-')}", getattr(self, name), low=low)
        if self.max_hours is not None:
            check_finite("--max-hours", self.max_hours, strict=True)
        check_finite("--seed", self.seed)
        if self.finalists and not self.seeds:
            raise InputError("--finalists needs at least one of --seeds")

    def data_config(self) -> DataConfig:
        """Which images; on digits more than usual are held out, because a search chooses by them."""
        data = super().data_config()
        few = self.dataset == "digits" and self.val_size is None
        return replace(data, val_size=DIGITS_VAL) if few else data

    def verify_size(self) -> int:
        """How many validation images the verifying suite is run on: all."""
        return super().verify_size() if self.verify is not None else 10**9

    def narrowed_space(self, pixel: float) -> Space:
        """The space that is searched, with amounts in [0, 1]."""
        whole = compose([get_space(name) for name in dict.fromkeys(self.space)])
        return narrow(whole.at(pixel), fixed=self.fixed, ranges=self.ranges)

    def base(self, dataset: Dataset) -> TrialConfig:
        """The trial that a point of the space changes: judged on validation images."""
        pixel = dataset.pixel
        eps, step_size = evaluation_budget(self.eps, self.step_size, pixel)
        verify = min(self.verify_size(), len(dataset.val))
        if verify < 1:
            raise InputError("--verify must be at least 1: a search aims at verified robustness")
        own_eps = {"eps": EVAL_PIXELS * pixel} if "eps" in recipe_params(self.recipe) else {}
        return TrialConfig(
            data=self.data_config(),
            model=self.model_name(),
            recipe=RecipeConfig(name=self.recipe, params=own_eps),
            train=self.train_config(),
            attack=AttackConfig(
                eps=eps, step_size=step_size, steps=(SIGNAL_STEPS,), losses=("ce",), verify=verify, split="val"
            ),
        )

    def search(self, dataset: Dataset) -> Search:
        """All that is decided before the first trial.

        Raises:
            InputError: the space does not fit the trial.
        """
        space, base = self.narrowed_space(dataset.pixel), self.base(dataset)
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
        )

    def _halving(self, space: Space, train: TrainConfig) -> Halving | None:
        if self.early_stopping == "none":
            return None
        longest = round(space["epochs"].high) if "epochs" in space.names else train.epochs
        grace = self.grace or usual_grace(longest)
        if grace >= longest > 1:
            raise InputError(f"--grace={grace} leaves nothing to stop: a trial has {longest} epochs")
        return Halving(grace=grace, factor=FACTOR)

    def final(self, dataset: str) -> Final | None:
        """What becomes of the front."""
        if not self.finalists:
            return None
        return Final(
            count=self.finalists,
            epochs=self.final_epochs,
            seeds=self.seeds,
            rule=self.rule,
            registered_name=self.register or f"bat-sweeps-{dataset}",
        )


def usual_grace(epochs: int) -> int:
    """Epochs before successive halving may stop a trial."""
    return max(round(0.3 * epochs), 1)


OF_FINAL = {"final_epochs": "epochs", "rule": "rule", "register": "registered_name", "seeds": "seeds"}
RESIZABLE = {"num_trials", "max_hours", "stop_when_flat", "finalists", *OF_FINAL}


def resized(search: Search, options: SearchOptions) -> Search:
    """A search that is gone on with may be given another budget, or other finalists.

    Raises:
        InputError: it says how finalists are treated and has none.
    """
    given = {f.name: getattr(options, f.name) for f in fields(options) if getattr(options, f.name) != f.default}
    budget = {"num_trials": "num_trials", "max_hours": "max_hours", "stop_when_flat": "flat"}
    changes: dict[str, Any] = {name: given[option] for option, name in budget.items() if option in given}
    of_final = {name: given[option] for option, name in OF_FINAL.items() if option in given}
    if options.finalists:
        changes["final"] = options.final(search.base.data.name)
    elif of_final and search.final is None:
        option = next(option for option in OF_FINAL if option in given)
        raise InputError(f"--{option.replace('_', '-')} is about finalists: say how many with --finalists")
    elif of_final and search.final is not None:
        changes["final"] = replace(search.final, **of_final)
    return replace(search, **changes)
