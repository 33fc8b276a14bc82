"""Norms as a part of configs: L-inf is written, hashed and described as before there were others."""

import hashlib
import json
import math

import pytest

from bat_core.attacks import PGD
from bat_core.config import AttackConfig, RecipeConfig, TrialConfig, from_dict, to_dict
from bat_core.errors import InputError
from bat_core.norms import L2_BUDGETS, UNITS, Unit, budget_unit, check_budget
from bat_core.recipes import budget_params, get_recipe, recipe_params
from bat_core.suites import Entry, evaluation_suite, get_suite, suite_names

EPS = 8 / 255
DIGESTS = {  # of the suites' descriptions, by a version that knew L-inf alone
    "paper": "a3c2ee06a1fb",
    "diagnostic": "acb0e3aa1bd2",
    "imagenet": "1e6339edbe21",
    "curve": "3b67da7e8b1e",
    "quick": "5ca48f42108f",
    "fast": "4d2d552c5ca4",  # since it verifies
    "standard": "cf1f6b5b07bd",
}


def test_a_trial_in_l_inf_has_the_hash_and_the_form_of_before():
    madry = TrialConfig(recipe=RecipeConfig(name="Madry", params={"eps": EPS}), seed=3)
    assert TrialConfig().hash == "315550725c34"
    assert madry.hash == "068a212bc6b0"
    assert "norm" not in json.dumps(to_dict(madry))
    said = TrialConfig(recipe=RecipeConfig(name="Madry", params={"eps": EPS, "norm": "linf"}), seed=3)
    assert said == madry
    assert said.hash == madry.hash


@pytest.mark.parametrize("name", suite_names())
def test_a_suite_in_l_inf_describes_itself_as_before(name):
    described = get_suite(name, eps=EPS).describe()
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]
    assert digest == DIGESTS.get(name, digest)
    assert DIGESTS.keys() <= set(suite_names())


@pytest.mark.parametrize("name", suite_names())
def test_every_attack_of_a_suite_is_in_its_norm(name):
    suite = get_suite(name, eps=2.0, norm="l2")
    assert {entry.attack.norm for entry in suite.entries} == {"l2"}
    assert {settings["norm"] for settings in suite.describe()["entries"].values()} == {"l2"}


def test_a_trial_in_l2_is_another_trial_and_comes_back():
    plain = TrialConfig(attack=AttackConfig(eps=0.5, step_size=0.125))
    trial = TrialConfig(
        attack=AttackConfig(eps=0.5, step_size=0.125, norm="l2", also="diagnostic"),
        recipe=RecipeConfig(name="R-MC-LA", params={"eps": 1.5, "norm": "l2"}),
    )
    assert trial.hash != plain.hash
    assert to_dict(trial)["attack"]["norm"] == "l2"
    assert from_dict(TrialConfig, json.loads(json.dumps(to_dict(trial)))) == trial
    assert {entry.attack.norm for entry in evaluation_suite(trial.attack).entries} == {"l2"}
    assert get_recipe(trial.recipe.name, **trial.recipe.params).attack.norm == "l2"


def test_a_recipe_from_elsewhere_keeps_what_it_is_told():
    assert RecipeConfig(name="mine:recipe", params={"norm": "linf"}).params == {"norm": "linf"}


def test_a_recipe_gets_its_budget_in_the_norm():
    assert budget_params("Madry", EPS, "linf") == {"eps": EPS}
    assert budget_params("Madry", 0.5, "l2") == {"eps": 0.5, "norm": "l2"}
    assert budget_params("Undefended", 0.5, "l2") == {}
    assert "norm" not in recipe_params("Undefended")


@pytest.mark.parametrize(
    ("amount", "norm", "message"),
    [
        (8, "linf", "so write 8/255, not 8"),
        (128, "l2", "so write 128/255, not 128"),
        (0, "l2", "outside"),
        (math.nan, "l2", "outside"),
        (math.inf, "l2", "outside"),
    ],
)
def test_an_amount_out_of_range_is_refused(amount, norm, message):
    with pytest.raises(InputError, match=message):
        check_budget("--eps", amount, norm)
    with pytest.raises(InputError, match=message):
        AttackConfig(eps=amount, norm=norm)


def test_amounts_of_l2_may_exceed_one():
    check_budget("--eps", 3.0, "l2")
    entry = Entry(name="ce", attack=PGD(eps=3.0, step_size=1.5, num_steps=2, norm="l2"), steps=(2,))
    assert entry.describe()["norm"] == "l2"


@pytest.mark.parametrize(
    ("dataset", "pixel", "shape", "usual"),
    [
        ("cifar10", 1 / 255, (3, 32, 32), 0.5),
        ("digits", 5 / 255, (1, 8, 8), 0.4),
        ("mine:data", 1 / 255, (3, 32, 32), 0.5),
        ("mine:data", 1 / 255, (3, 64, 64), 1.0),
        ("mine:data", 1 / 255, (3, 224, 224), 3.5),
    ],
)
def test_eight_units_are_a_data_sets_usual_budget(dataset, pixel, shape, usual):
    assert budget_unit(dataset, "l2", pixel=pixel, image_shape=shape) * UNITS == usual
    assert budget_unit(dataset, "linf", pixel=pixel, image_shape=shape) == pixel
    assert all(0 < budget / UNITS <= 1 for budget in L2_BUDGETS.values())


def test_amounts_are_written_in_their_norms_unit():
    pixels, plain = Unit(5 / 255, "linf"), Unit(0.05, "l2")
    assert pixels.amount(40 / 255) == "8 px"
    assert pixels.budget(40 / 255) == "L-inf 40/255 (8 px)"
    assert pixels.note == "1 px = 5/255"
    assert plain.amount(0.4) == "0.4"
    assert plain.budget(0.4) == "L2 0.4"
