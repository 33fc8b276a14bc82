"""Two and three classes: what attacks them, what it is called, and what is refused."""

import pytest
import torch

from bat_core.attacks import APGD, FGSM, PGD, AutoAttack, Square, Transfer
from bat_core.config import AttackConfig
from bat_core.errors import InputError
from bat_core.evaluate import evaluate
from bat_core.few_classes import check_classes, classes_in
from bat_core.masking.checks import examine
from bat_core.recipes import get_recipe, recipe_names
from bat_core.rng import BatchRNG
from bat_core.suites import SUITES, Entry, Suite, evaluation_suite, get_suite

from .toys import Linear, normal, uniform

EPS = 0.05
QUICK = {2: ["apgd-ce", "apgd-cw"], 3: ["apgd-ce", "apgd-dlr", "apgd-t-cw"]}
STANDARD = {count: [*names, "fab-t", "square"] for count, names in QUICK.items()}


def linear(num_classes, count=24):
    """A linear model and images whose distances to its boundaries lie on both sides of the budget."""
    model, x = Linear(normal(num_classes, 16)), uniform(count, 1, 4, 4)
    y = model(x).argmax(1)
    weights, logits = model.weight.detach(), model(x).detach()
    gap = logits.gather(1, y[:, None]) - logits
    reach = torch.stack([(weights[y] - weights[k]).abs().sum(1) for k in range(num_classes)], 1)
    inside = (gap / reach).masked_fill(torch.nn.functional.one_hot(y, num_classes).bool(), torch.inf).amin(1)
    return model, x, y, inside


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", ["quick", "standard"])
def test_the_verified_accuracy_of_a_linear_model_is_exact(name, num_classes):
    model, x, y, distance = linear(num_classes)
    eps = distance.median().item()
    x_inside = ((x - eps).amin((1, 2, 3)) > 0) & ((x + eps).amax((1, 2, 3)) < 1)
    verdicts = evaluate(model, x, y, attack=get_suite(name, eps=eps))
    assert list(verdicts.outcomes) == {"quick": QUICK, "standard": STANDARD}[name][num_classes]
    certain = x_inside & ((distance - eps).abs() > 1e-4)  # elsewhere [0, 1] cuts the ball, or rounding decides
    robust = torch.from_numpy(verdicts.robust_correct)
    assert torch.equal(robust[certain], (distance > eps)[certain])
    assert (robust | (distance <= eps)).all()  # nothing that the bound proves is broken


@pytest.mark.parametrize("name", [*SUITES, "paper+quick", "quick+standard", "diagnostic+quick"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_every_suite_fits_and_says_what_ran(name, num_classes):
    usual = get_suite(name, eps=EPS)
    suite = usual.for_classes(num_classes)
    assert all(entry.attack.min_classes <= num_classes for entry in suite.entries)
    if "quick" in name or "standard" in name:
        assert suite.label == f"{name} for {num_classes} classes"
        assert suite.label_for("masked").startswith(suite.label)
        assert suite.describe()["name"] == suite.label
        assert classes_in(suite.label) == num_classes
        assert "APGD-T" not in suite.verified_by.replace("APGD-T on the margin", "")
    else:
        assert suite is usual
        assert classes_in(suite.label) is None


@pytest.mark.parametrize("num_classes", [None, 4, 5, 10, 1000])
@pytest.mark.parametrize("name", SUITES)
def test_from_four_classes_on_a_suite_is_left_as_it_is(name, num_classes):
    suite = get_suite(name, eps=EPS)
    assert suite.for_classes(num_classes) is suite


def test_the_attacks_that_verify_are_named():
    assert get_suite("quick", eps=EPS).verified_in_words == "APGD-CE and APGD-T"
    words = [get_suite("quick", eps=EPS).for_classes(count).verified_in_words for count in (2, 3)]
    assert words == ["APGD-CE and APGD on the margin", "APGD-CE, APGD-DLR and APGD-T on the margin"]
    assert (
        get_suite("standard", eps=EPS).for_classes(2).verified_by.startswith("AutoAttack's APGD-CE, FAB-T and Square")
    )


def test_settings_of_the_replaced_attack_are_kept():
    entry = Entry(name="t", attack=APGD(eps=EPS, loss="dlr", target="every", num_steps=7, restarts=2))
    suite = Suite(name="own", entries=(entry,)).for_classes(3)
    assert [(e.attack.loss, e.attack.target, e.attack.num_steps, e.attack.restarts) for e in suite.entries] == [
        ("dlr", None, 7, 2),
        ("cw", "every", 7, 2),
    ]


@pytest.mark.parametrize("num_classes", [2, 3])
def test_joined_suites_run_no_attack_twice(num_classes):
    suite = get_suite("quick+standard", eps=EPS).for_classes(num_classes)
    attacks = [(entry.attack, entry.skip_broken) for entry in suite.entries]
    assert len(attacks) == len({repr(one) for one in attacks})
    assert len({entry.name for entry in suite.entries}) == len(suite.entries)


@pytest.mark.parametrize(
    ("attack", "num_classes", "message"),
    [
        (
            PGD(eps=EPS, step_size=EPS, num_steps=1, loss="dlr"),
            2,
            "loss dlr needs 3 classes, and there are 2: use loss cw",
        ),
        (PGD(eps=EPS, step_size=EPS, num_steps=1, loss="dlr", target="mc"), 3, "loss targeted dlr needs 4 classes"),
        (Square(eps=EPS, loss="dlr"), 2, "loss dlr needs 3 classes"),
        (AutoAttack(eps=EPS, part="apgd-dlr"), 2, "AutoAttack's apgd-dlr needs 3 classes"),
    ],
)
def test_a_loss_that_was_chosen_is_not_replaced(attack, num_classes, message):
    suite = Suite(name="own", entries=(Entry(name="a", attack=attack),))
    with pytest.raises(InputError, match=message):
        suite.for_classes(num_classes)


def test_a_trial_that_reads_a_loss_that_does_not_exist_is_refused():
    suite = evaluation_suite(AttackConfig(losses=("ce", "dlr")))
    assert [entry.name for entry in suite.for_classes(3).entries][:2] == ["ce", "dlr"]
    with pytest.raises(InputError, match="loss dlr needs 3 classes"):
        suite.for_classes(2)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_classes_are_refused(count):
    with pytest.raises(InputError, match=f"data set one has {count} class.*needs at least 2"):
        check_classes("data set one", count)
    with pytest.raises(InputError, match="needs at least 2"):
        get_suite("paper", eps=EPS).for_classes(count)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_red_flags_are_looked_for(num_classes):
    model, x, y, _ = linear(num_classes)
    findings = examine(model, x, y, eps=EPS, depth="full", verified=torch.ones(len(x), dtype=torch.bool))
    assert findings.evidence.clean_acc == 1
    assert "zero_gradient" not in {flag.name for flag in findings.flags}


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("target", ["mc", "ll", "random", "every"])
def test_named_targets_are_wrong_classes(num_classes, target):
    model, x, y, _ = linear(num_classes)
    x_adv = FGSM(eps=EPS, target=target)(model, x, y, generator=torch.Generator().manual_seed(0))
    before, after = (model(z).detach().gather(1, y[:, None]).squeeze(1) for z in (x, x_adv))
    others = [model(z).detach().scatter(1, y[:, None], -torch.inf).amax(1) for z in (x, x_adv)]
    if num_classes == 2:
        assert (others[1] - after > others[0] - before).all()  # towards the only other class


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_trains_on_few_classes(name, num_classes):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, num_classes))
    x, y = uniform(8, 1, 4, 4), torch.arange(8) % num_classes
    recipe = get_recipe(name)
    recipe.check(model, num_classes)
    x_adv, label = recipe.craft(model, x, y, BatchRNG(torch.Generator().manual_seed(0)))
    losses, logits = recipe.loss(model, x, x_adv, label)
    assert losses.isfinite().all()
    assert logits.shape == (8, num_classes)


def test_a_transfer_attack_needs_what_crafts_it():
    attack = Transfer(eps=EPS, sources=(Linear(normal(2, 16)),), crafted_by=APGD(eps=EPS, loss="dlr"))
    assert attack.min_classes == 3
