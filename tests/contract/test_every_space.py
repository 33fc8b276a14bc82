"""What every space that discovery finds must keep to, alone and composed with any other."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bat_core.config import TrainConfig, TrialConfig, from_dict, to_dict
from bat_core.models import build_model
from bat_core.recipes import get_recipe, recipe_params
from search_spaces.base import compose, get_space, space_names
from search_spaces.narrowing import narrow
from sweeps.engine.search.spec import Final, Halving, Search
from sweeps.engine.search.trial_config import trial_config

ROOT = Path(__file__).resolve().parents[2]
PIXELS = (1 / 255, 5 / 255)  # of photographs, and of the embedded digits
PARAMS = "recipe.params."

every_space = pytest.mark.parametrize("name", space_names())
COMPOSED = [names for size in (1, 2, len(space_names())) for names in itertools.combinations(space_names(), size)]
every_combination = pytest.mark.parametrize("names", COMPOSED, ids="+".join)


@st.composite
def points(draw, space):
    """Any point of a space, drawn with no help of a search's own sampling."""
    point = {}
    for p in space.parameters:
        if not all(name in point and point[name] in values for name, values in p.when.items()):
            continue
        if p.kind == "choice":
            point[p.name] = draw(st.sampled_from(p.options))
        elif p.kind == "integer":
            point[p.name] = draw(st.integers(int(p.low), int(p.high)))
        else:
            point[p.name] = draw(st.floats(p.low, p.high))
    return point


def whole(names, pixel=PIXELS[0]):
    return compose([get_space(name) for name in names]).at(pixel)


def test_discovery_finds_the_spaces_and_no_machinery():
    assert {"bat", "schedule", "model"} <= set(space_names())
    assert not {"base", "narrowing", "__init__"} & set(space_names())
    assert all(get_space(name).name == name for name in space_names())


@every_space
def test_it_is_described_for_people(name):
    space = get_space(name)
    assert space.description
    assert all(parameter.description for parameter in space.parameters)


@every_space
def test_bounds_are_sane_and_the_papers_value_lies_in_them(name):
    for p in get_space(name).parameters:
        assert p.admits(p.default), p.name
        if p.kind == "choice":
            assert len(set(p.options)) == len(p.options) > 1, p.name
            assert (p.low, p.high, p.log) == (0, 0, False), p.name
        else:
            assert p.low < p.high, p.name
            assert not p.options, p.name
            assert p.low > 0 or not p.log, p.name
        if p.kind == "integer":
            assert (p.low, p.high) == (int(p.low), int(p.high)), p.name
            assert type(p.default) is int, p.name


@every_space
def test_each_parameter_sets_a_field_of_a_trial_or_a_part_of_one(name):
    space = get_space(name)
    trial = to_dict(TrialConfig())
    known = recipe_params(space.fixed.get("recipe.name", trial["recipe"]["name"]))
    formed = "".join(form for forms in space.forms.values() for form in forms.values())
    for p in space.parameters:
        if not p.field_path:
            assert f"{{{p.name}}}" in formed, p.name
        elif p.field_path.startswith(PARAMS):
            assert p.field_path.removeprefix(PARAMS) in known, p.name
        else:
            found = trial
            for part in p.field_path.split("."):
                found = found[int(part)] if isinstance(found, list) else found[part]
    for where in space.fixed:
        section, field = where.split(".")
        assert field in trial[section]


@every_combination
@given(data=st.data())
def test_any_point_is_a_trial_that_can_be_built(names, data):
    space = whole(names, data.draw(st.sampled_from(PIXELS)))
    point = data.draw(points(space))
    trial = trial_config(space, point, TrialConfig())
    get_recipe(trial.recipe.name, **trial.recipe.params)
    assert from_dict(TrialConfig, json.loads(json.dumps(to_dict(trial)))) == trial
    for p in space.parameters:
        if p.name in point and p.field_path.startswith(PARAMS):
            assert trial.recipe.params[p.field_path.removeprefix(PARAMS)] == point[p.name]
        elif p.name in point and p.field_path.startswith("train.") and p.field_path.count(".") == 1:
            assert getattr(trial.train, p.field_path.removeprefix("train.")) == point[p.name]


def where(space, parameter, value):
    """A point that has this value, and else the paper's as far as conditions allow."""
    point = {name: values[0] for name, values in parameter.when.items()} | {parameter.name: value}
    for p in space.parameters:
        if all(name in point and point[name] in values for name, values in p.when.items()):
            point.setdefault(p.name, p.default)
    return {p.name: point[p.name] for p in space.parameters if p.name in point}


@every_space
@pytest.mark.parametrize("pixel", PIXELS)
def test_both_ends_of_every_range_and_every_option_make_a_trial(name, pixel):
    space = get_space(name).at(pixel)
    for p in space.parameters:
        whole_numbers = (int(p.low), int(p.high)) if p.kind == "integer" else (p.low, p.high)
        for value in p.options if p.kind == "choice" else whole_numbers:
            trial = trial_config(space, where(space, p, value), TrialConfig())
            get_recipe(trial.recipe.name, **trial.recipe.params)


@pytest.mark.parametrize(
    "name", [name for name in space_names() if any(p.field_path == "model" for p in get_space(name).parameters)]
)
@given(data=st.data())
def test_any_network_of_it_can_be_built(name, data):
    space = get_space(name)
    trial = trial_config(space, data.draw(points(space)), TrialConfig())
    with torch.device("meta"):
        model = build_model(trial.model, num_classes=10, image_shape=(3, 32, 32))
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@every_combination
def test_what_a_point_does_not_name_is_left_as_it_was(names):
    space = whole(names)
    base = TrialConfig(seed=7, train=TrainConfig(batch_size=17, momentum=0.3))
    trial = trial_config(space, space.default_point(), base)
    assert (trial.seed, trial.train.batch_size, trial.train.momentum) == (7, 17, 0.3)
    assert (trial.data, trial.attack) == (base.data, base.attack)
    assert base == TrialConfig(seed=7, train=TrainConfig(batch_size=17, momentum=0.3))


@every_combination
def test_the_papers_point_lies_in_it(names):
    space = whole(names)
    point = space.default_point()
    assert point
    for p in space.parameters:
        applies = all(point.get(name) in values for name, values in p.when.items())
        assert (p.name in point) == applies, p.name
        if applies:
            assert p.admits(point[p.name]), p.name
            assert point[p.name] == p.default, p.name


@every_combination
def test_composing_loses_nothing(names):
    space = whole(names)
    alone = [get_space(name).at(PIXELS[0]) for name in names]
    assert space.parameters == tuple(p for one in alone for p in one.parameters)
    for one in alone:
        assert one.fixed.items() <= space.fixed.items()
        assert one.forms.items() <= space.forms.items()


@every_space
def test_a_pixel_scales_amounts_and_nothing_else(name):
    space, pixel = get_space(name), 5 / 255
    for before, after in zip(space.parameters, space.at(pixel).parameters, strict=True):
        if before.unit == "pixel":
            assert (after.low, after.high, after.default) == pytest.approx(
                (before.low * pixel, before.high * pixel, before.default * pixel), rel=1e-12
            )
            assert 0 < after.low < after.high <= 1
            assert (after.unit, after.when, after.field_path) == ("", before.when, before.field_path)
        else:
            assert after == before
    assert space.at(pixel).at(pixel) == space.at(pixel)


@every_combination
def test_it_is_read_from_json_as_it_was_written(names):
    search = Search(
        space=narrow(whole(names), ranges=[]), base=TrialConfig(), objective="clean+robust", sampler="tpe", seed=3,
        num_trials=9, max_hours=1.5, flat=None, halving=Halving(grace=2, factor=3),
        final=Final(count=2, epochs=5, seeds=(0, 1), rule="knee", registered_name="m"), warm_start=("a", "b"),
    )  # fmt: skip
    back = from_dict(Search, json.loads(json.dumps(to_dict(search), allow_nan=False)))
    assert back == search
    for mine, theirs in zip(search.space.parameters, back.space.parameters, strict=True):
        assert [type(option) for option in mine.options] == [type(option) for option in theirs.options]
        assert type(mine.default) is type(theirs.default)
    assert back.space.describe() == search.space.describe()
    assert (
        trial_config(back.space, back.space.default_point(), back.base).hash
        == trial_config(search.space, search.space.default_point(), search.base).hash
    )


def test_spaces_are_read_without_torch_ray_or_optuna():
    program = """
import sys
from search_spaces.base import compose, get_space, space_names
from search_spaces.narrowing import narrow
narrow(compose([get_space(name) for name in space_names()]).at(1 / 255), fixed=["eps=8/255"]).default_point()
print(sorted({"torch", "torchvision", "ray", "optuna", "mlflow", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
