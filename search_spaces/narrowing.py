"""Narrows a space from the command line: `--set eps=4/255`, `--range beta=4:64`, `--range target=mc,ll`."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from bat_core.errors import InputError
from search_spaces.base import Kind, Parameter, Point, Space, Value, show_value

BOOLEANS = {"yes": True, "no": False, "true": True, "false": False}
ALIASES = {"eps_x": "eps"}  # the paper's notation


def narrow(space: Space, *, fixed: Sequence[str] = (), ranges: Sequence[str] = ()) -> Space:
    """Fix parameters of a space or restrict their ranges.

    A number may be fixed outside its range in the space; the trial then validates it.

    Args:
        space: with pixel amounts in [0, 1].
        fixed: entries name=value.
        ranges: entries name=low:high, or name=one,another for a choice.
    Raises:
        InputError: an unknown name, a value outside the space, a parameter that is narrowed twice, or one whose
            condition can no longer be true.
    """
    narrowed: dict[str, Parameter] = {}
    for option, entries in (("--set", fixed), ("--range", ranges)):
        for entry in entries:
            name, text = _split(option, entry)
            if name in narrowed:
                raise InputError(f"{option} {entry}: {name!r} is narrowed twice: give each parameter once")
            narrowed[name] = _narrowed(space[name], text, f"{option} {entry}", single=option == "--set")
    parameters: list[Parameter] = []
    for parameter in space.parameters:
        changed, impossible = _with_conditions(narrowed.get(parameter.name, parameter), parameters)
        if impossible is None:
            parameters.append(changed)
        elif parameter.name in narrowed:
            raise InputError(f"{parameter.name!r} is narrowed but cannot apply: {impossible}")
    return replace(space, parameters=tuple(parameters))


def parse_point(space: Space, values: Point) -> Point:
    """The values, converted to the types of the space."""
    return {name: _typed(space[name], value) for name, value in values.items()}


def _split(option: str, entry: str) -> tuple[str, str]:
    name, equals, text = entry.partition("=")
    if not (name and equals and text):
        form = "name=value" if option == "--set" else "name=low:high, or name=one,another"
        raise InputError(f"{option} {entry!r}: write {option} {form}")
    return ALIASES.get(name, name), text


def _narrowed(parameter: Parameter, text: str, where: str, *, single: bool) -> Parameter:
    if parameter.kind == "choice":
        parts = [text] if single else text.split(",")
        options = tuple(_option(parameter, part, where) for part in parts)
        if len(set(options)) < len(options):
            raise InputError(f"{where}: duplicate option: give each option once")
        return replace(parameter, options=options)
    low, colon, high = (text, ":", text) if single else text.partition(":")
    if not colon:
        raise InputError(f"{where}: write {parameter.name}=low:high")
    bounds = [_number(part, parameter.kind, where) for part in (low, high)]
    if bounds[0] > bounds[1]:
        raise InputError(f"{where}: the range is empty, {bounds[0]:g} is above {bounds[1]:g}")
    for bound in bounds:
        inside = parameter.low * (1 - 1e-9) <= bound <= parameter.high * (1 + 1e-9)
        if not (inside or single):
            raise InputError(f"{where}: {bound:.6g} is outside the space, {parameter.name} is {parameter.bounds()}")
    return replace(parameter, low=bounds[0], high=bounds[1], log=parameter.log and bounds[0] > 0)


def _with_conditions(parameter: Parameter, before: Sequence[Parameter]) -> tuple[Parameter, str | None]:
    """The parameter with the conditions that can still be true, or the reason why none can."""
    known = {other.name: other for other in before}
    left = {}
    for name, values in parameter.when.items():
        wanted = " or ".join(map(show_value, values))
        if name not in known:
            return parameter, f"it requires {name} = {wanted}"
        possible = tuple(value for value in values if known[name].admits(value))
        if not possible:
            return parameter, f"it requires {name} = {wanted}, but {name} is {known[name].bounds()}"
        left[name] = possible
    return replace(parameter, when=left), None


def _option(parameter: Parameter, text: str, where: str) -> Value:
    named = {show_value(option): option for option in parameter.options}
    truth = BOOLEANS.get(text.lower())
    if text not in named and truth in parameter.options and truth is not None:
        return truth
    if text not in named:
        raise InputError(f"{where}: {text!r} is outside the space, {parameter.name} is {parameter.bounds()}")
    return named[text]


def _number(text: str, kind: Kind, where: str) -> float:
    try:
        number = Fraction(text.replace(" ", ""))
        amount = float(number)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise InputError(f"{where}: {text!r} is not a number: write 9, 0.5 or 8/255") from None
    if kind == "integer" and number.denominator != 1:
        raise InputError(f"{where}: {text} is not an integer")
    return amount


def _typed(parameter: Parameter, value: Value) -> Value:
    if parameter.kind == "integer":
        return int(value)
    return float(value) if parameter.kind == "float" else value
