"""A trial that is verified in two norms: what it leaves, and that nothing else changes."""

from dataclasses import replace

import numpy as np
import pytest

from bat_core.checkpoint import load_model
from bat_core.config import AttackConfig, SecondThreat
from bat_core.evaluate import Evaluator, evaluate
from bat_core.masking.checks import examine
from bat_core.masking.flags import Evidence, Findings, Flag, MaskingStatus
from bat_core.norms import UNION
from bat_core.suites import evaluation_suite, is_verified, quick, second_verification
from bat_core.verdicts import Verdicts
from bat_core.workers import Workers
from sweeps.engine.sweep import trial as trial_module
from sweeps.engine.sweep.records import VERDICTS, VERIFIED, VERIFIED_SECOND, read_events, read_status
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial_evaluation import TrialEvaluation
from sweeps.engine.sweep.trial_threats import check_masking, masking_result, threat_results
from tests.engine.sweep.test_trial import CPU, run, verifying

COUNT = 8  # images to verify, within a batch of 32
L2 = SecondThreat(norm="l2", eps=0.2)


@pytest.fixture
def both(make_trial):
    """Trained for long enough that some images stand in both norms, and others do not."""
    return verifying(make_trial("Madry", params={"eps": 20 / 255}, epochs=8), COUNT, second=L2, eps=10 / 255)


def test_the_second_norm_is_an_evaluation_of_its_own_and_the_union_the_worst_of_each_example(both, digits, tmp_path):
    run(Trial(id="one", config=both), digits, tmp_path)
    verified, second = (Verdicts.read(tmp_path / name) for name in (VERIFIED, VERIFIED_SECOND))
    test = digits.test.take(slice(COUNT))
    suite = quick(eps=0.2, step_size=0.05, norm="l2")
    alone = evaluate(load_model(tmp_path)[0], test.images, test.labels, attack=suite, rows=test.rows, seed=both.seed)
    assert list(second.outcomes) == list(alone.outcomes) == ["apgd-ce", "apgd-t"]
    np.testing.assert_array_equal(second.rows, alone.rows)
    for name, outcome in alone.outcomes.items():
        np.testing.assert_array_equal(second.outcomes[name].broken_at, outcome.broken_at)
    result = read_status(tmp_path).result
    worst = [a and b for a, b in zip(verified.robust_correct, alone.robust_correct, strict=True)]
    assert {name: one["robust_acc"] for name, one in result["threats"].items()} == {
        "linf": verified.robust_acc, "l2": alone.robust_acc, UNION: sum(worst) / COUNT,
    }  # fmt: skip
    assert 0 < sum(worst) < COUNT
    assert {one["n"] for one in result["threats"].values()} == {result["robust_n"]} == {COUNT}
    assert result["robust_acc"] == result["threats"]["linf"]["robust_acc"]
    assert result["suite"] == result["threats"]["linf"]["suite"]
    done = [(event["done"], event["of"]) for event in read_events(tmp_path) if event["event"] == "attack"]
    assert done[-1] == (len(digits.test) + 2 * COUNT,) * 2


@pytest.mark.slow
def test_all_else_is_as_without_it(both, digits, tmp_path):
    plain = replace(both, attack=replace(both.attack, second=None))
    run(Trial(id="one", config=plain), digits, tmp_path / "plain")
    run(Trial(id="one", config=both), digits, tmp_path / "both")
    assert not (tmp_path / "plain" / VERIFIED_SECOND).exists()
    plain_result, both_result = (dict(read_status(tmp_path / name).result) for name in ("plain", "both"))
    assert both_result.pop("threats")
    assert both_result.pop("second_findings")
    assert plain_result.keys() == both_result.keys()
    for name in plain_result.keys() - {"time"}:
        assert plain_result[name] == both_result[name]
    for name in ("model/model.safetensors", VERDICTS, VERIFIED):
        assert (tmp_path / "both" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.slow
def test_the_shares_of_several_workers_are_one_whole(both, digits, robust_digits):
    def shares(workers: Workers) -> Verdicts:
        evaluation = TrialEvaluation(
            attack=replace(both.attack, verify=4),
            part=digits.test,
            evaluator=Evaluator(robust_digits.model, batch_size=32),
            workers=workers,
            device=CPU,
            after_part=lambda *_: None,
        )
        steps = evaluation.run(bounded=False)
        with pytest.raises(StopIteration) as ended:
            next(steps)
        return ended.value.value[VERIFIED_SECOND]

    whole, parts = shares(Workers()), [shares(Workers(rank, 3)) for rank in range(3)]
    joined = Verdicts.concat(parts)
    np.testing.assert_array_equal(joined.rows, whole.rows)
    for name, outcome in whole.outcomes.items():
        np.testing.assert_array_equal(joined.outcomes[name].broken_at, outcome.broken_at)


def verdicts_on(rows: list[int], robust: list[bool]) -> Verdicts:
    return Verdicts(
        rows=np.array(rows), labels=np.zeros(len(rows), dtype=np.int64), clean_correct=np.array(robust), outcomes={}
    )


@pytest.mark.parametrize(
    ("status", "end"), [("clear", ""), ("suspect", ""), ("masked", ", not verified: masked")], ids=str
)
def test_a_masked_model_is_verified_in_no_norm(status, end):
    attack = AttackConfig(verify=4, steps=(20,), second=L2)
    mine, theirs = verdicts_on([1, 2, 3, 4], [True, True, False, False]), verdicts_on([1, 2, 3, 4], [True, False] * 2)
    found = threat_results(attack, mine, theirs, num_classes=10, masking_status=status)
    assert [(name, one["robust_acc"], one["n"]) for name, one in found.items()] == [
        ("linf", 0.5, 4), ("l2", 0.5, 4), (UNION, 0.25, 4),
    ]  # fmt: skip
    assert [one["suite"] for one in found.values()] == [
        f"PGD-20+quick{end}", f"quick{end}", f"PGD-20+quick (L-inf) and quick (L2){end}",
    ]  # fmt: skip
    assert {is_verified(one["suite"]) for one in found.values()} == {status != "masked"}
    with pytest.raises(ValueError, match="different examples"):
        threat_results(attack, mine, verdicts_on([1, 2, 3, 5], [True] * 4), num_classes=10, masking_status=status)


def found(*raised: str, status: MaskingStatus = "suspect") -> Findings:
    flags = tuple(
        Flag(name=name, masking_status=status, value=0.1, limit=0.1, description="d", why="w") for name in raised
    )
    evidence = Evidence(
        n=20, clean_acc=1, zero_gradient=0, pass_difference=0, loss_fell=0, noise_acc=1, fgsm_acc=1, half_fgsm_acc=1,
        ce={1: 1.0}, cw={1: 1.0}, ce_worst=1,
    )  # fmt: skip
    return Findings(masking_status=status if raised else "clear", flags=flags, evidence=evidence, depth="cheap")


def test_the_status_is_the_worst_of_both_norms_and_a_flag_names_the_norm_that_raised_it():
    own, other = found("label_leaking", "one_class", "zero_gradient"), found("zero_gradient", "more_steps_help")
    said = masking_result({"linf": own, "l2": other})
    assert said["flags"] == ["label_leaking (L-inf)", "one_class", "zero_gradient", "more_steps_help (L2)"]
    assert (said["findings"], said["second_findings"]) == (own.describe(), other.describe())
    assert masking_result({"linf": own})["flags"] == ["label_leaking", "one_class", "zero_gradient"]
    assert "second_findings" not in masking_result({"linf": own})
    masked = found("zero_gradient", status="masked")
    for first, second in ((masked, own), (own, masked)):
        assert masking_result({"linf": first, "l2": second})["verdict"] == "masked"
    assert masking_result({"linf": found(), "l2": own})["verdict"] == "suspect"
    assert masking_result({"linf": found(), "l2": found()})["verdict"] == "clear"


def test_the_checks_run_at_the_budget_of_each_norm(both, digits, robust_digits):
    attack, val = both.attack, digits.val
    checked = check_masking(robust_digits.model, val, attack, seed=3)
    assert list(checked) == ["linf", "l2"]
    for norm, eps in (("linf", attack.eps), ("l2", L2.eps)):
        alone = examine(robust_digits.model, val.images, val.labels, eps=eps, norm=norm, depth="cheap", seed=3)
        assert checked[norm] == alone
    assert checked["linf"].evidence != checked["l2"].evidence
    assert list(check_masking(robust_digits.model, val, replace(attack, second=None), seed=3)) == ["linf"]


def test_a_model_that_is_masked_in_its_second_norm_alone_is_verified_in_no_norm(both, digits, tmp_path, monkeypatch):
    def masked_in_l2(*_, **__):
        return {"linf": found(), "l2": found("more_steps_help", status="masked")}

    monkeypatch.setattr(trial_module, "check_masking", masked_in_l2)
    run(Trial(id="one", config=both), digits, tmp_path)
    result = read_status(tmp_path).result
    assert (result["verdict"], result["flags"]) == ("masked", ["more_steps_help (L2)"])
    said = [result["suite"], *(one["suite"] for one in result["threats"].values())]
    assert [is_verified(suite) for suite in said] == [False] * 4


def test_a_trial_on_few_classes_says_so_in_both():
    attack = AttackConfig(verify=1, second=L2)
    found = threat_results(
        attack, verdicts_on([1], [True]), verdicts_on([1], [True]), num_classes=3, masking_status="clear"
    )
    assert all("for 3 classes" in one["suite"] for one in found.values())


def test_the_second_suite_is_quick_in_the_second_norm():
    attack = AttackConfig(eps=0.5, step_size=0.1, norm="l2", second=SecondThreat(norm="linf", eps=8 / 255))
    suite = second_verification(attack)
    assert suite == quick(eps=8 / 255, step_size=2 / 255)
    assert second_verification(AttackConfig()) is None
    assert evaluation_suite(attack) == evaluation_suite(replace(attack, second=None))
