"""Search spaces: parameters with ranges and conditions. Pure data, no imports of ray or torch."""

import importlib
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

from bat_core.errors import InputError, unknown_name

Value: TypeAlias = float | int | str | bool
Point: TypeAlias = dict[str, Value]
Kind: TypeAlias = Literal["float", "integer", "choice"]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a space.

    A "float" or "integer" is in [low, high], on a logarithmic scale if `log`; a "choice" is one of `options`. The
    parameter applies only if every parameter in `when` has one of the listed values. `field_path` is the field of a
    trial that it sets; `default` is the paper's value. With `unit` "pixel", bounds are multiples of the data set's
    pixel until `Space.at` converts them to [0, 1].
    """

    name: str
    kind: Kind
    description: str = field(metadata={"key": "says"})
    field_path: str = field(default="", metadata={"key": "where"})
    default: Value = field(metadata={"key": "usual"})
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    unit: str = ""
    options: tuple[Value, ...] = ()
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def applies(self, point: Mapping[str, Value]) -> bool:
        """Whether this parameter applies to a partial point."""
        return all(point.get(name) in values for name, values in self.when.items())

    def admits(self, value: Value) -> bool:
        """Whether the value is in the parameter's range."""
        if self.kind == "choice":
            return value in self.options
        return is_number(value) and self.low <= float(value) <= self.high

    def condition(self) -> str:
        """The condition as text."""
        return " and ".join(f"{name} = {' or '.join(map(show_value, values))}" for name, values in self.when.items())

    def fixed_value(self) -> Value | None:
        """The only possible value, or None if the parameter varies."""
        if self.kind == "choice":
            return self.options[0] if len(self.options) == 1 else None
        if self.low < self.high:
            return None
        return round(self.low) if self.kind == "integer" else self.low

    def bounds(self) -> str:
        """The range as text."""
        if self.kind == "choice":
            return ", ".join(map(show_value, self.options))
        unit = f" {self.unit}s" if self.unit else ""
        return f"{self.low:.6g} to {self.high:.6g}{unit}"


@dataclass(frozen=True, kw_only=True)
class Space:
    """Parameters in sampling order: a condition may only refer to earlier parameters.

    `fixed` are trial fields that the whole space sets. `forms` are templates that build a field from several
    parameters, one template per value of the parameter that sets the field.
    """

    name: str
    description: str = field(metadata={"key": "says"})
    parameters: tuple[Parameter, ...]
    fixed: Mapping[str, Value] = field(default_factory=dict)
    forms: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known: dict[str, Parameter] = {}
        for parameter in self.parameters:
            if parameter.name in known:
                raise InputError(f"space {self.name!r}: duplicate parameter {parameter.name!r}")
            _check(parameter, known, self.name)
            known[parameter.name] = parameter

    def __getitem__(self, name: str) -> Parameter:
        """The parameter called `name`.

        Raises:
            InputError: unknown name.
        """
        names = {parameter.name: parameter for parameter in self.parameters}
        if name not in names:
            raise unknown_name("parameter", name, names)
        return names[name]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all parameters."""
        return tuple(parameter.name for parameter in self.parameters)

    def at(self, pixel: float) -> "Space":
        """The space with all pixel amounts converted to [0, 1], for images with this `pixel`."""
        return replace(self, parameters=tuple(_in_unit_range(parameter, pixel) for parameter in self.parameters))

    def describe(self) -> list[str]:
        """One line per parameter. Two spaces are equal if their lines are."""
        lines = []
        for parameter in self.parameters:
            scale = ", log" if parameter.log else ""
            when = f", if {parameter.condition()}" if parameter.when else ""
            lines.append(f"{parameter.name}: {parameter.kind}, {parameter.bounds()}{scale}{when}")
        return lines

    def default_point(self) -> Point:
        """The paper's values, each moved into the space's range if necessary."""
        point: Point = {}
        for parameter in self.parameters:
            if parameter.applies(point):
                point[parameter.name] = _nearest(parameter)
        return point


def compose(spaces: Sequence[Space]) -> Space:
    """Combine several spaces into one with all their parameters.

    Raises:
        InputError: two spaces share a parameter or a field, or `spaces` is empty.
    """
    if not spaces:
        raise InputError("no search space: give at least one --space")
    if len(spaces) == 1:
        return spaces[0]
    fields: dict[str, str] = {}
    for space in spaces:
        for parameter in space.parameters:
            for taken in filter(None, {parameter.field_path, parameter.name}):
                if (other := fields.setdefault(taken, space.name)) != space.name:
                    raise InputError(f"spaces {other!r} and {space.name!r} both vary {taken!r}: leave one of them out")
    return Space(
        name="+".join(space.name for space in spaces),
        description="; ".join(space.description for space in spaces),
        parameters=tuple(parameter for space in spaces for parameter in space.parameters),
        fixed={name: value for space in spaces for name, value in space.fixed.items()},
        forms={name: forms for space in spaces for name, forms in space.forms.items()},
    )


def get_space(name: str) -> Space:
    """The space called `name`: the constant SPACE of the module with that name in this package.

    Raises:
        InputError: unknown name.
    """
    names = space_names()
    if name not in names:
        raise unknown_name("space", name, names)
    space = importlib.import_module(f"search_spaces.{name}").SPACE
    assert isinstance(space, Space)
    return space


def space_names() -> tuple[str, ...]:
    """Every space's name, sorted. A new file in this package adds a space."""
    package = importlib.import_module("search_spaces")
    helpers = {"base", "encoding", "narrowing"}
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in helpers))


def is_number(value: object) -> bool:
    """Whether it is a finite int or float. Bools are not numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def show_value(value: Value) -> str:
    """A value as written on the command line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _check(parameter: Parameter, known: Mapping[str, Parameter], space: str) -> None:
    where = f"space {space!r}, parameter {parameter.name!r}"
    for name, values in parameter.when.items():
        if name not in known:
            raise InputError(f"{where}: its condition refers to {name!r}, which must come before it in the space")
        if not values or not all(known[name].kind != "choice" or known[name].admits(value) for value in values):
            raise InputError(f"{where}: its condition on {name!r} is never true: {name} is {known[name].bounds()}")
    if parameter.kind == "choice":
        if not parameter.options:
            raise InputError(f"{where}: a choice needs at least one option")
        return
    if not (math.isfinite(parameter.low) and math.isfinite(parameter.high)) or parameter.low > parameter.high:
        raise InputError(f"{where}: the range from {parameter.low:g} to {parameter.high:g} is empty")
    if parameter.log and parameter.low <= 0:
        raise InputError(f"{where}: a logarithmic range must start above 0, not at {parameter.low:g}")


def _in_unit_range(parameter: Parameter, pixel: float) -> Parameter:
    if parameter.unit != "pixel":
        return parameter
    assert is_number(parameter.default)
    return replace(
        parameter,
        low=parameter.low * pixel,
        high=parameter.high * pixel,
        default=float(parameter.default) * pixel,
        unit="",
    )


def _nearest(parameter: Parameter) -> Value:
    """The paper's value, or the closest one in the parameter's range."""
    if parameter.kind == "choice":
        return parameter.default if parameter.default in parameter.options else parameter.options[0]
    assert is_number(parameter.default)
    value = min(max(float(parameter.default), parameter.low), parameter.high)
    return round(value) if parameter.kind == "integer" else value
