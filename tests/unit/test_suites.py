import dataclasses

import pytest

from bat_core.attacks import APGD, FGSM, PGD, Square
from bat_core.config import FIGURE_1_STEPS, AttackConfig, SecondThreat, TrialConfig, to_dict
from bat_core.errors import InputError
from bat_core.suites import (
    SUITES,
    Entry,
    Suite,
    evaluation_suite,
    get_suite,
    join,
    paper,
    quick,
    second_verification,
    trajectories,
    verification,
    verifying_suite_in,
)

EPS = 8 / 255


def readings(suite):
    return [name for entry in suite.entries for name, _ in entry.readings()]


def test_paper_reads_the_attacks_of_tables_5_and_6():
    suite = get_suite("paper", eps=EPS)
    assert readings(suite) == ["FGSM", "CE7", "CE20", "CE100", "CW20", "CW100", "CW200"]
    assert suite.entry("fgsm").attack == FGSM(eps=EPS)
    assert [step for entry in suite.entries for _, step in entry.readings()] == [1, 7, 20, 100, 20, 100, 200]
    assert suite.entry("ce").attack == PGD(eps=EPS, step_size=2 / 255, num_steps=100)
    assert suite.entry("cw").attack == PGD(eps=EPS, step_size=2 / 255, num_steps=200, loss="cw")


def test_curve_goes_on_to_a_thousand_steps_with_both_losses():
    suite = get_suite("curve", eps=EPS, step_size=0.01)
    assert [(entry.name, entry.attack.loss) for entry in suite.entries] == [("ce", "ce"), ("cw", "cw")]
    for entry in suite.entries:
        assert entry.steps == (*FIGURE_1_STEPS, 500, 1000)
        assert (entry.attack.num_steps, entry.attack.step_size) == (1000, 0.01)


def test_quick_is_apgd_with_autoattacks_settings_on_what_still_stands():
    suite = get_suite("quick", eps=EPS)
    assert [entry.attack for entry in suite.entries] == [
        APGD(eps=EPS, loss="ce", num_steps=100),
        APGD(eps=EPS, loss="dlr", num_steps=100, target="every"),
    ]
    assert all(entry.skip_broken for entry in suite.entries)
    assert suite.subset == 1000


def test_standard_is_autoattack_in_its_order():
    suite = get_suite("standard", eps=EPS)
    assert [entry.attack.part for entry in suite.entries] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    assert all(entry.skip_broken for entry in suite.entries)
    assert suite.subset is None


@pytest.mark.parametrize("name", sorted(SUITES))
def test_a_suite_is_called_by_its_name_and_attacks_with_the_budget_asked_for(name):
    suite = get_suite(name, eps=0.03)
    assert suite.name == name
    assert {entry.attack.eps for entry in suite.entries} == {0.03}


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("paper", "paper, not verified"),
        ("curve", "curve, not verified"),
        ("paper+curve", "paper+curve, not verified"),
        ("quick", "quick"),
        ("standard", "standard"),
        ("paper+quick", "paper+quick"),
    ],
)
def test_a_number_that_nothing_verifies_says_so(name, label):
    assert get_suite(name, eps=EPS).label == label


def test_joined_suites_are_run_one_after_the_other():
    parts = [get_suite(name, eps=EPS) for name in ("paper", "quick")]
    joined = get_suite("paper+quick", eps=EPS)
    assert joined.entries == parts[0].entries + parts[1].entries
    assert joined.verified_by == "APGD-CE, APGD-T"
    assert joined.subset is None  # paper runs on all images, and a number has one n


def test_a_join_of_subsets_takes_the_smaller():
    suites = [dataclasses.replace(quick(eps=eps, step_size=eps), subset=size) for eps, size in ((0.1, 50), (0.2, 20))]
    assert join(suites).subset == 20


def test_an_attack_that_two_suites_share_is_run_once():
    entry = Entry(name="fgsm", attack=FGSM(eps=EPS))
    other = Entry(name="fgsm", attack=FGSM(eps=EPS))
    joined = join([Suite(name="a", entries=(entry,)), Suite(name="b", entries=(other,))])
    assert joined.entries == (entry,)


def test_different_attacks_of_one_name_are_both_kept():
    weak, strong = FGSM(eps=EPS), FGSM(eps=2 * EPS)
    joined = join([Suite(name=n, entries=(Entry(name="x", attack=a),)) for n, a in (("a", weak), ("b", strong))])
    assert {entry.name: entry.attack for entry in joined.entries} == {"x": weak, "b-x": strong}


class Impatient(FGSM):
    """Equals no other attack, and answers a hundred times at most."""

    asked = 0
    __hash__ = FGSM.__hash__

    def __eq__(self, other):
        Impatient.asked += 1
        assert Impatient.asked < 100
        return self is other


def test_attacks_of_one_name_are_kept_however_many_suites_of_one_name_have_them():
    attacks = [Impatient(eps=eps) for eps in (0.1, 0.2, 0.3)]
    joined = join([Suite(name="s", entries=(Entry(name="x", attack=attack),)) for attack in attacks])
    assert [entry.attack for entry in joined.entries] == attacks


def test_paper_and_curve_share_no_trajectory():
    assert [entry.name for entry in get_suite("paper+curve", eps=EPS).entries] == [
        "fgsm", "ce", "cw", "curve-ce", "curve-cw",
    ]  # fmt: skip


def test_a_shared_attack_is_read_where_either_suite_reads_it():
    own = trajectories(AttackConfig(steps=(1, 2, 100)))
    joined = join([own, paper(eps=EPS, step_size=2 / 255)])
    assert joined.entry("ce").steps == (1, 2, 7, 20, 100)


def test_a_trials_own_curves():
    config = AttackConfig(eps=0.1, step_size=0.02, steps=(1, 4), losses=("cw", "dlr"))
    suite = trajectories(config)
    assert readings(suite) == ["CW1", "CW4", "DLR1", "DLR4"]
    assert suite.entry("dlr").attack == PGD(eps=0.1, step_size=0.02, num_steps=4, loss="dlr")
    assert suite.label == "PGD-4, not verified"


def test_all_settings_are_told():
    described = get_suite("paper", eps=EPS).describe()
    assert described["entries"]["cw"] == {
        "attack": "PGD", "eps": EPS, "target": None, "restarts": 1, "num_steps": 200, "loss": "cw",
        "random_start": True, "eot": 1, "step_size": 2 / 255, "read_at": [20, 100, 200], "drop": False,
    }  # fmt: skip
    assert described["verified_by"] is None


@pytest.mark.parametrize(("wrong", "nearest"), [("papr", "paper"), ("standrad", "standard"), ("paper+quik", "quick")])
def test_an_unknown_suite_is_named_with_the_nearest(wrong, nearest):
    unknown = wrong.split("+")[-1]
    rule = rf"^unknown suite '{unknown}'; did you mean '{nearest}'\? Known: curve, diagnostic, fast, imagenet, paper, "
    rule += "quick, standard, or several "
    with pytest.raises(InputError, match=rule):
        get_suite(wrong, eps=EPS)


def test_attacks_of_a_suite_need_names_of_their_own():
    twice = Entry(name="square", attack=Square(eps=0.1))
    for entries in ((), (twice, twice)):
        with pytest.raises(InputError, match="suite 's' has entries"):
            Suite(name="s", entries=entries)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"steps": (20,)}, id="read after more steps than are made"),
        pytest.param({"steps": (1, 10), "skip_broken": True}, id="read although fallen examples are let go"),
    ],
)
def test_an_entry_that_cannot_be_read_is_refused(changes):
    with pytest.raises(InputError):
        Entry(name="ce", attack=PGD(eps=EPS, step_size=0.01, num_steps=10), **changes)


def test_gradient_attacks_verify_nothing_on_a_masked_model():
    paper, quick, standard = (get_suite(name, eps=8 / 255) for name in ("paper", "quick", "standard"))
    assert quick.label_for("masked") == "quick, not verified: masked"
    assert (quick.label_for("suspect"), standard.label_for("masked")) == ("quick", "standard")
    assert paper.label_for("masked") == paper.label_for("clear") == "paper, not verified"


def test_a_trial_verifies_by_its_own_suite():
    usual, fast = AttackConfig(), AttackConfig(verify_suite="fast")
    assert "verify_suite" not in to_dict(usual), "trials of before keep their form and hash"
    assert TrialConfig(attack=usual).hash != TrialConfig(attack=fast).hash
    assert (verification(usual).name, verification(fast).name) == ("quick", "fast")
    assert evaluation_suite(fast).label == "PGD-200+fast"
    assert second_verification(dataclasses.replace(fast, second=SecondThreat(norm="l2", eps=0.5))).name == "fast"
    with pytest.raises(InputError, match=r"unknown attack\.verify_suite 'curve'"):
        AttackConfig(verify_suite="curve")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("PGD-20+quick", "APGD-CE and APGD-T"),
        ("PGD-200+diagnostic+fast", "a ladder of APGD searches"),
        ("PGD-20+quick for 2 classes", "APGD-CE and APGD on the margin"),
        ("PGD-20+quick, not verified: masked", "APGD-CE and APGD-T"),
    ],
)
def test_a_label_names_the_suite_that_verified(label, words):
    assert verifying_suite_in(label).verified_in_words == words


def test_a_label_may_name_no_suite_that_verified():
    assert verifying_suite_in("PGD-200, not verified") is None
