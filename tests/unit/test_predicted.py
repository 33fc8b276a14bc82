"""Verdicts keep what the model answered: on clean images, and where an attack broke them."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bat_core.attacks import PGD
from bat_core.correctness import NO_ANSWER, predicted_class
from bat_core.evaluate import Evaluator, evaluate
from bat_core.paths import chosen
from bat_core.suites import Entry, Suite, get_suite
from bat_core.verdicts import Verdicts


def test_what_is_kept_is_what_the_model_answers_to_the_image_that_broke(robust_digits):
    x, y = robust_digits.images[:24], robust_digits.labels[:24]
    entry = Entry(name="pgd", attack=PGD(eps=40 / 255, step_size=10 / 255, num_steps=5))
    evaluator, saved = Evaluator(robust_digits.model), {}
    clean = evaluator.clean(x, y, torch.arange(24))
    assert (clean.clean_predicted == robust_digits.model(x).argmax(1).numpy()).all()
    outcome = evaluator.attack(
        entry, x, clean, save=lambda _, rows, x_adv: saved.update(zip(rows.tolist(), x_adv, strict=True))
    )
    broken = [row for row in range(24) if clean.clean_correct[row] and outcome.broken_at[row] >= 0]
    assert broken
    answers = robust_digits.model(torch.stack([saved[row] for row in broken])).argmax(1)
    assert outcome.predicted[broken].tolist() == answers.tolist()
    others = sorted(set(range(24)) - set(broken))
    assert set(outcome.predicted[others].tolist()) <= {NO_ANSWER}


def test_the_worst_answer_is_wrong_exactly_where_the_image_is_not_robust(robust_digits):
    x, y = robust_digits.images[:24], robust_digits.labels[:24]
    verdicts = evaluate(robust_digits.model, x, y, attack=get_suite("quick", eps=40 / 255))
    worst = verdicts.worst_predicted()
    assert ((worst == verdicts.labels) == verdicts.robust_correct).all()


def test_predictions_are_stored_and_files_without_them_are_read(robust_digits, tmp_path):
    x, y = robust_digits.images[:12], robust_digits.labels[:12]
    suite = Suite(name="s", entries=(Entry(name="pgd", attack=PGD(eps=0.2, step_size=0.05, num_steps=3), steps=(3,)),))
    verdicts = evaluate(robust_digits.model, x, y, attack=suite)
    verdicts.write(chosen(tmp_path / "new.parquet"))
    again = Verdicts.read(tmp_path / "new.parquet")
    assert (again.worst_predicted() == verdicts.worst_predicted()).all()
    table = pq.read_table(tmp_path / "new.parquet")
    old = table.drop_columns(["clean_predicted", "predicted_pgd"])
    pq.write_table(old, tmp_path / "old.parquet")
    read = Verdicts.read(tmp_path / "old.parquet")
    assert read.worst_predicted() is None
    assert read.robust_acc == verdicts.robust_acc
    both = Verdicts.concat([replace(read, rows=read.rows + 100), again])
    assert both.worst_predicted() is None
    assert Verdicts.concat([replace(again, rows=again.rows + 100), again]).worst_predicted() is not None
    assert len(again.take(np.array([3, 1])).worst_predicted()) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_is_no_answer(value):
    assert predicted_class(torch.tensor([[0.0, 2.0], [value, 1.0]])).tolist() == [1, NO_ANSWER]
