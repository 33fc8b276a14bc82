"""The command `corruptions`, from a tiny folder in the published layout to its tables."""

import csv
import json

import numpy as np
import pytest
import torch

from bat_core.correctness import is_correct
from bat_core.data import load_dataset, to_unit
from bat_core.errors import InputError
from sweeps.engine.evaluation import corruption_job
from sweeps.engine.evaluation.corruption_job import run_corruptions
from sweeps.engine.evaluation.corruption_options import CorruptionOptions
from sweeps.engine.evaluation.job import Job
from sweeps.engine.evaluation.leaderboard import run_leaderboard
from tests.engine.evaluation.evaluations import MADE, nowhere
from tests.unit.corrupted_folders import cifar_c

N = 30
NAME = "tests.engine.evaluation.evaluations.net"
NET = "tests.engine.evaluation.evaluations:net"


def darker(images, severity):
    return images // severity


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch, robust_digits):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "_log", nowhere)
    MADE["robust"] = robust_digits.model
    test = load_dataset("digits").test.take(slice(N))
    return cifar_c(tmp_path / "digits-C", test.images, test.labels, ("fog", "contrast"), darker)


def options(folder, **changes):
    return CorruptionOptions(dataset="digits", corrupted=folder, workers=1, **changes)


def test_each_cell_is_the_models_accuracy_there(alone, tmp_path, robust_digits, capsys):
    assert run_corruptions([NET], options(alone, output=tmp_path / "out")) == 0
    summary = json.loads((tmp_path / "out" / NAME / "summary.json").read_text())
    test = load_dataset("digits").test.take(slice(N))
    for severity in range(1, 6):
        dark = torch.from_numpy(darker(np.asarray(test.images), severity))
        expected = is_correct(robust_digits.model(to_unit(dark)), test.labels).double().mean()
        assert summary["by_corruption"]["fog"][severity - 1] == pytest.approx(float(expected))
    assert set(summary["by_corruption"]) == {"fog", "contrast"}
    assert summary["mce"] is None
    assert summary["n"] == N
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert len(rows) == 1 + 2 * 5
    assert {row["images"] for row in rows} == {"published arrays"}
    assert "| corruption | 1 |" in (tmp_path / "out" / "table.md").read_text()
    assert "2 of 15 corruptions" in (tmp_path / "out" / "report.html").read_text()
    assert "Accuracy under corruptions" in capsys.readouterr().out


def test_it_goes_on_where_it_stopped(alone, tmp_path):
    run_corruptions([NET], options(alone, output=tmp_path / "out", n=10))
    place = tmp_path / "out" / NAME
    summary, kept = (place / "summary.json").read_text(), (place / "corruptions" / "fog-2.parquet").stat().st_mtime_ns
    (place / "corruptions" / "contrast-5.parquet").unlink()
    (place / "summary.json").unlink()
    run_corruptions([NET], CorruptionOptions(resume=str(tmp_path / "out"), workers=1))
    assert (place / "summary.json").read_text() == summary
    assert (place / "corruptions" / "fog-2.parquet").stat().st_mtime_ns == kept


def test_the_data_set_is_not_loaded_for_each_corruption(alone, tmp_path, monkeypatch):
    loaded = []
    monkeypatch.setattr(corruption_job, "load_dataset", lambda *names: loaded.append(names) or load_dataset(*names))
    corruption_job._form.cache_clear()
    run_corruptions([NET], options(alone, output=tmp_path / "out", n=10))
    assert len(loaded) == 1


def test_bad_input_is_one_sentence(alone, tmp_path):
    with pytest.raises(InputError, match="--eps has no meaning for corruptions"):
        run_corruptions([NET], options(alone, eps=0.1))
    with pytest.raises(InputError, match="unknown --corruptions 'frogs'; did you mean 'frost'"):
        run_corruptions([NET], options(alone, corruptions=("frogs",)))
    with pytest.raises(InputError, match="--corruptions snow: there are fog, contrast"):
        run_corruptions([NET], options(alone, corruptions=("snow",)))
    with pytest.raises(InputError, match="has no corrupted images"):
        run_corruptions([NET], options(tmp_path))


def test_the_leaderboard_has_them_in_a_table_of_their_own(alone, tmp_path, capsys):
    run_corruptions([NET], options(alone, output=tmp_path / "boards" / "out", n=10))
    capsys.readouterr()
    page = tmp_path / "board.html"
    assert run_leaderboard([str(tmp_path / "boards")], html_file=page) == 0
    shown = capsys.readouterr().out
    assert "digits under corruptions, published arrays, n = 10" in shown
    assert "published arrays" in page.read_text()
    with pytest.raises(InputError, match="no finished model on 'svhn'"):
        run_leaderboard([str(tmp_path / "boards")], dataset="svhn")
