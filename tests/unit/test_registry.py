import math

import pytest

from bat_core.errors import InputError, check_amount, check_choice, check_finite, unknown_name
from bat_core.registry import Registry


@pytest.fixture
def fruits():
    """A registry whose package holds nothing that registers."""
    registry = Registry("fruit", "unit")
    registry._discovered = True
    registry.register("pear")("PEAR")
    registry.register("box_3", pattern=r"box_(?P<size>\d+)(?P<lid>_lid)?", form="box_<size>")("BOX")
    return registry


def test_a_name_finds_what_bears_it(fruits):
    assert fruits.find("pear") == ("PEAR", {})
    assert fruits.names() == ("box_3", "pear")


def test_a_family_captures_what_its_pattern_names(fruits):
    assert fruits.find("box_12") == ("BOX", {"size": "12"})
    assert fruits.find("box_12_lid") == ("BOX", {"size": "12", "lid": "_lid"})


@pytest.mark.parametrize("name", ["box_", "box_3 ", "a_box_3", "pears", ""])
def test_nothing_else_is_found(fruits, name):
    with pytest.raises(InputError, match=r"unknown fruit .* Known: box_3, pear, box_<size>"):
        fruits.find(name)


def test_a_name_is_taken_once(fruits):
    with pytest.raises(RuntimeError, match="fruit 'pear' is registered twice"):
        fruits.register("pear")("OTHER")


def test_a_new_file_is_found_without_a_list(tmp_path, monkeypatch):
    package = tmp_path / "orchard"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from bat_core.registry import Registry\nTREES = Registry('tree', 'orchard')\n"
    )
    (package / "elm.py").write_text("from orchard import TREES\nTREES.register('elm')(1)\n")
    monkeypatch.syspath_prepend(tmp_path)
    import orchard

    assert orchard.TREES.names() == ("elm",)


def test_the_nearest_name_is_offered_whatever_its_case():
    assert (
        str(unknown_name("tree", "ELMS", ["elm", "oak"])) == "unknown tree 'ELMS'; did you mean 'elm'? Known: elm, oak"
    )
    assert str(unknown_name("tree", "xyz", ["elm", "oak"])) == "unknown tree 'xyz'. Known: elm, oak"


@pytest.mark.parametrize("value", [1e-9, 8 / 255, 1])
def test_amounts_in_range_pass(value):
    check_amount("eps", value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (8, "eps=8 is outside (0, 1]: images are in [0, 1], so write 8/255, not 8"),
        (0.0, "eps=0 is outside (0, 1]: images are in [0, 1]"),
        (-1, "eps=-1 is outside (0, 1]: images are in [0, 1]"),
        (1000, "eps=1000 is outside (0, 1]: images are in [0, 1]"),
        (math.nan, "eps=nan is outside (0, 1]: images are in [0, 1]"),
    ],
)
def test_amounts_out_of_range_are_told(value, message):
    with pytest.raises(InputError) as caught:
        check_amount("eps", value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("value", "rule", "message"),
    [
        (math.nan, {}, "n=nan is not a number: it must be at least 0"),
        (math.inf, {"strict": True}, "n=inf is not finite: it must be a finite number, above 0"),
        (-math.inf, {"allow_inf": True}, "n=-inf must be at least 0"),
        (0, {"strict": True}, "n=0 must be above 0"),
        (1, {"low": 2}, "n=1 must be at least 2"),
    ],
)
def test_numbers_out_of_range_are_told(value, rule, message):
    with pytest.raises(InputError) as caught:
        check_finite("n", value, **rule)
    assert str(caught.value) == message


def test_numbers_in_range_pass():
    check_finite("n", 0)
    check_finite("n", math.inf, allow_inf=True)
    check_finite("n", 1e-300, strict=True)


def test_a_word_is_one_of_a_few():
    check_choice("tree", "elm", ("elm", "oak"))
    with pytest.raises(InputError, match="unknown tree 'el'; did you mean 'elm'"):
        check_choice("tree", "el", ("elm", "oak"))


def test_an_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)
