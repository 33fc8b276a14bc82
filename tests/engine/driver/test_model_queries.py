"""What is asked of finished models: gradients against the formula, black boxes against the attack by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from bat_core.attacks import fgsm
from bat_core.config import AttackConfig, TrialConfig
from bat_core.data import Split
from sweeps.engine.driver.model_queries import Norms, QueryAnswers, answer_query
from sweeps.engine.driver.query_spec import GradientQuery, TransferQuery
from sweeps.engine.sweep.folder import SweepFolder
from tests.unit.toys import Linear, classes, normal, uniform

PART = Split((uniform(7, 3, 4, 4) * 255).to(torch.uint8), classes(7, 5), torch.arange(7) * 2)
CONFIG = TrialConfig(attack=AttackConfig(eps=8 / 255, step_size=2 / 255))


def linear(seed: int) -> Linear:
    return Linear(normal(5, 48, seed=seed))


def test_gradients_are_those_of_the_formula_in_the_papers_units():
    model = linear(0)
    _, answer = answer_query(PART, CONFIG, "cpu", GradientQuery(trial="a"), {"a": model})
    x = PART.images.double() / 255
    for position in range(len(PART)):
        z = (2 * x[position] - 1).requires_grad_()  # the paper's images
        logits = model.weight.double() @ ((z + 1) / 2).flatten()
        F.cross_entropy(logits[None], PART.labels[position : position + 1]).backward()
        assert answer["squared_norm"][position] == pytest.approx(float(z.grad.square().sum()), rel=1e-4)
        assert answer["correct"][position] == (int(logits.argmax()) == int(PART.labels[position]))


def test_a_black_box_is_crafted_on_one_model_and_judged_by_others():
    source, target = linear(0), linear(1)
    query = TransferQuery(source="s", targets=("t", "s2"))
    _, answer = answer_query(PART, CONFIG, "cpu", query, {"s": source, "t": target, "s2": source})
    x, y = PART.images / 255, PART.labels
    x_adv = fgsm(source, x, y, eps=8 / 255)
    for name, model in (("t", target), ("s2", source)):
        assert (answer[f"fgsm:{name}"] == (model(x_adv).argmax(1) == y).numpy()).all()
    assert answer["ce20:s2"].sum() <= answer["ce20:t"].sum()
    assert set(answer) == set(query.columns)


def test_statistics_are_over_the_images_that_are_meant():
    norms = Norms(np.array([1.0, 4.0, 10.0]), np.array([True, True, False]))
    assert norms.statistic("all", "mean") == 5.0
    assert norms.statistic("correct", "max") == 4.0
    assert norms.statistic("wrong", "min") == 10.0
    assert Norms(np.array([1.0]), np.array([True])).statistic("wrong", "mean") is None


def test_an_answer_is_asked_once(tmp_path):
    probed = QueryAnswers(SweepFolder(tmp_path))
    wide, narrow = TransferQuery(source="s", targets=("t", "u")), TransferQuery(source="s", targets=("t",))
    assert probed.missing([wide, narrow]) == [wide, narrow]
    probed.write(narrow, {name: np.array([True, False]) for name in narrow.columns})
    assert probed.missing([wide, narrow]) == [wide]  # it has not been put to u
    assert probed.crafted("s", "t") == {"fgsm": 0.5, "ce20": 0.5}
    assert probed.crafted("s", "u") is None
    assert probed.gradients("s") is None


def test_a_torn_answer_is_none(tmp_path):
    probed, query = QueryAnswers(SweepFolder(tmp_path)), GradientQuery(trial="a")
    probed.write(query, {"correct": np.array([True]), "squared_norm": np.array([1.0])})
    path = tmp_path / "probes" / "gradients-a.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    assert probed.missing([query]) == [query]


@pytest.mark.parametrize("name", ["correct", "squared_norm"])
@pytest.mark.parametrize("values", [["1.0"], [None], [[1.0]], [1]], ids=str)
def test_an_answer_with_a_column_of_another_kind_is_none(tmp_path, name, values):
    asked, query = QueryAnswers(SweepFolder(tmp_path)), GradientQuery(trial="a")
    asked.write(query, {"correct": np.array([True]), "squared_norm": np.array([1.0])})
    path = tmp_path / "probes" / "gradients-a.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), path)
    assert asked.missing([query]) == [query]
    assert asked.gradients("a") is None
