"""What holds for each of the paper's tables, found by its file."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest

import sweeps
from bat_core.recipes import get_recipe
from bat_core.suites import evaluation_suite
from sweeps.engine.cli.options import short_name
from sweeps.engine.paper.options import TableOptions
from sweeps.engine.paper.reported import PAPER
from sweeps.engine.paper.run import trials_of
from sweeps.engine.paper.scales import SCALES, setting_of
from sweeps.engine.paper.table_spec import CITED, White

FILES = sorted(path.stem for path in Path(sweeps.__path__[0]).glob("table_*.py"))
TABLES = [importlib.import_module(f"sweeps.{name}").TABLE for name in FILES]

every = pytest.mark.parametrize("table", TABLES, ids=FILES)
at_every_scale = pytest.mark.parametrize("scale", SCALES)


def trials(table, scale, dataset):
    setting = setting_of(scale, table.images)
    return trials_of(table, TableOptions(scale=scale).at(setting), setting, dataset)


def test_all_nine_are_there():
    assert {table.number for table in TABLES} == set(PAPER)
    assert [f"table_{table.number}" for table in TABLES] == FILES


@every
def test_every_row_and_column_of_the_papers_has_its_place(table):
    rows = {place[0] for place in table.lines} if table.lines else {row.name for row in table.rows}
    assert set(table.paper.rows) <= rows
    assert set(table.paper.columns) <= set(table.columns)
    asked = {(row, column) for row in table.paper.rows for column in table.paper.columns}
    cited = {row.name for row in table.rows if row.recipe == CITED}
    assert {place for place in asked if place[0] not in cited} <= set(table.cells())


@every
def test_every_attack_that_is_read_is_run(table, digits):
    suite = evaluation_suite(trials(table, "smoke", digits)[0].config.attack)
    cells = [*table.cells().values(), *(cell for one in table.claims for cell in (one.first, one.second) if cell)]
    for _, column in cells:
        if isinstance(column, White):
            assert column.steps in suite.entry(column.attack).steps


@every
def test_every_claim_is_about_rows_that_are_trained(table):
    assert table.claims
    for claim in table.claims:
        for cell in (claim.first, claim.second):
            assert cell is None or cell[0] in table.trained


@every
@at_every_scale
def test_every_row_is_trained_by_its_recipe_at_its_budget(table, scale, digits):
    made = {trial.id: trial.config for trial in trials(table, scale, digits)}
    setting = setting_of(scale, table.images)
    assert set(made) == {row.trial_id(seed) for row in table.trained for seed in setting.seeds}
    for row in table.trained:
        config = made[row.trial_id(setting.seeds[0])]
        name, long = short_name(row.recipe)
        recipe = get_recipe(config.recipe.name, **config.recipe.params)
        assert config.recipe.name == name
        assert recipe.attack is None or recipe.attack.eps == pytest.approx(row.eps * digits.pixel)
        assert config.attack.eps == pytest.approx(table.eps * digits.pixel)
        assert config.attack.step_size == pytest.approx(table.step * digits.pixel)
        assert config.train.epochs == setting.epochs * (2 if long else 1)
        assert config.model == setting.models[row.network or 0]
        assert config.data.name == setting.dataset


@at_every_scale
def test_tables_of_the_same_images_share_their_trials(scale, digits):
    hashes: dict[tuple[str, str], str] = {}
    for table in TABLES:
        for trial in trials(table, scale, digits):
            known = hashes.setdefault((table.images, trial.id), trial.config.hash)
            assert known == trial.config.hash
    assert len(set(hashes.values())) >= len({name for _, name in hashes})


def test_the_papers_schedules(digits):
    by_number = {table.number: table for table in TABLES}
    found = {}
    for number, row in (
        (6, "R-MC-LA-eps8"),
        (6, "R-MC-LA+-eps8"),
        (8, "R-MC-LA-eps8"),
        (9, "R-MC-LA-2step-net1-eps16"),
    ):
        configs = {trial.id: trial.config for trial in trials(by_number[number], "paper", digits)}
        train = configs[f"{row}-seed0"].train
        found[number, row] = (train.lr, [round(share * train.epochs) for share in train.milestones], train.epochs)
        assert (train.schedule, train.drop, train.precision) == ("multi_step", 0.1, "float32")
    assert list(found.values()) == [
        (0.1, [60, 90], 100),
        (0.1, [100, 150], 200),
        (0.01, [60, 90], 100),
        (0.1, [30, 60, 90], 100),
    ]


def test_a_table_that_compares_networks_takes_the_users(digits):
    (table,) = (table for table in TABLES if table.networks > 1)
    networks = ("a:one", "b:two", "timm:three")
    setting = setting_of("smoke", table.images)
    options = replace(TableOptions().at(setting), networks=networks)
    made = {trial.id: trial.config.model for trial in trials_of(table, options, setting, digits)}
    for row in table.trained:
        assert made[row.trial_id(setting.seeds[0])] == networks[row.network or 0]
