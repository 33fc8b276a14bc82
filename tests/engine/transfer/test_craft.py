"""The transfer matrix against brute force, and what may not change it: batches, interruptions, memory."""

import io
import weakref
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from bat_core.attacks import FGSM, PGD
from bat_core.data import to_unit
from bat_core.errors import InputError
from bat_core.evaluate import evaluate
from bat_core.rng import named_generator
from bat_core.stats import wilson
from bat_core.suites import Entry, Suite, get_suite
from sweeps.engine.evaluation.model_sources import ModelSource
from sweeps.engine.transfer import craft as transfer
from sweeps.engine.transfer.craft import joined, read_shard
from tests.engine.transfer.matrices import EPS, FACTORIES, SEED, STEP, N, Noisy, cells, first, labelled, make, matrix_of


@pytest.fixture(scope="module")
def part():
    return labelled()


@pytest.fixture(scope="module")
def made(part, tmp_path_factory):
    matrix = matrix_of()
    folder = make(matrix, part, tmp_path_factory.mktemp("matrix"))
    return matrix, folder, cells(matrix, part, folder)


def gradient(model, x, y):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]


def by_hand(model, x, y, row, attack):
    """One image of FGSM or PGD-20, written out."""
    if attack == "FGSM":
        return (x + EPS * gradient(model, x, y).sign()).clamp(0, 1)
    draw = named_generator(SEED, "evaluate", "ce", row)
    z = (x + EPS * (2 * torch.rand(x.shape[1:], generator=draw) - 1)).clamp(0, 1)
    for _ in range(20):
        z = z + STEP * gradient(model, z, y).sign()
        z = torch.minimum(torch.maximum(z, x - EPS), x + EPS).clamp(0, 1)
    return z


def test_cells_equal_brute_force(made, part):
    _, _, found = made
    models = {one.__name__: one() for one in FACTORIES}
    expected = {}
    for attack in ("FGSM", "CE20"):
        for source, crafted_on in models.items():
            for position in range(N):
                x = to_unit(part.images[position : position + 1])
                y = part.labels[position : position + 1]
                x_adv = by_hand(crafted_on, x, y, int(part.rows[position]), attack)
                for target, evaluator in models.items():
                    right = int(evaluator(x_adv).argmax(1) == y)
                    expected[attack, source, target] = expected.get((attack, source, target), 0) + right
    assert {(cell.attack, cell.source, cell.target): cell.correct for cell in found} == expected
    assert len(set(expected.values())) > 6
    assert any(expected[attack, a, b] != expected[attack, b, a] for attack, a, b in expected)
    for cell in found:
        clean = int((models[cell.target](to_unit(part.images)).argmax(1) == part.labels).sum())
        assert (cell.clean, cell.own) == (clean, expected[cell.attack, cell.target, cell.target])
        assert (cell.n, cell.interval) == (N, wilson(cell.correct, N))


def test_the_diagonal_is_what_an_evaluation_finds(made, part):
    matrix, folder, _ = made
    attacks = (
        Entry(name="fgsm", attack=FGSM(eps=EPS), steps=(1,)),
        Entry(name="ce", attack=PGD(eps=EPS, step_size=STEP, num_steps=20), steps=(20,)),
    )
    paper = get_suite("paper", eps=EPS, step_size=STEP).entry("ce")
    for number, judged in enumerate(joined(matrix, folder, part)):
        model = FACTORIES[number]()
        given = {"rows": part.rows, "seed": SEED, "batch_size": 11}
        verdicts = evaluate(model, part.images, part.labels, attack=Suite(name="two", entries=attacks), **given)
        np.testing.assert_array_equal(judged.clean, verdicts.clean_correct)
        for entry, attack in zip(attacks, ("FGSM", "CE20"), strict=True):
            np.testing.assert_array_equal(judged.adversarial[attack][number], verdicts.outcomes[entry.name].final[:, 0])
        table = evaluate(model, part.images, part.labels, attack=Suite(name="one", entries=(paper,)), **given)
        at_20 = table.outcomes["ce"].final[:, paper.steps.index(20)]
        np.testing.assert_array_equal(judged.adversarial["CE20"][number], at_20)


@pytest.mark.parametrize("shard_size", [1, 7, N])
def test_the_batch_size_does_not_matter(made, part, tmp_path, shard_size):
    matrix, _, found = made
    other = replace(matrix, shard_size=shard_size)
    assert cells(other, part, make(other, part, tmp_path)) == found


def test_a_batch_that_does_not_fit_is_halved_and_ends_alike(made, part):
    matrix, _, _ = made
    largest = []

    class Small(Noisy):
        def forward(self, x):
            if len(x) > 6:
                raise RuntimeError("CUDA out of memory")
            largest.append(len(x))
            return super().forward(x)

    x, y = to_unit(part.images), part.labels
    for entry in matrix.attacks():
        whole = transfer.craft(matrix, entry, first(), x, y, part.rows)
        assert torch.equal(transfer.craft(matrix, entry, Small(1), x, y, part.rows), whole)
    assert max(largest) == 6


def test_another_error_is_not_taken_for_want_of_memory(made, part):
    matrix, _, _ = made

    tried = []

    class Broken(Noisy):
        def forward(self, x):
            tried.append(len(x))
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        transfer.craft(matrix, matrix.attacks()[0], Broken(1), to_unit(part.images), part.labels, part.rows)
    assert tried == [N]


def test_images_are_crafted_once_a_source_and_two_models_at_most_are_in_memory(part, tmp_path, monkeypatch):
    matrix, heartbeat, most, crafted = matrix_of(), weakref.WeakSet(), [0], []
    load, craft = ModelSource.load, transfer.craft

    def counted(source, device="cpu"):
        model = load(source, device)
        heartbeat.add(model)
        most[0] = max(most[0], len(heartbeat))
        return model

    def noted(matrix, entry, model, x, y, rows):
        crafted.append((entry.name, tuple(rows.tolist()), model.weight.sum().item()))
        return craft(matrix, entry, model, x, y, rows)

    monkeypatch.setattr(ModelSource, "load", counted)
    monkeypatch.setattr(transfer, "craft", noted)
    make(matrix, part, tmp_path)
    assert most == [2]
    assert len(crafted) == len(set(crafted)) == 2 * len(matrix.models) * len(matrix.shards())


def test_a_model_that_changed_meanwhile_is_noticed(part, tmp_path):
    matrix = matrix_of()
    changed = (*matrix.models[:2], replace(matrix.models[2], fingerprint="another"))
    with pytest.raises(InputError, match="model 'third' has changed since this transfer matrix started"):
        make(replace(matrix, models=changed), part, tmp_path)


def with_column(path, name, value):
    """The bytes of a Parquet file, a column of which has one value in all rows."""
    table, content = pq.read_table(path), io.BytesIO()
    kind = pa.string() if isinstance(value, str) else table.schema.field(name).type
    changed = table.set_column(table.column_names.index(name), name, pa.array([value] * len(table), type=kind))
    pq.write_table(changed, content)
    return content.getvalue()


HARMS = ("cut short", "empty", "of another shard", "of another source", "of texts", "of nulls")


@pytest.mark.parametrize("harm", HARMS)
def test_a_file_that_is_not_whole_is_made_again_and_it_alone(made, part, tmp_path, harm):
    matrix, whole, found = made
    folder = make(matrix, part, tmp_path)
    shards = matrix.shards()
    harmed = folder.shard("second", shards[1])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    harmed.write_bytes(
        {
            "cut short": harmed.read_bytes()[:-40],
            "empty": b"",
            "of another shard": folder.shard("second", shards[0]).read_bytes(),
            "of another source": folder.shard("third", shards[1]).read_bytes(),
            "of texts": with_column(harmed, "correct_first", "right"),
            "of nulls": with_column(harmed, "clean_correct", None),
        }[harm]
    )
    assert read_shard(matrix, harmed, 1, part.rows[shards[1]]) is None
    with pytest.raises(InputError, match="is not a complete verdicts file"):
        joined(matrix, folder, part)
    make(matrix, part, tmp_path)
    assert harmed.read_bytes() == whole.shard("second", shards[1]).read_bytes()
    assert cells(matrix, part, folder) == found
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {harmed}
