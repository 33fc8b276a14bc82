import math

import pytest

from bat_core.config import RecipeConfig, TrainConfig, TrialConfig
from bat_core.errors import InputError
from search_spaces.base import Parameter, Space, compose, get_space
from sweeps.engine.search.trial_config import trial_config

BAT, SCHEDULE, MODEL = (get_space(name).at(1 / 255) for name in ("bat", "schedule", "model"))


def one(where, **more):
    parameter = Parameter(
        name="x", kind="float", description="", default=0.5, low=0.0, high=1.0, field_path=where, **more
    )
    return Space(name="s", description="", parameters=(parameter,))


def test_a_space_with_its_own_recipe_forgets_the_params_of_the_bases():
    base = TrialConfig(recipe=RecipeConfig(name="R-MC-LA", params={"eps": 0.2, "gamma": 0.5}))
    point = {"label": "smooth", "eps_y": 0.3, "eps": 0.1, "num_steps": 2, "target": "ll", "random_start": False}
    assert trial_config(BAT, point, base).recipe == RecipeConfig(name="BAT", params=point)


def test_a_space_without_a_recipe_keeps_the_bases():
    base = TrialConfig(recipe=RecipeConfig(name="Madry", params={"eps": 0.2}))
    assert trial_config(SCHEDULE, SCHEDULE.default_point(), base).recipe == base.recipe


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        (
            {"schedule": "multi_step", "lr": 0.2, "first_drop": 0.5, "second_drop": 0.8, "drop": 0.3, "warm_up": 0.1},
            TrainConfig(schedule="multi_step", lr=0.2, milestones=(0.5, 0.8), drop=0.3, warm_up=0.1),
        ),
        ({"schedule": "cosine", "final_lr": 0.05}, TrainConfig(schedule="cosine", final_lr=0.05)),
        ({"schedule": "one_cycle", "peak": 0.4, "epochs": 7}, TrainConfig(warm_up=0.4, epochs=7)),
    ],
)
def test_a_schedule_is_put_where_it_belongs(point, expected):
    assert trial_config(SCHEDULE, point, TrialConfig()).train == expected


@pytest.mark.parametrize(
    ("point", "model"),
    [
        ({"family": "small_cnn", "channels": 12}, "small_cnn_12"),
        ({"family": "wrn", "depth": 16, "width": 4}, "wrn_16_4"),
    ],
)
def test_a_networks_name_is_put_together(point, model):
    assert trial_config(MODEL, point, TrialConfig()).model == model


def test_whole_numbers_stay_whole_and_the_base_is_left_alone():
    base = TrialConfig()
    trial = trial_config(SCHEDULE, {"epochs": 9}, base)
    assert (trial.train.epochs, type(trial.train.epochs)) == (9, int)
    assert base == TrialConfig()


def test_an_empty_point_changes_nothing_but_what_is_fixed():
    assert trial_config(SCHEDULE, {}, TrialConfig(seed=3)) == TrialConfig(seed=3)
    assert trial_config(BAT, {}, TrialConfig()).recipe == RecipeConfig(name="BAT")


def test_infinity_in_the_base_survives():
    base = TrialConfig(recipe=RecipeConfig(params={"beta": math.inf}))
    assert trial_config(SCHEDULE, {"lr": 0.2}, base).recipe.params["beta"] == math.inf


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("train.learning_rate", 0.5, "TrainConfig has no field 'learning_rate'"),
        ("trian.lr", 0.5, "trian"),
        ("train.milestones.7", 0.5, "train.milestones.7"),
        ("train.milestones.last", 0.5, "train.milestones.last"),
        ("train.lr.peak", 0.5, "train.lr.peak"),
        ("train.lr", 0.0, "train.lr=0 must be above 0"),
        ("train.epochs", 0.5, "epochs=0.5 must be of type int"),
        ("recipe.params.eps", 8.0, "recipe.eps=8 is outside (0, 1]"),
    ],
)
def test_a_field_that_a_trial_lacks_or_refuses_is_told(where, value, message):
    with pytest.raises(InputError) as caught:
        trial_config(one(where), {"x": value}, TrialConfig())
    assert message in str(caught.value)


def test_a_name_that_the_space_lacks_is_told():
    with pytest.raises(InputError, match="unknown parameter 'y'"):
        trial_config(one("train.lr"), {"y": 0.5}, TrialConfig())


def test_composed_spaces_set_what_each_sets():
    both = compose([BAT, MODEL])
    trial = trial_config(both, {"eps": 0.1, "family": "wrn", "depth": 10, "width": 1}, TrialConfig())
    assert trial.model == "wrn_10_1"
    assert trial.recipe == RecipeConfig(name="BAT", params={"eps": 0.1})
