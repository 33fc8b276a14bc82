"""Points as vectors: numbers in [0, 1] for a model of a space, and points from such numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.base import Parameter, Point, Space, Value

Array = npt.NDArray[np.float64]

ABSENT = 0.5  # coordinate of a number that does not apply: the middle, which is nearest to all its values
ONE = math.sqrt(0.5)  # coordinate of the chosen option, so that two options are one unit apart
BELOW_ONE = 1 - 1e-12


class Encoding:
    """Translates the points of one space.

    A *vector* has one coordinate per free number, its place in its range on its own scale, in [0, 1], and one per
    option of a free choice. A number that does not apply is in the middle, and a choice that does not apply is at the
    origin. *Positions* are one number in [0, 1] per free parameter, of which every point is equally likely, on its
    scale, if they are uniform.
    """

    def __init__(self, space: Space) -> None:
        self._codes = [_Code(parameter) for parameter in space.parameters]
        self._known = {code.name: code for code in self._codes}
        self._free = [code for code in self._codes if code.only is None]
        self.choices = [code.parameter.kind == "choice" for code in self._free]
        self.width = sum(len(code.parameter.options) or 1 for code in self._free)

    def vector(self, point: Mapping[str, Value]) -> list[float]:
        """The coordinates of a point, `width` of them."""
        coordinates: list[float] = []
        for code in self._free:
            value = point.get(code.name)
            if code.parameter.kind == "choice":
                coordinates += [ONE if option is value or option == value else 0.0 for option in code.parameter.options]
            else:
                coordinates.append(ABSENT if value is None else code.place(float(value)))
        return coordinates

    def vectors(self, positions: Array) -> Array:
        """The (N, width) vectors of the points at (N, free parameters) positions."""
        rest = iter(np.clip(positions, 0.0, BELOW_ONE).T)
        values: dict[str, npt.NDArray[Any]] = {}  # an option's number for a choice, NaN where it does not apply
        columns: list[Array] = []
        for code in self._codes:
            column = np.zeros(len(positions)) if code.only is not None else next(rest)
            applies = np.ones(len(positions), bool)
            for name, wanted in code.parameter.when.items():
                applies &= np.isin(values[name], self._known[name].numbers(wanted))
            values[code.name] = found = np.where(applies, code.number(column), np.nan)
            if code.only is not None:
                continue
            if code.parameter.kind == "choice":
                columns += [np.where(found == at, ONE, 0.0) for at in range(len(code.parameter.options))]
            else:
                columns.append(np.where(applies, code.places(found), ABSENT))
        return np.column_stack(columns)

    def point(self, positions: Sequence[float]) -> Point:
        """The point at these positions. Positions of parameters that do not apply are ignored."""
        point: Point = {}
        rest = iter(positions)
        for code in self._codes:
            position = 0.0 if code.only is not None else next(rest)
            if not code.parameter.when or code.parameter.applies(point):
                point[code.name] = code.value(min(max(float(position), 0.0), BELOW_ONE))
        return point

    def positions(self, point: Mapping[str, Value]) -> list[float]:
        """Positions that lead to this point again; 0.5 for parameters that do not apply."""
        return [ABSENT if code.name not in point else code.position(point[code.name]) for code in self._free]


class _Code:
    """One parameter, its scale computed beforehand. An integer's bins all have the same width on its scale's range."""

    def __init__(self, parameter: Parameter) -> None:
        self.parameter, self.name, self.only = parameter, parameter.name, parameter.fixed_value()
        if parameter.kind == "choice" or self.only is not None:
            return
        half = 0.5 if parameter.kind == "integer" else 0.0
        self.low, self.high = self._scaled(parameter.low), self._scaled(parameter.high)
        self.left, self.right = self._scaled(parameter.low - half), self._scaled(parameter.high + half)

    def _scaled(self, value: float) -> float:
        return math.log(value) if self.parameter.log else value

    def place(self, value: float) -> float:
        return (self._scaled(value) - self.low) / (self.high - self.low)

    def places(self, values: Array) -> Array:
        """`place` of each value."""
        scaled = np.log(values) if self.parameter.log else values
        return np.asarray((scaled - self.low) / (self.high - self.low))

    def numbers(self, values: Sequence[Value]) -> list[float]:
        """Values as `number` gives them: options by their numbers."""
        if self.parameter.kind != "choice":
            return [float(value) for value in values]
        return [float(self.parameter.options.index(value)) for value in values if value in self.parameter.options]

    def number(self, positions: Array) -> Array:
        """`value` at each position, in [0, 1), as a number: a choice's is that of its option."""
        parameter = self.parameter
        if self.only is not None:
            return np.full(len(positions), self.numbers([self.only])[0])
        if parameter.kind == "choice":
            return np.floor(positions * len(parameter.options))
        scaled = self.left + positions * (self.right - self.left)
        number = np.exp(scaled) if parameter.log else scaled
        if parameter.kind == "integer":
            return np.clip(np.round(number), round(parameter.low), round(parameter.high))
        return np.clip(number, parameter.low, parameter.high)

    def position(self, value: Value) -> float:
        if self.parameter.kind == "choice":
            return (self.parameter.options.index(value) + 0.5) / len(self.parameter.options)
        return (self._scaled(float(value)) - self.left) / (self.right - self.left)

    def value(self, position: float) -> Value:
        parameter = self.parameter
        if self.only is not None:
            return self.only
        if parameter.kind == "choice":
            return parameter.options[int(position * len(parameter.options))]
        scaled = self.left + position * (self.right - self.left)
        number = math.exp(scaled) if parameter.log else scaled
        if parameter.kind == "integer":
            return min(max(round(number), round(parameter.low)), round(parameter.high))
        return min(max(number, parameter.low), parameter.high)
