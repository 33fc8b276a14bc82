"""Points as vectors, and back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.base import compose, get_space
from search_spaces.encoding import Encoding
from search_spaces.narrowing import narrow

WHOLE = compose([get_space(name) for name in ("bat", "schedule", "model")]).at(5 / 255)
NARROW = narrow(WHOLE, fixed=["label=adversarial", "num_steps=2"], ranges=["beta=16:64"])


@pytest.mark.parametrize("space", [WHOLE, NARROW], ids=["whole", "narrow"])
@given(data=st.data())
def test_positions_lead_to_a_point_of_the_space_and_back(space, data):
    encoding = Encoding(space)
    number = len(encoding.choices)
    positions = data.draw(st.lists(st.floats(0, 1), min_size=number, max_size=number))
    point = encoding.point(positions)
    for parameter in space.parameters:
        assert (parameter.name in point) == parameter.applies(point)
        if parameter.name in point:
            assert parameter.admits(point[parameter.name])
            assert parameter.kind != "integer" or type(point[parameter.name]) is int
    again = encoding.point(encoding.positions(point))
    assert {name: pytest.approx(value) if isinstance(value, float) else value for name, value in point.items()} == again
    vector = encoding.vector(point)
    assert len(vector) == encoding.width
    assert all(-1e-9 <= coordinate <= 1 + 1e-9 for coordinate in vector)


@pytest.mark.parametrize("space", [WHOLE, NARROW], ids=["whole", "narrow"])
def test_many_vectors_are_those_of_their_points(space):
    encoding = Encoding(space)
    positions = np.random.default_rng(0).random((200, len(encoding.choices)))
    positions[0], positions[1] = 0.0, 1.0
    vectors = encoding.vectors(positions)
    assert vectors.shape == (200, encoding.width)
    assert vectors == pytest.approx(np.array([encoding.vector(encoding.point(row)) for row in positions]))


def test_two_options_are_one_unit_apart_and_what_does_not_apply_is_in_the_middle():
    encoding = Encoding(get_space("bat"))
    usual = get_space("bat").default_point()
    other = {name: value for name, value in usual.items() if name != "beta"} | {"label": "one-hot", "beta": 9.0}
    assert math.dist(encoding.vector(usual), encoding.vector(other)) == pytest.approx(1.0)
    least, most = (encoding.vector({**usual, "beta": beta}) for beta in (2.0, 128.0))
    without = encoding.vector({name: value for name, value in usual.items() if name != "beta"})
    assert math.dist(least, without) == pytest.approx(0.5)
    assert math.dist(most, without) == pytest.approx(0.5)


def test_every_integer_is_drawn_from_a_part_of_equal_width():
    encoding = Encoding(narrow(get_space("bat"), fixed=["label=one-hot", "eps=8", "rel_step_size=1", "target=mc",
                                                        "random_start=yes"]))  # fmt: skip
    drawn = [encoding.point([(at + 0.5) / 700])["num_steps"] for at in range(700)]
    assert [drawn.count(steps) for steps in range(1, 8)] == [100] * 7
