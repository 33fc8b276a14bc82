"""Who is crafted on whom."""

import numpy as np

from sweeps.engine.driver.query_spec import TransferQuery
from sweeps.engine.paper.results import found_in
from sweeps.engine.paper.table_spec import Black, Clean, Table, White, more, row
from tests.engine.paper.made import result

TARGET, OTHER, SOURCE = row("R-MC-LA"), row("R-MC-LA+"), row("Undefended")
SAME, ANOTHER = Black(SOURCE, "fgsm"), Black(TARGET, "ce20", another=True)


def table(*columns, claims=()) -> Table:
    named = {"clean": Clean(), **{f"black {place}": column for place, column in enumerate(columns)}}
    return Table(number=7, rows=(TARGET, OTHER, SOURCE), columns=named, claims=claims)


def queries(path, of: Table, **kwargs):
    made = result(path, of, lambda name, seed: {}, **kwargs)
    return {query.source: query.targets for query in of.queries(made.found)}


def test_the_undefended_model_of_the_same_seed(tmp_path):
    assert queries(tmp_path, table(SAME)) == {
        f"Undefended-seed{seed}": (f"R-MC-LA-eps8-seed{seed}", f"R-MC-LA+-eps8-seed{seed}") for seed in range(3)
    }


def test_another_is_of_the_next_seed_and_never_itself(tmp_path):
    asked = queries(tmp_path, table(ANOTHER))
    assert asked["R-MC-LA-eps8-seed1"] == ("R-MC-LA-eps8-seed0", "R-MC-LA+-eps8-seed0", "Undefended-seed0")
    assert asked["R-MC-LA-eps8-seed0"][0] == "R-MC-LA-eps8-seed2"
    assert all(source not in targets for source, targets in asked.items())


def test_of_one_seed_alone_there_is_no_other(tmp_path):
    assert "R-MC-LA-eps8-seed0" not in queries(tmp_path, table(ANOTHER), seeds=(0,)).get("R-MC-LA-eps8-seed0", ())


def test_a_source_that_was_not_trained_is_not_asked(tmp_path):
    assert queries(tmp_path, table(SAME), rows={"R-MC-LA"}) == {}


def test_what_only_a_claim_needs_is_asked_too(tmp_path):
    claim = more("black above white", (TARGET, SAME), (TARGET, White("ce", 20)))
    assert queries(tmp_path, table(claims=(claim,)))["Undefended-seed0"] == ("R-MC-LA-eps8-seed0",)


def test_numbers_come_from_the_answers(tmp_path):
    made = result(tmp_path, table(SAME), lambda name, seed: {})
    for seed in range(3):
        query = TransferQuery(source=f"Undefended-seed{seed}", targets=(TARGET.trial_id(seed),))
        right = np.arange(10) < 5 + seed
        made.found.answers.write(query, dict.fromkeys(query.columns, right))
    line = made.lines[0]
    assert line.ours["black 0"].values == {0: 0.5, 1: 0.6, 2: 0.7}
    assert made.lines[1].ours["black 0"] is None  # not asked
    assert "black 0" not in made.lines[2].ours  # its own white box
    assert found_in(made.sweep, made.folder).seeds == (0, 1, 2)
