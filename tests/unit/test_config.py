import dataclasses
import json
import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bat_core.config import (
    PRECISIONS,
    SCHEDULES,
    SPLITS,
    AttackConfig,
    DataConfig,
    RecipeConfig,
    SecondThreat,
    TrainConfig,
    TrialConfig,
    flatten,
    from_dict,
    to_dict,
)
from bat_core.errors import InputError
from bat_core.losses import LOSSES

amounts = st.floats(1e-6, 1.0)
counts = st.integers(1, 1000)
sizes = st.none() | counts
trials = st.builds(
    TrialConfig,
    data=st.builds(DataConfig, name=st.text(max_size=8), train_size=sizes, val_size=sizes, test_size=sizes),
    model=st.text(max_size=8),
    recipe=st.builds(
        RecipeConfig,
        name=st.text(max_size=8),
        params=st.fixed_dictionaries(
            {},
            optional={
                "eps": amounts,
                "beta": st.floats(0, 1e6) | st.just(math.inf),
                "gamma": st.floats(0, 1),
                "num_steps": counts,
                "target": st.sampled_from(["mc", "none", "True", "1"]),
                "random_start": st.booleans(),
            },
        ),
    ),
    train=st.builds(
        TrainConfig,
        epochs=counts,
        batch_size=counts,
        lr=st.floats(1e-6, 10),
        schedule=st.sampled_from(SCHEDULES),
        milestones=st.lists(st.floats(0.01, 0.99), max_size=3).map(tuple),
        momentum=st.floats(0, 0.999),
        drop=st.floats(1e-3, 1),
        final_lr=st.floats(0, 1),
        warm_up=st.none() | st.floats(0, 0.99),
        weight_decay=st.floats(0, 1),
        val_steps=counts,
        precision=st.sampled_from(PRECISIONS),
    ),
    attack=st.builds(
        AttackConfig,
        eps=amounts,
        step_size=amounts,
        steps=st.sets(counts, min_size=1, max_size=4).map(lambda steps: tuple(sorted(steps))),
        losses=st.sets(st.sampled_from(sorted(LOSSES)), min_size=1).map(tuple),
        batch_size=counts,
        split=st.sampled_from(SPLITS),
    ),
    seed=st.integers(0, 2**62),
)


@given(trials)
def test_a_trial_survives_strict_json(trial):
    text = json.dumps(to_dict(trial), allow_nan=False)
    back = from_dict(TrialConfig, json.loads(text))
    assert back == trial
    assert back.hash == trial.hash
    assert hash(back) == hash(trial)


def test_infinity_is_written_as_a_word():
    recipe = RecipeConfig(params={"beta": math.inf})
    assert to_dict(recipe)["params"] == {"beta": "inf"}
    assert from_dict(RecipeConfig, to_dict(recipe)) == recipe


def test_the_hash_is_the_same_for_ever():
    trial = TrialConfig(
        data=DataConfig(name="cifar10", train_size=1000, val_size=None, test_size=500),
        model="wrn_28_10",
        recipe=RecipeConfig(name="R-MC-LA", params={"eps": 8 / 255, "beta": math.inf}),
        train=TrainConfig(
            epochs=100, batch_size=128, lr=0.1, schedule="multi_step", milestones=(0.6, 0.9),
            momentum=0.9, weight_decay=2e-4, val_steps=5, precision="auto",
        ),
        attack=AttackConfig(eps=8 / 255, step_size=2 / 255, steps=(1, 20), losses=("ce", "cw"), batch_size=200),
        seed=3,
    )  # fmt: skip
    assert trial.hash == "3dc2e38e6ca4"


CHANGED = [
    {"seed": 1},
    {"model": "small_cnn_8"},
    {"data": DataConfig(train_size=7)},
    {"data": DataConfig(image_size=7)},
    {"recipe": RecipeConfig(name="Madry")},
    {"recipe": RecipeConfig(params={"beta": 9.0})},
    {"recipe": RecipeConfig(params={"beta": math.inf})},
    {"recipe": RecipeConfig(params={"beta": 1.0})},
    {"recipe": RecipeConfig(params={"beta": True})},
    {"recipe": RecipeConfig(params={"beta": "1.0"})},
    {"recipe": RecipeConfig(params={"beta": False})},
    {"recipe": RecipeConfig(params={"beta": 0.0})},
    {"train": TrainConfig(drop=0.5)},
    {"train": TrainConfig(final_lr=0.5)},
    {"train": TrainConfig(warm_up=0.0)},
    {"attack": AttackConfig(split="val")},
    {"train": TrainConfig(lr=0.11)},
    {"attack": AttackConfig(losses=("cw", "ce"))},
    {"attack": AttackConfig(eps=4 / 255)},
]


def test_any_change_changes_the_hash():
    hashes = [TrialConfig(**change).hash for change in [{}, *CHANGED]]
    assert len(set(hashes)) == len(hashes)
    assert all(len(digits) == 12 and int(digits, 16) >= 0 for digits in hashes)


@pytest.mark.parametrize(
    ("whole", "fraction"),
    [
        ({"recipe": RecipeConfig(params={"beta": 9})}, {"recipe": RecipeConfig(params={"beta": 9.0})}),
        ({"train": TrainConfig(lr=1)}, {"train": TrainConfig(lr=1.0)}),
        ({"attack": AttackConfig(eps=1)}, {"attack": AttackConfig(eps=1.0)}),
        (
            {"recipe": RecipeConfig(params={"beta": 9.0, "gamma": 0.1})},
            {"recipe": RecipeConfig(params={"gamma": 0.1, "beta": 9.0})},
        ),
    ],
)
def test_equal_trials_have_equal_hashes(whole, fraction):
    assert TrialConfig(**whole) == TrialConfig(**fraction)
    assert TrialConfig(**whole).hash == TrialConfig(**fraction).hash


def test_words_and_truth_stay_what_they_are_and_numbers_are_floats():
    params = {"target": "mc", "random_start": True, "num_steps": 3, "beta": "inf", "gamma": 0.5}
    back = from_dict(RecipeConfig, json.loads(json.dumps({"name": "BAT", "params": params}))).params
    assert back == {"target": "mc", "random_start": True, "num_steps": 3.0, "beta": math.inf, "gamma": 0.5}
    assert [type(value) for value in back.values()] == [str, bool, float, float, float]


def test_truth_is_no_number_in_the_hash():
    def told(value):
        return TrialConfig(recipe=RecipeConfig(name="BAT", params={"random_start": value})).hash

    assert told(1) == told(1.0)
    assert len({told(value) for value in (True, False, 1, 0, "True")}) == 5


def test_a_dict_of_params_in_any_order_has_one_python_hash():
    one = RecipeConfig(params={"target": "mc", "random_start": True, "num_steps": 1})
    other = RecipeConfig(params={"num_steps": 1.0, "random_start": True, "target": "mc"})
    assert one == other
    assert hash(one) == hash(other)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A field of a few words, and one that may be missing."""

    kind: Literal["round", "flat"]
    size: int | None = None


@pytest.mark.parametrize("shape", [Shape("round"), Shape("flat", 3)])
def test_a_word_of_a_fixed_few_survives_json(shape):
    assert from_dict(Shape, json.loads(json.dumps(to_dict(shape)))) == shape


@pytest.mark.parametrize("kind", ["rund", None, 1, ["round"]])
def test_any_other_word_is_refused(kind):
    with pytest.raises(InputError, match="kind="):
        from_dict(Shape, {"kind": kind})


def test_a_nested_dict_is_flattened_to_dotted_names():
    assert flatten({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}
    assert flatten(to_dict(TrialConfig()))["train.lr"] == 0.1


def test_a_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrialConfig().seed = 3


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (AttackConfig, {"eps": 8}, r"attack.eps=8 is outside (0, 1]: images are in [0, 1], so write 8/255, not 8"),
        (AttackConfig, {"step_size": 2}, "attack.step_size=2 is outside (0, 1]: images are in [0, 1], so write 2/255"),
        (AttackConfig, {"eps": math.nan}, "attack.eps=nan is outside (0, 1]"),
        (AttackConfig, {"eps": -0.1}, "attack.eps=-0.1 is outside (0, 1]"),
        (AttackConfig, {"steps": ()}, "attack.steps and attack.losses need at least one entry each"),
        (AttackConfig, {"losses": ()}, "attack.steps and attack.losses need at least one entry each"),
        (AttackConfig, {"steps": (0, 1)}, "attack.steps=(0, 1) must be whole numbers of at least 1"),
        (AttackConfig, {"steps": (2, 1)}, "in increasing order"),
        (AttackConfig, {"losses": ("cee",)}, "unknown attack.losses 'cee'; did you mean 'ce'? Known: ce, cw"),
        (AttackConfig, {"split": "train"}, "unknown attack.split 'train'. Known: test, val"),
        (AttackConfig, {"split": "tests"}, "unknown attack.split 'tests'; did you mean 'test'?"),
        (AttackConfig, {"batch_size": 0}, "attack.batch_size=0 must be at least 1"),
        (RecipeConfig, {"params": {"eps": 4}}, "recipe.eps=4 is outside (0, 1]: images are in [0, 1], so write 4/255"),
        (RecipeConfig, {"params": {"beta": math.nan}}, "recipe.beta=nan is not a number"),
        (RecipeConfig, {"params": {"beta": -1}}, "recipe.beta=-1 must be at least 0"),
        (TrainConfig, {"lr": 0}, "train.lr=0 must be above 0"),
        (TrainConfig, {"lr": math.nan}, "train.lr=nan is not a number"),
        (TrainConfig, {"lr": math.inf}, "train.lr=inf is not finite"),
        (TrainConfig, {"epochs": 0}, "train.epochs=0 must be at least 1"),
        (TrainConfig, {"weight_decay": -1}, "train.weight_decay=-1 must be at least 0"),
        (TrainConfig, {"momentum": 1}, "train.momentum=1 must be below 1"),
        (TrainConfig, {"milestones": (60, 90)}, "train.milestones=(60, 90) must be between 0 and 1"),
        (TrainConfig, {"milestones": (math.nan,)}, "are fractions of epochs"),
        (TrainConfig, {"schedule": "cosin"}, "unknown train.schedule 'cosin'; did you mean 'cosine'?"),
        (TrainConfig, {"drop": 0}, "train.drop=0 must be above 0"),
        (TrainConfig, {"drop": math.inf}, "train.drop=inf is not finite"),
        (TrainConfig, {"final_lr": -0.1}, "train.final_lr=-0.1 must be at least 0"),
        (TrainConfig, {"warm_up": -0.1}, "train.warm_up=-0.1 must be at least 0"),
        (TrainConfig, {"warm_up": 1}, "train.warm_up=1 must be below 1: it is a share of training"),
        (TrainConfig, {"warm_up": math.nan}, "train.warm_up=nan is not a number"),
        (TrainConfig, {"precision": "fp16"}, "unknown train.precision 'fp16'"),
        (DataConfig, {"train_size": 0}, "data.train_size=0 must be at least 1"),
        (TrialConfig, {"seed": -1}, "seed=-1 must be at least 0"),
    ],
)
def test_a_value_outside_its_range_is_told_with_rule_and_remedy(kind, settings, message):
    with pytest.raises(InputError) as caught:
        kind(**settings)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sead": 1}, "TrialConfig has no field 'sead'; its fields are data, model"),
        ({"train": {"learning_rate": 1}}, "TrainConfig has no field 'learning_rate'"),
        ({"seed": "1"}, "seed='1' must be of type int"),
        ({"seed": 1.5}, "seed=1.5 must be of type int"),
        ({"seed": True}, "seed=True must be of type int"),
        ({"seed": None}, "seed=None must be of type int"),
        ({"train": {"lr": "0.1"}}, "lr='0.1' must be of type float"),
        ({"train": {"lr": True}}, "lr=True must be of type float"),
        ({"train": 5}, "train=5"),
        ({"model": {}}, "model={}"),
        ({"recipe": {"params": 5}}, "params=5"),
        ({"recipe": {"params": {"beta": None}}}, "params.beta=None must be of type float"),
        ({"recipe": {"params": {"beta": [9]}}}, "params.beta=[9] must be of type float"),
        ({"train": {"warm_up": "0.1"}}, "warm_up='0.1' must be of type float"),
        ({"train": {"warm_up": False}}, "warm_up=False must be of type float"),
        ({"data": {"val_size": 1.5}}, "val_size=1.5 must be of type int"),
        ({"attack": {"split": None}}, "split=None must be of type str"),
        ({"attack": {"steps": 3}}, "steps=3"),
        ({"attack": {"losses": "ce"}}, "losses='ce'"),
    ],
)
def test_a_value_of_another_type_is_told(values, message):
    with pytest.raises(InputError) as caught:
        from_dict(TrialConfig, values)
    assert message in str(caught.value)


def test_a_second_norm_is_in_the_file_and_the_hash_where_it_is_named_and_nowhere_else():
    plain = TrialConfig(attack=AttackConfig(eps=8 / 255))
    assert "second" not in to_dict(plain)["attack"]
    named = dataclasses.replace(plain, attack=dataclasses.replace(plain.attack, second=SecondThreat(norm="l2", eps=1)))
    assert from_dict(TrialConfig, json.loads(json.dumps(to_dict(named)))) == named
    assert len({plain.hash, named.hash, dataclasses.replace(named, attack=changed(named.attack, eps=0.5)).hash}) == 3
    assert hash(named) == hash(from_dict(TrialConfig, to_dict(named)))


def changed(attack: AttackConfig, **second) -> AttackConfig:
    return dataclasses.replace(attack, second=dataclasses.replace(attack.second, **second))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"second": {"norm": "linf", "eps": 0.1}}, "attack.second.norm=linf is attack.norm too"),
        ({"second": {"norm": "l2", "eps": 0.5}, "verify": 0}, "verify must be at least 1"),
        ({"second": {"norm": "l2", "eps": 0}}, "attack.second.eps=0 is outside (0, 100]"),
        ({"second": {"norm": "l1", "eps": 1}}, "norm='l1' must be one of linf, l2"),
        ({"second": {"norm": "l2"}}, "SecondThreat"),
    ],
)
def test_a_second_norm_that_cannot_be_is_told(settings, message):
    with pytest.raises(InputError) as caught:
        from_dict(AttackConfig, settings)
    assert message in str(caught.value)


@pytest.mark.parametrize("part", [{"attack": {"also": "diagnostic"}}, {"train": {"compile": "on"}}])
def test_a_choice_that_there_was_not_always_changes_the_hash_where_it_is_made(part):
    plain = to_dict(TrialConfig())
    ((name, chosen),) = part.items()
    changed = from_dict(TrialConfig, plain | {name: plain[name] | chosen})
    assert changed.hash != TrialConfig().hash
    del plain[name][next(iter(chosen))]
    assert from_dict(TrialConfig, plain).hash == TrialConfig().hash
