"""Evaluations in L2, and under several threats at once."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from bat_core.data import load_dataset
from bat_core.errors import InputError
from bat_core.evaluate import evaluate
from bat_core.suites import get_suite
from bat_core.verdicts import Verdicts
from sweeps.engine.cli.threat import Threat
from sweeps.engine.evaluation.attack import EvaluationFolder
from sweeps.engine.evaluation.job import Job
from sweeps.engine.evaluation.options import EvaluateOptions
from sweeps.engine.evaluation.threats import run_threats
from tests.engine.evaluation.evaluations import MADE, evaluated, factory, model_folder, net, nowhere

NET = "tests.engine.evaluation.evaluations.net"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch, robust_digits):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "_log", nowhere)
    MADE["robust"] = robust_digits.model


def test_an_evaluation_in_l2_says_so_everywhere(robust_digits, capsys):
    folder = evaluated(suite="fast", norm="l2", eps=0.4, checks="cheap")
    spec = EvaluationFolder(folder).load()
    assert (spec.norm, spec.eps) == ("l2", 0.4)
    summary = json.loads((model_folder(folder) / "summary.json").read_text())
    assert summary["norm"] == "l2"
    assert "eps_pixels" not in summary
    test = load_dataset("digits").test.take(slice(spec.n))
    suite = get_suite("fast", eps=0.4, norm="l2")
    expected = evaluate(robust_digits.model, test.images, test.labels, attack=suite, rows=test.rows)
    assert summary["robust_acc"] == expected.robust_acc < summary["clean_acc"]
    assert "L2 eps = 0.4," in (folder / "table.md").read_text()
    assert next(csv.DictReader((folder / "table.csv").open()))["norm"] == "l2"
    assert "L2 0.4" in (folder / "report.html").read_text()
    assert "px" not in capsys.readouterr().out


def test_an_evaluation_in_l_inf_keeps_its_files(tmp_path):
    folder = evaluated(suite="fast")
    assert "norm" not in json.loads((folder / "evaluation.json").read_text())
    assert "norm" not in json.loads((model_folder(folder) / "summary.json").read_text())
    assert (folder / "table.csv").read_text().splitlines()[0].endswith(",suite,verdict")


def test_the_union_is_the_worst_of_each_example():
    assert run_threats([factory(net)], several()) == 0
    out = Path("out")
    verdicts = [Verdicts.read(out / name / NET / "verdicts.parquet") for name in ("linf-40_255", "l2-0.4")]
    both = verdicts[0].robust_correct & verdicts[1].robust_correct
    rows = {row["threat"]: row for row in csv.DictReader((out / "table.csv").open())}
    assert list(rows) == ["linf-40_255", "l2-0.4", "union"]
    assert float(rows["union"]["acc"]) == pytest.approx(both.mean(), abs=1e-6)
    for name, one in zip(list(rows)[:2], verdicts, strict=True):
        assert float(rows[name]["acc"]) == pytest.approx(one.robust_acc, abs=1e-6)
    assert np.array_equal(verdicts[0].rows, verdicts[1].rows)
    assert rows["union"]["verified"] == "True"
    assert "under every threat" in (out / "report.html").read_text()
    table = (out / "table.md").read_text()
    before = [(path, path.stat().st_mtime_ns) for path in sorted(out.glob("*/*/shards/*/*"))]
    assert run_threats([factory(net)], several()) == 0, "the same command again goes on"
    assert (out / "table.md").read_text() == table
    assert [(path, path.stat().st_mtime_ns) for path in sorted(out.glob("*/*/shards/*/*"))] == before
    with pytest.raises(InputError, match="under other threats"):
        run_threats([factory(net)], several(threat=("l2:0.4",)))


def several(**changes):
    default = {"suite": "fast", "n": 12, "batch_size": 8, "checks": "none", "dataset": "digits", "gpus_per_worker": 0.0}
    return EvaluateOptions(**{**default, "threat": ("linf:40/255", "l2:0.4"), "output": Path("out"), **changes})


@pytest.mark.parametrize("text", ["linf", "l2:x", "l1:3", "linf:8", "l2:0"])
def test_what_is_no_threat_is_refused(text):
    with pytest.raises(InputError, match="--threat"):
        run_threats([factory(net)], several(threat=(text,)))
    assert not Path("out").exists()


def test_a_threat_names_norm_and_budget_alone():
    with pytest.raises(InputError, match="--eps cannot be given with --threat"):
        run_threats([factory(net)], several(eps=0.1))
    with pytest.raises(InputError, match="names a threat twice"):
        run_threats([factory(net)], several(threat=("l2:0.4", "l2:0.4")))
    assert Threat.parse("linf:8/255").eps == 8 / 255
    assert Threat.parse("linf:8/255").name == "linf-8_255"
