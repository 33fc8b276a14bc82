import dataclasses
import math

import pytest

from bat_core.errors import InputError
from search_spaces.base import Parameter, Space, compose, get_space, is_number, show_value


def number(name="x", low=1.0, high=4.0, kind="float", **more):
    return Parameter(
        **{"name": name, "kind": kind, "description": "a number", "default": low, "low": low, "high": high} | more
    )


def choice(name="c", options=("a", "b"), **more):
    return Parameter(
        **{"name": name, "kind": "choice", "description": "a word", "default": options[0], "options": options} | more
    )


def space(*parameters, name="s", **more):
    return Space(name=name, description=f"what {name} is", parameters=parameters, **more)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([number(), choice("x")], "space 's': duplicate parameter 'x'"),
        ([number(when={"c": ("a",)}), choice()], "its condition refers to 'c', which must come before it"),
        ([number(when={"x": (1.0,)})], "its condition refers to 'x', which must come before it"),
        ([choice(), number(when={"c": ()})], "its condition on 'c' is never true: c is a, b"),
        ([choice(), number(when={"c": ("a", "z")})], "its condition on 'c' is never true"),
        ([choice(options=("a",)), number(when={"c": ("b",)})], "its condition on 'c' is never true: c is a"),
        (
            [Parameter(name="c", kind="choice", description="", default="a")],
            "space 's', parameter 'c': a choice needs at least one option",
        ),
        ([number(low=4, high=1)], "the range from 4 to 1 is empty"),
        ([number(low=1, high=math.inf)], "the range from 1 to inf is empty"),
        ([number(low=math.nan, high=1)], "the range from nan to 1 is empty"),
        ([number(low=0, log=True)], "a logarithmic range must start above 0, not at 0"),
        ([number(low=-1, log=True)], "a logarithmic range must start above 0, not at -1"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(parameters, message):
    with pytest.raises(InputError) as caught:
        space(*parameters)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parameter_is_found_by_name_or_the_nearest_is_told():
    both = space(number("depth"), number("width"))
    assert both["width"] is both.parameters[1]
    assert both.names == ("depth", "width")
    with pytest.raises(InputError, match=r"unknown parameter 'widht'; did you mean 'width'\? Known: depth, width"):
        both["widht"]


def test_a_condition_asks_for_all_that_it_names():
    parameter = number(when={"c": ("a", "b"), "d": (True,)})
    assert parameter.applies({"c": "b", "d": True})
    assert not parameter.applies({"c": "b", "d": False})
    assert not parameter.applies({"c": "z", "d": True})
    assert not parameter.applies({"c": "b"})
    assert number().applies({})


def test_a_parameter_admits_what_lies_in_it():
    assert [number().admits(value) for value in (0.999, 1, 2.5, 4.0, 4.001)] == [False, True, True, True, False]
    assert not any(number().admits(value) for value in (True, math.nan, math.inf, "2"))
    assert [choice().admits(value) for value in ("a", "b", "z")] == [True, True, False]
    assert choice(options=(True, False)).admits(False)


def test_what_cannot_vary_is_its_only_value():
    assert number(low=2, high=2).fixed_value() == 2
    assert number().fixed_value() is None
    assert (whole := number(low=3.0, high=3.0, kind="integer").fixed_value()) == 3
    assert type(whole) is int
    assert choice(options=("a",)).fixed_value() == "a"
    assert choice(options=(False,)).fixed_value() is False
    assert choice().fixed_value() is None


def test_only_finite_numbers_are_numbers():
    assert [is_number(value) for value in (1, 1.5, True, math.nan, math.inf, "1", None)] == [True, True] + [False] * 5


def test_a_value_is_shown_as_it_is_typed():
    assert [show_value(value) for value in (True, False, 8 / 255, 3, "mc", 9.0)] == [
        "yes", "no", "0.0313725", "3", "mc", "9",
    ]  # fmt: skip


def test_the_papers_point_keeps_to_what_is_left():
    def default(*parameters):
        return space(*parameters).default_point()

    assert default(number(low=1, high=4, default=9.0)) == {"x": 4.0}
    assert default(number(low=5, high=8, default=2.0)) == {"x": 5.0}
    assert default(number(low=1, high=4, default=3.0)) == {"x": 3.0}
    assert default(choice(options=("b", "a"), default="z")) == {"c": "b"}
    assert default(choice(options=("b", "a"), default="a")) == {"c": "a"}
    (value,) = default(number(low=1, high=4, default=9, kind="integer")).values()
    assert (value, type(value)) == (4, int)


def test_the_papers_point_has_no_parameter_whose_condition_fails():
    parameters = choice(), number("x", when={"c": ("a",)}), number("y", when={"c": ("b",)})
    assert set(space(*parameters).default_point()) == {"c", "x"}


def test_two_spaces_are_described_differently_if_they_are_different():
    first = space(choice(), number(unit="pixel", when={"c": ("a", "b")}, log=True), number("y", kind="integer"))
    assert first.describe() == [
        "c: choice, a, b",
        "x: float, 1 to 4 pixels, log, if c = a or b",
        "y: integer, 1 to 4",
    ]
    changes = {"low": 2.0}, {"high": 3.0}, {"log": False}, {"when": {"c": ("a",)}}, {"when": {}}, {"name": "z"}
    for change in changes:
        changed = dataclasses.replace(first.parameters[1], **change)
        assert space(first.parameters[0], changed, first.parameters[2]).describe() != first.describe(), change


def test_composing_takes_at_least_one_space_and_one_is_itself():
    one = space(number())
    assert compose([one]) is one
    with pytest.raises(InputError, match="give at least one --space"):
        compose([])


@pytest.mark.parametrize(
    ("other", "taken"),
    [
        (space(number("x"), name="t"), "x"),
        (space(number("y", field_path="train.lr"), name="t"), "train.lr"),
        (space(number("train.lr"), name="t"), "train.lr"),
    ],
)
def test_spaces_that_vary_the_same_do_not_compose(other, taken):
    with pytest.raises(InputError, match=f"spaces 's' and 't' both vary '{taken}': leave one of them out"):
        compose([space(number("x", field_path="train.lr")), other])


def test_one_space_may_set_a_field_under_two_conditions():
    first = number("x", field_path="train.lr", when={"c": ("a",)})
    second = number("y", field_path="train.lr", when={"c": ("b",)})
    both = compose([space(choice(), first, second), space(number("z"), name="t")])
    assert both.names == ("c", "x", "y", "z")
    assert both.name == "s+t"
    assert both.description == "what s is; what t is"


def test_a_space_is_not_composed_with_itself():
    with pytest.raises(InputError, match="duplicate parameter"):
        compose([space(number()), space(number())])


def test_an_unknown_space_is_named_with_the_nearest():
    with pytest.raises(
        InputError, match=r"unknown space 'schedul'; did you mean 'schedule'\? Known: bat, model, sched"
    ):
        get_space("schedul")


@pytest.mark.parametrize("name", ["base", "narrowing", "__init__", ""])
def test_the_machinery_is_no_space(name):
    with pytest.raises(InputError, match=f"unknown space '{name}'"):
        get_space(name)
