"""The commands `table_N`: train and evaluate the models of a paper table, and compare the numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.console import Console

from bat_core.config import AttackConfig, Param, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Dataset
from bat_core.errors import InputError, unknown_name
from bat_core.norms import LINF
from bat_core.paths import below, write_atomically
from bat_core.recipes import recipe_params
from sweeps.engine.cli.options import short_name
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.cli.text import counted
from sweeps.engine.driver.model_queries import QueryAnswers
from sweeps.engine.driver.query_spec import ModelQuery
from sweeps.engine.driver.run import run_sweep
from sweeps.engine.pages.sweep_page import write_sweep_page
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.page import story
from sweeps.engine.paper.report import as_csv, markdown, show
from sweeps.engine.paper.results import NOT_RUN, SAYS_NOTHING, Result, found_in
from sweeps.engine.paper.scales import Setting, setting_of
from sweeps.engine.paper.table_plot import draw_table
from sweeps.engine.paper.table_spec import Row, Table
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Report, Sweep, Trial


def run_table(table: Table, options: TableOptions) -> int:
    """Train and evaluate the models of a table, and compare the numbers with the paper's.

    Returns:
        The exit code: 0, or 1 if a trial failed, or 130 if it was interrupted.
    Raises:
        InputError: the input is invalid; nothing was started or written.
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
    """One trial per row and seed. Rows that train the same model share a trial.

    Raises:
        InputError: a row is unknown, no seed is given, or --model or --networks does not fit the table.
    """
    rows = _chosen(table, options.rows)
    _check_networks(table, options)
    if options.norm != LINF:
        raise InputError(
            f"--norm {options.norm}: the paper's tables are in L-inf, like the numbers that they are compared with: use"
            " eps_budget, search or evaluate"
        )
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


def _check_networks(table: Table, options: TableOptions) -> None:
    if options.model and table.networks > 1:
        raise InputError(
            f"--model={options.model}: table {table.number} compares {table.networks} networks; name them with"
            " --networks"
        )
    if options.networks and len(options.networks) != table.networks:
        rule = f"compares {table.networks} networks" if table.networks > 1 else "has one network, named by --model"
        raise InputError(f"--networks gives {len(options.networks)}: table {table.number} {rule}")


def _chosen(table: Table, names: Sequence[str]) -> list[Row]:
    known = {row.name: row for row in table.trained}
    for name in names:
        if name not in known:
            raise unknown_name(f"row of table {table.number}", name, known)
    return [row for row in table.trained if not names or row.name in names]


@dataclass(frozen=True)
class _Configs:
    """Makes the configs of a table's trials from the scale and the options."""

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
        models = (self.options.model,) if self.options.model else self.options.networks or self.setting.models
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
                verify_suite=self.options.verify_suite,
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
    """Print the table and write its files."""
    stem = f"table_{result.table.number}"
    path = result.folder.path
    write_atomically(below(path, f"{stem}.md"), markdown(result))
    write_atomically(below(path, f"{stem}.csv"), as_csv(result))
    pictures = save_figure(draw_table(result), path / stem)
    show(Console(), result)
    sentence = _sentence(result)
    page = write_sweep_page(result.sweep, result.folder, story(result, sentence))
    return Report(files=(*(file.name for file in pictures), f"{stem}.md", f"{stem}.csv", page), sentence=sentence)


def _sentence(result: Result) -> str:
    """The most robust row in one sentence. Rows with a model that predicts one class only are excluded."""
    rows = list(result.robustness.values())
    candidates = [one for one in rows if one.row.recipe != "Undefended" and not one.one_class] or rows
    if not candidates:
        return "No row has finished."
    best = max(candidates, key=lambda one: one.robust.mean)
    seeds = len(best.robust.values)
    words = Counter(one.word for one in result.claim_results)
    empty = f", {words[SAYS_NOTHING]} say nothing" if words[SAYS_NOTHING] else ""
    left = f", {words[NOT_RUN]} were not run" if words[NOT_RUN] else ""
    claims = (
        f" Of the paper's claims, our numbers show {words['shows']} and do not show {words['does not show']};"
        f" {words['undecided']} are undecided{empty}{left}."
    )
    return (
        f"Table {result.table.number}: {best.row.name} is the most robust, with {best.robust.mean:.1%} of"
        f" {best.robust.n} test images correct under {best.suite} ({counted(seeds, 'seed')}, {best.masking_status})."
        f"{claims if result.claim_results else ''}"
    )
