"""One of the paper's tables, from the command line to the numbers side by side."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from bat_core.config import AttackConfig, Param, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Dataset
from bat_core.errors import InputError, unknown_name
from bat_core.recipes import recipe_params
from sweeps.engine.cli.options import Several, SweepOptions, short_name
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.cli.text import counted
from sweeps.engine.driver.model_queries import ModelQuery, QueryAnswers
from sweeps.engine.driver.run import run_sweep
from sweeps.engine.paper.report import as_csv, markdown, show
from sweeps.engine.paper.results import NOT_RUN, SAYS_NOTHING, Result, found_in
from sweeps.engine.paper.scales import Setting, setting_of
from sweeps.engine.paper.table_plot import draw_table
from sweeps.engine.paper.table_spec import Row, Table
from sweeps.engine.storage.files import write_atomically
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Report, Sweep, Trial


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TableOptions(SweepOptions):
    """The scale, and what is to differ from it. None stands for what the scale says."""

    scale: str = "smoke"
    """smoke (digits, a minute or two), small (parts of the real data, within an hour on 2 cores), fast (one GPU) or
    paper (the paper's networks and schedules). sweeps/engine/tables/scales.py has their settings."""
    rows: Annotated[tuple[str, ...], Several] = ()
    """Train these rows only. Default: all."""
    train_anew: bool = False
    """Train also what a sweep beside --output has finished already. Default: such a trial is used again."""
    dataset: str = ""
    """Images: digits (embedded), cifar10, svhn, imagenet. Default: the scale's."""
    model: str | None = None
    """small_cnn, preact_resnet18 ... Default: the scale's."""
    precision: str = ""
    """float32, bfloat16, or auto: bfloat16 on GPUs that have it. Verdicts are float32 always. Default: the scale's."""
    on_collapse: str = "go_on"
    """When one-step training collapses (catastrophic overfitting): go_on, as the paper does; or stop, and keep the
    epoch before."""
    seeds: Annotated[tuple[int, ...], Several] = ()
    """One model a row and seed. Default: the scale's."""

    def at(self, setting: Setting) -> "TableOptions":
        """These options, with the scale's setting where nothing else was asked for."""
        default = {option.name: option.default for option in fields(self)}
        taken = {
            option.name: getattr(setting, option.name)
            for option in fields(setting)
            if option.name in default and getattr(self, option.name) == default[option.name]
        }
        return replace(self, **taken)


def run_table(table: Table, options: TableOptions) -> int:
    """Train and judge what the table needs, and set it beside the paper's.

    Returns:
        The exit code: 0, or 1 if a trial failed, or 130 if it was interrupted.
    Raises:
        InputError: the input cannot be used; nothing has been started or written.
    """
    setting = setting_of(options.scale, table.images)
    chosen = options if options.resume else options.at(setting)

    def make_trials(dataset: Dataset) -> Sequence[Trial]:
        return trials_of(table, chosen, setting, dataset)

    def queries(sweep: Sweep, folder: SweepFolder) -> list[ModelQuery]:
        found = found_in(sweep, folder)
        return QueryAnswers(folder).missing(table.queries(found))

    def draw(sweep: Sweep, folder: SweepFolder) -> Report:
        return report(Result(table, sweep, folder))

    return run_sweep(
        chosen,
        name=f"table_{table.number}",
        make_trials=make_trials,
        draw=draw,
        queries=queries,
        reuse=not options.train_anew,
    )


def trials_of(table: Table, options: TableOptions, setting: Setting, dataset: Dataset) -> list[Trial]:
    """Every row with every seed, each trained once.

    Raises:
        InputError: a row that the table does not train, or no seed.
    """
    rows = _chosen(table, options.rows)
    if options.model and table.networks > 1:
        raise InputError(f"--model cannot be given: table {table.number} compares networks")
    if not options.seeds:
        raise InputError("give at least one seed (--seeds)")
    configs = _Configs(table, options, setting, dataset.pixel)
    trials: dict[str, Trial] = {}
    for row in rows:
        for seed in options.seeds:
            role = "grid" if row.name in table.paper.rows or table.lines else "reference"
            trial = Trial(id=row.trial_id(seed), config=configs.of(row, seed), role=role)
            trials.setdefault(trial.id, trial)
    return list(trials.values())


def _chosen(table: Table, names: Sequence[str]) -> list[Row]:
    known = {row.name: row for row in table.trained}
    for name in names:
        if name not in known:
            raise unknown_name(f"row of table {table.number}", name, known)
    return [row for row in table.trained if not names or row.name in names]


@dataclass(frozen=True)
class _Configs:
    """The configs of a table's trials, at a scale and with what was asked for."""

    table: Table
    options: TableOptions
    setting: Setting
    pixel: float

    def of(self, row: Row, seed: int) -> TrialConfig:
        """The config of one row and seed."""
        table, pixel = self.table, self.pixel
        recipe, long = short_name(row.recipe)
        params: dict[str, Param] = dict(recipe_params(recipe))
        if "eps" in params:
            params["eps"] = row.eps * pixel
        models = (self.options.model,) if self.options.model else self.setting.models
        return TrialConfig(
            data=self.options.data_config(),
            model=models[row.network or 0],
            recipe=RecipeConfig(name=recipe, params=params),
            train=self._train(long=long),
            attack=AttackConfig(
                eps=table.eps * pixel,
                step_size=table.eps * pixel / (table.eps / table.step),
                steps=table.steps,
                losses=table.losses,
                verify=self.options.verify_size(),
                also=table.also,
            ),
            seed=seed,
        )

    def _train(self, *, long: bool) -> TrainConfig:
        default = self.options.train_config(long=long)
        return replace(
            default,
            epochs=(self.options.epochs or self.setting.epochs) * (2 if long else 1),
            milestones=default.milestones if long else self.setting.milestones,
            weight_decay=self.setting.weight_decay,
        )


def report(result: Result) -> Report:
    """The table on the terminal, and its files."""
    stem = f"table_{result.table.number}"
    path = result.folder.path
    write_atomically(path / f"{stem}.md", markdown(result))
    write_atomically(path / f"{stem}.csv", as_csv(result))
    pictures = save_figure(draw_table(result), path / stem)
    show(Console(), result)
    return Report(files=(*(file.name for file in pictures), f"{stem}.md", f"{stem}.csv"), sentence=_sentence(result))


def _sentence(result: Result) -> str:
    """What stands best, by what it holds; a row with a model that answers one class alone does not stand."""
    rows = list(result.held.values())
    held = [one for one in rows if one.row.recipe != "Undefended" and not one.one_class] or rows
    if not held:
        return "No row is finished."
    best = max(held, key=lambda one: one.robust.mean)
    seeds = len(best.robust.values)
    words = Counter(one.word for one in result.judgements)
    empty = f", {words[SAYS_NOTHING]} say nothing" if words[SAYS_NOTHING] else ""
    left = f", {words[NOT_RUN]} were not run" if words[NOT_RUN] else ""
    claims = (
        f" Of the paper's claims {words['shows']} show, {words['does not show']} do not, {words['undecided']} are"
        f" undecided{empty}{left}."
    )
    return (
        f"Table {result.table.number}: {best.row.name} holds most, {best.robust.mean:.1%} of {best.robust.n} test"
        f" images under {best.suite} ({counted(seeds, 'seed')}, {best.masking_status})."
        f"{claims if result.judgements else ''}"
    )
