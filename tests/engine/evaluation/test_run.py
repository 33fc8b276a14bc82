"""What an evaluation says of a model, what it leaves, and how it goes on where it stopped."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from bat_core.correctness import is_correct
from bat_core.data import load_dataset, to_unit
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.masking.flags import Findings, Flag
from bat_core.stats import wilson
from bat_core.verdicts import UNBROKEN
from sweeps.engine.evaluation.attack import CHECKS, EvaluationFolder, joined
from sweeps.engine.evaluation.job import Job
from sweeps.engine.evaluation.progress import finished_attacks
from sweeps.engine.evaluation.shard_files import SHARDS, read_outcome
from sweeps.engine.evaluation.summaries import per_attack, summarise
from sweeps.engine.storage.locks import exclusive
from tests.engine.evaluation.evaluations import (
    EPS,
    MADE,
    N,
    contents,
    drawn,
    evaluated,
    evaluation,
    killed_after,
    model_folder,
    net,
    nowhere,
    resume,
    tuned,
    verdicts_of,
    written,
)
from tests.unit.masking.test_checks import evidence


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Job, "_log", nowhere)
    return tmp_path


SUITES = ["paper", "curve", "quick", "standard", "paper+quick", "paper+standard", "paper+curve", "quick+paper"]


@pytest.mark.parametrize("suite", SUITES)
def test_a_summary_is_the_worst_case_of_its_verdicts(suite, tmp_path):
    made = evaluation(suite=suite)
    verdicts = drawn(made.attacks(), made.n)
    summary = summarise(made, made.models[0], verdicts, tmp_path)

    stands = verdicts.clean_correct.copy()
    for outcome in verdicts.outcomes.values():
        stands &= outcome.broken_at == UNBROKEN
    assert 0 < stands.sum() < verdicts.clean_correct.sum()
    assert summary["robust_acc"] == stands.mean()
    assert summary["clean_acc"] == verdicts.clean_correct.mean()
    assert summary["robust_acc_interval"] == list(wilson(int(stands.sum()), made.n))
    assert summary["clean_acc_interval"] == list(wilson(int(verdicts.clean_correct.sum()), made.n))
    assert min(summary["per_attack"].values()) >= summary["robust_acc"]
    assert max(summary["per_attack"].values()) <= 1
    expected = {"model": "net", "dataset": "digits", "split": "test", "n": made.n, "eps": made.eps, "eps_pixels": 8}
    assert expected.items() <= summary.items()
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


@pytest.mark.parametrize("suite", SUITES)
def test_only_a_suite_that_verifies_goes_without_the_words(suite, tmp_path):
    made = evaluation(suite=suite)
    label = summarise(made, made.models[0], drawn(made.attacks(), made.n), tmp_path)["suite"]
    verified = "quick" in suite or "standard" in suite
    assert label == (suite if verified else f"{suite}, not verified")


@pytest.mark.parametrize(
    ("suite", "label"),
    [
        ("paper", "paper, not verified"),
        ("paper+quick", "paper+quick, not verified: masked"),
        ("standard", "standard"),
        ("quick+standard", "quick+standard"),
    ],
)
def test_gradients_verify_nothing_where_they_are_masked(suite, label, tmp_path):
    made = evaluation(suite=suite, checks="cheap")
    flag = Flag(name="zero_gradient", masking_status="masked", value=0.5, limit=0.05, description="zero", why="stuck")
    findings = Findings(masking_status="masked", flags=(flag,), evidence=evidence(), depth="cheap").describe()
    (tmp_path / CHECKS).write_text(json.dumps(findings))
    summary = summarise(made, made.models[0], drawn(made.attacks(), made.n), tmp_path)
    assert (summary["suite"], summary["verdict"], summary["flags"]) == (label, "masked", findings["flags"])


def test_the_papers_numbers_are_read_off_at_their_steps():
    made = evaluation(suite="paper")
    verdicts = drawn(made.attacks(), made.n)
    lines = {line["name"]: line for line in per_attack(made.attacks().entries, verdicts, seed=0)}
    assert list(lines) == ["FGSM", "CE7", "CE20", "CE100", "CW20", "CW100", "CW200"]
    run_finalists = verdicts.outcomes["ce"].final
    for name, column in {"CE7": 0, "CE20": 1, "CE100": 2}.items():
        assert lines[name]["acc"] == run_finalists[:, column].mean()
        assert lines[name]["interval"] == list(wilson(int(run_finalists[:, column].sum()), made.n))
        assert lines[name]["alone"]


def test_after_an_attack_on_what_stood_its_line_says_what_stands():
    made = evaluation(suite="paper+quick")
    verdicts = drawn(made.attacks(), made.n)
    *_, ce, targeted = per_attack(made.attacks().entries, verdicts, seed=0)
    assert [ce["name"], targeted["name"]] == ["APGD-CE", "APGD-T"]
    assert (ce["acc"], targeted["acc"]) == (verdicts.robust_after(4).mean(), verdicts.robust_acc)
    assert targeted["acc"] < ce["acc"]
    assert not ce["alone"]
    assert (targeted["searches"], targeted["steps"], targeted["n"]) == (9, 100, made.n)


@pytest.fixture(scope="module", autouse=True)
def made(robust_digits):
    MADE["robust"] = robust_digits.model
    yield
    MADE.clear()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, made):
    """A whole evaluation by the suite `paper`, with its adversarial images, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Job, "_log", nowhere)
        return evaluated(save_adversarial=True)


@pytest.fixture
def copied(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_the_first_images_of_the_test_split_are_judged(finished):
    verdicts = verdicts_of(finished)
    test = load_dataset("digits").test
    assert verdicts.rows.tolist() == sorted(test.rows[:N].tolist())
    clean = is_correct(net()(to_unit(test.images[:N])), test.labels[:N])
    assert verdicts.clean_acc == clean.double().mean()
    assert 0 < verdicts.robust_acc < verdicts.clean_acc


def test_the_summary_and_the_tables_are_those_of_the_verdicts(finished, capsys):
    verdicts, summary = verdicts_of(finished), json.loads((model_folder(finished) / "summary.json").read_text())
    robust = np.logical_and.reduce([verdicts.clean_correct, *[one.robust for one in verdicts.outcomes.values()]])
    assert summary["robust_acc"] == robust.mean() == verdicts.robust_acc
    assert (summary["suite"], summary["verdict"]) == ("paper, not verified", "not checked")
    assert pq.read_table(model_folder(finished) / "verdicts.parquet")["robust_correct"].to_pylist() == robust.tolist()
    assert resume(finished) == 0
    printed = capsys.readouterr().out
    for text in ((finished / "table.md").read_text(), printed):
        assert f"{verdicts.robust_acc:.1%}" in text
        assert "paper, not verified" in text
        assert f"n = {N}" in text


def test_how_images_are_shared_out_changes_no_verdict(finished):
    whole = verdicts_of(evaluated(batch_size=N))
    for name, outcome in verdicts_of(finished).outcomes.items():
        np.testing.assert_array_equal(outcome.broken_at, whole.outcomes[name].broken_at)
        np.testing.assert_array_equal(outcome.final, whole.outcomes[name].final)


def test_saved_images_classified_again_give_the_verdicts(finished):
    verdicts, model, test = verdicts_of(finished), net(), load_dataset("digits").test
    for name, outcome in verdicts.outcomes.items():
        seen = []
        for path in sorted(model_folder(finished).glob(f"{SHARDS}/*/adversarial-{name}.parquet")):
            table = pq.read_table(path)
            rows, shape = table["index"].to_pylist(), json.loads(table.schema.metadata[b"shape"])
            x_adv = torch.tensor(table["image"].to_pylist(), dtype=torch.float32).view(-1, *shape)
            clean = test.take(torch.tensor([test.rows.tolist().index(row) for row in rows]))
            x = to_unit(clean.images)
            assert (x_adv - x).abs().max() <= EPS
            assert 0 <= x_adv.min() <= x_adv.max() <= 1
            stands = torch.from_numpy(outcome.robust[np.searchsorted(verdicts.rows, rows)])
            with torch.no_grad():
                assert torch.equal(is_correct(model(x_adv), clean.labels), stands)
            assert (x_adv != x)[stands].flatten(1).any(1).all()  # the last one tried, not the clean one
            seen += rows
        assert sorted(seen) == verdicts.rows.tolist()


def test_images_are_kept_only_where_that_is_asked_for():
    folder = evaluated(suite="paper", n=2, batch_size=2)
    assert not list(folder.rglob("adversarial*"))


def test_a_finished_evaluation_that_is_resumed_changes_nothing(copied, monkeypatch):
    monkeypatch.setattr(Evaluator, "attack", lambda *_, **__: pytest.fail("an attack was run again"))
    files, before = written(copied), contents(copied)
    assert resume(copied) == 0
    assert written(copied) == files
    assert contents(copied) == before


@pytest.mark.parametrize("attacks", [0, 1, 5])
def test_what_was_done_before_a_kill_is_not_done_again(finished, monkeypatch, attacks):
    with killed_after(attacks):
        evaluated(save_adversarial=True)
    evaluation_folder = EvaluationFolder(Path("out").resolve())
    assert len(list(finished_attacks(evaluation_folder.load(), evaluation_folder))) == attacks
    before = written(Path("out"))
    assert resume(Path("out")) == 0
    after = written(Path("out"))
    assert before.items() <= {path: after.get(path) for path in before}.items()
    theirs = {path: content for path, content in contents(finished).items() if path.suffix == ".parquet"}
    mine = {path: content for path, content in contents(Path("out").resolve()).items() if path.suffix == ".parquet"}
    assert mine == theirs


def truncated(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file):
    file.write_bytes(b"")


def removed(file):
    file.unlink()


def of_other_rows(file):
    shutil.copy(file.parents[1] / "000008" / file.name, file)


def of_another_attack(file):
    shutil.copy(file.with_name("02-cw.parquet" if "ce" in file.name else "01-ce.parquet"), file)


CE, CW = ({"01-ce.parquet", "adversarial-ce.parquet"}, {"02-cw.parquet", "adversarial-cw.parquet"})
DAMAGES = [
    ("clean.parquet", truncated, {"clean.parquet"}),
    ("00-fgsm.parquet", removed, {"00-fgsm.parquet", "adversarial-fgsm.parquet"}),
    ("01-ce.parquet", truncated, CE),
    ("01-ce.parquet", emptied, CE),
    ("01-ce.parquet", of_other_rows, CE),
    ("01-ce.parquet", of_another_attack, CE),
    ("02-cw.parquet", of_other_rows, CW),
    ("adversarial-ce.parquet", truncated, CE),
    ("adversarial-cw.parquet", removed, CW),
]


@pytest.mark.parametrize(("name", "damage", "done_again"), DAMAGES)
def test_a_damaged_shard_is_done_again_and_no_other(copied, name, damage, done_again):
    before, files = contents(copied), written(copied)
    damage(model_folder(copied) / SHARDS / "000000" / name)
    assert resume(copied) == 0
    assert contents(copied) == before
    rewritten = {path for path, stat in written(copied).items() if stat != files[path]}
    assert rewritten == {Path(model_folder(copied).name, SHARDS, "000000", one) for one in done_again}


def test_the_outcome_of_other_steps_is_none(copied):
    made = EvaluationFolder(copied).load()
    file = model_folder(copied) / SHARDS / "000000" / "01-ce.parquet"
    rows = made.part(load_dataset("digits")).take(made.shards()[0]).rows
    entry = made.attacks().entries[1]
    assert read_outcome(file, entry, rows) is not None
    assert read_outcome(file, replace(entry, steps=(7, 20)), rows) is None
    assert read_outcome(file, replace(entry, name="cw"), rows) is None


def test_shards_in_folders_of_other_names_are_no_error_and_those_without_an_attack_are_one(copied):
    folder, place = EvaluationFolder(copied), model_folder(copied) / SHARDS
    done = len(list(finished_attacks(folder.load(), folder)))
    of_another_attack(place / "000000" / "01-ce.parquet")
    with pytest.raises(InputError, match="has no verdicts of ce: remove it, and --resume attacks again"):
        joined(folder.load(), model_folder(copied))
    (place / "000000").rename(place / "a b")
    assert len(list(finished_attacks(folder.load(), folder))) == done


def test_a_model_that_changed_meanwhile_is_refused(copied, monkeypatch):
    before = contents(copied)
    monkeypatch.setitem(MADE, "robust", tuned())
    with pytest.raises(InputError, match="has changed since this evaluation started"):
        resume(copied)
    assert contents(copied) == before


OTHERS = {
    "suite": "quick", "n": 3, "eps": 0.1, "step_size": 0.1, "seed": 1, "split": "val", "checks": "cheap",
    "batch_size": 3, "precision": "bfloat16", "dataset": "svhn", "save_adversarial": True, "despite_findings": True,
    "weights": Path("x"), "output": Path("elsewhere"), "transfer_from": ("x",),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_resumed_evaluation_takes_no_other_options(copied, name):
    before = contents(copied)
    with pytest.raises(InputError, match=rf"^--{name.replace('_', '-')} cannot be given with --resume"):
        resume(copied, **{name: OTHERS[name]})
    assert contents(copied) == before


def test_a_resumed_evaluation_takes_no_other_models(copied):
    with pytest.raises(InputError, match="nets:net cannot be given with --resume"):
        resume(copied, models=["nets:net"])


def test_a_folder_that_is_used_is_refused(copied):
    before = contents(copied)
    with pytest.raises(InputError, match="already contains an evaluation: use --resume, or another"):
        evaluated(output=copied)
    assert contents(copied) == before
    Path("other").mkdir()
    Path("other", "file").touch()
    with pytest.raises(InputError, match="other' is not empty: use another --output"):
        evaluated(output=Path("other"))
    with pytest.raises(InputError, match="is not a valid evaluation folder"):
        resume(Path("other"))


def test_a_folder_in_which_another_process_works_is_refused(copied):
    before = contents(copied)
    with exclusive(copied / ".lock"), pytest.raises(InputError, match=r"the evaluation in .* is already running"):
        resume(copied)
    assert contents(copied) == before
