import math

import pytest

from bat_core.errors import InputError
from search_spaces.base import compose, get_space
from search_spaces.narrowing import narrow, parse_point

BAT = get_space("bat").at(1 / 255)
ALL = compose([get_space(name) for name in ("bat", "schedule", "model")]).at(1 / 255)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("eps=4/255", 4 / 255),
        ("eps_x=4/255", 4 / 255),
        ("eps= 4 / 255", 4 / 255),
        ("eps=0.02", 0.02),
        ("eps=1/255", 1 / 255),
        ("eps=16/255", 16 / 255),
        ("beta=9", 9.0),
        ("beta=1e1", 10.0),
        ("num_steps=3", 3),
        ("num_steps=3.0", 3),
        ("target=ll", "ll"),
        ("label=adversarial", "adversarial"),
        ("random_start=yes", True),
        ("random_start=no", False),
        ("random_start=true", True),
        ("random_start=False", False),
        ("random_start=No", False),
        ("random_start=YES", True),
        ("depth=16", 16),
        ("final_lr=0", 0.0),
    ],
)
def test_what_is_set_cannot_vary(entry, value):
    name = entry.partition("=")[0].replace("eps_x", "eps")
    only = narrow(ALL, fixed=[entry])[name].fixed_value()
    assert only == value
    assert type(only) is type(value)


def test_a_single_number_may_lie_outside_the_space():
    assert narrow(ALL, fixed=["epochs=1"])["epochs"].fixed_value() == 1
    assert narrow(ALL, fixed=["eps=32/255"])["eps"].fixed_value() == 32 / 255
    outside = narrow(ALL, fixed=["epochs=100", "beta=1000"])
    assert (outside.default_point()["epochs"], outside.default_point()["beta"]) == (100, 1000)


@pytest.mark.parametrize(
    ("entry", "low", "high"),
    [
        ("eps=2/255:4/255", 2 / 255, 4 / 255),
        ("eps_x=2/255:0.03", 2 / 255, 0.03),
        ("beta=4:64", 4.0, 64.0),
        ("num_steps=2:4", 2, 4),
        ("lr=0.1:0.1", 0.1, 0.1),
    ],
)
def test_a_range_becomes_smaller(entry, low, high):
    name = entry.partition("=")[0].replace("eps_x", "eps")
    narrowed = narrow(ALL, ranges=[entry])
    assert (narrowed[name].low, narrowed[name].high) == (low, high)
    assert narrowed[name].log == ALL[name].log
    others = [parameter for parameter in narrowed.parameters if parameter.name != name]
    assert others == [parameter for parameter in ALL.parameters if parameter.name != name]


@pytest.mark.parametrize(
    ("entry", "options"),
    [
        ("target=ll,mc", ("ll", "mc")),
        ("target=ll", ("ll",)),
        ("label=one-hot,smooth", ("one-hot", "smooth")),
        ("random_start=no,yes", (False, True)),
        ("depth=10,28", (10, 28)),
    ],
)
def test_options_become_fewer(entry, options):
    narrowed = narrow(ALL, ranges=[entry])[entry.partition("=")[0]]
    assert narrowed.options == options
    assert [type(option) for option in narrowed.options] == [type(option) for option in options]


def test_nothing_said_changes_nothing():
    assert narrow(ALL) == ALL


def test_what_cannot_apply_any_more_is_dropped():
    names = set(narrow(ALL, fixed=["label=smooth", "family=wrn"], ranges=["schedule=cosine,one_cycle"]).names)
    assert set(ALL.names) - names == {"beta", "channels", "first_drop", "second_drop", "drop"}


def test_conditions_keep_what_can_still_hold():
    narrowed = narrow(ALL, ranges=["schedule=cosine,one_cycle"])
    assert narrowed["warm_up"].when == {"schedule": ("cosine",)}
    assert narrowed["peak"].when == {"schedule": ("one_cycle",)}
    assert narrowed["beta"].when == {"label": ("adversarial",)}


def test_a_parameter_under_a_condition_may_be_set_while_the_condition_may_hold():
    narrowed = narrow(BAT, fixed=["beta=4"])
    assert narrowed["beta"].fixed_value() == 4
    assert narrowed["beta"].when == {"label": ("adversarial",)}
    assert narrow(BAT, fixed=["beta=4", "label=adversarial"])["beta"].fixed_value() == 4


def test_dropping_goes_on_through_conditions_on_what_was_dropped():
    from search_spaces.base import Parameter, Space

    def choice(name, **more):
        return Parameter(name=name, kind="choice", description="", default="a", options=("a", "b"), **more)

    chain = Space(name="s", description="", parameters=(choice("x"), choice("y", when={"x": ("a",)}),
                                                 choice("z", when={"y": ("b",)})))  # fmt: skip
    assert narrow(chain, fixed=["x=b"]).names == ("x",)
    assert narrow(chain, fixed=["y=a"]).names == ("x", "y")
    with pytest.raises(InputError, match="'z' is narrowed but cannot apply: it requires y = b"):
        narrow(chain, fixed=["x=b", "z=a"])


@pytest.mark.parametrize(
    ("fixed", "ranges", "message"),
    [
        (["beta=4", "label=one-hot"], [], "'beta' is narrowed but cannot apply: it requires label = adversarial, but"),
        (["label=one-hot"], ["beta=4:8"], "'beta' is narrowed but cannot apply"),
        (["eps_y=0.5"], ["label=one-hot,adversarial"], "it requires label = smooth, but label is one-hot, adversarial"),
        (["eps=4/255", "eps=4/255"], [], "--set eps=4/255: 'eps' is narrowed twice"),
        (["eps=4/255", "eps_x=8/255"], [], "--set eps_x=8/255: 'eps' is narrowed twice"),
        (["eps=4/255"], ["eps=2/255:8/255"], "--range eps=2/255:8/255: 'eps' is narrowed twice"),
        ([], ["beta=64:4"], "--range beta=64:4: the range is empty, 64 is above 4"),
        ([], ["eps=4/255:8"], "--range eps=4/255:8: 8 is outside the space, eps is 0.00392157 to 0.0627451"),
        ([], ["eps=8/255:17/255"], "0.0666667 is outside the space"),
        ([], ["beta=1:64"], "--range beta=1:64: 1 is outside the space, beta is 2 to 128"),
        ([], ["beta=4:1000"], "1000 is outside the space"),
        ([], ["lr=-0.1:0.1"], "-0.1 is outside the space"),
        (["lr=1e400"], [], "--set lr=1e400: '1e400' is not a number"),
        (["num_steps=2.5"], [], "--set num_steps=2.5: 2.5 is not an integer"),
        (["target=mcc"], [], "--set target=mcc: 'mcc' is outside the space, target is none, mc, ll, random"),
        (["target=mc,ll"], [], "'mc,ll' is outside the space"),
        ([], ["target=mc,mc"], "--range target=mc,mc: duplicate option"),
        ([], ["random_start=yes,true"], "duplicate option"),
        ([], ["target=mc,"], "'' is outside the space"),
        (["random_start=maybe"], [], "'maybe' is outside the space, random_start is yes, no"),
        (["target=yes"], [], "'yes' is outside the space"),
        (["depth=11"], [], "'11' is outside the space, depth is 10, 16, 22, 28, 34"),
        (["betta=4"], [], "unknown parameter 'betta'; did you mean 'beta'?"),
        ([], ["epss=4:5"], "unknown parameter 'epss'; did you mean 'eps'?"),
        (["beta"], [], "--set 'beta': write --set name=value"),
        (["=4"], [], "--set '=4': write --set name=value"),
        (["beta="], [], "--set 'beta=': write --set name=value"),
        ([], ["beta"], "--range 'beta': write --range name=low:high, or name=one,another"),
        ([], ["beta=4"], "--range beta=4: write beta=low:high"),
        ([], ["beta=4:"], "'' is not a number: write 9, 0.5 or 8/255"),
        ([], ["beta=4:8:16"], "'8:16' is not a number"),
        (["beta=four"], [], "--set beta=four: 'four' is not a number"),
        (["beta=nan"], [], "'nan' is not a number"),
        (["beta=inf"], [], "'inf' is not a number"),
        (["eps=4/0"], [], "'4/0' is not a number"),
        (["beta=4:8"], [], "'4:8' is not a number"),
    ],
)  # fmt: skip
def test_what_cannot_be_narrowed_is_told_in_one_sentence(fixed, ranges, message):
    with pytest.raises(InputError) as caught:
        narrow(ALL, fixed=fixed, ranges=ranges)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_space_may_be_narrowed_again_but_not_widened():
    once = narrow(BAT, ranges=["beta=4:64"])
    assert narrow(once, ranges=["beta=8:16"])["beta"].high == 16
    with pytest.raises(InputError, match="2 is outside the space, beta is 4 to 64"):
        narrow(once, ranges=["beta=2:16"])


def test_the_papers_point_moves_into_what_is_left():
    assert narrow(BAT, fixed=["beta=4"]).default_point()["beta"] == 4
    assert narrow(BAT, ranges=["beta=16:64"]).default_point()["beta"] == 16
    assert "beta" not in narrow(BAT, fixed=["label=smooth"]).default_point()
    assert narrow(BAT, fixed=["label=smooth"]).default_point()["eps_y"] == 0.5


def test_a_point_that_came_through_json_gets_its_types_back():
    point = parse_point(ALL, {"num_steps": 3.0, "beta": 9, "random_start": True, "target": "mc", "channels": 32.0})
    assert point == {"num_steps": 3, "beta": 9.0, "random_start": True, "target": "mc", "channels": 32}
    assert [type(value) for value in point.values()] == [int, float, bool, str, int]
    assert math.isclose(point["beta"], 9)
