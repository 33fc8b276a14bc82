"""Options that know which of them were given."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self, get_type_hints

from cyclopts import Parameter


@dataclass(frozen=True, kw_only=True)
class Options:
    """The base of a command's options.

    `given` names the options on the command line, or the arguments in Python. The parser passes only what was typed,
    so an option that was typed with its default value was given. `common` and `shared` say how --help shows the
    options that several commands have: those named in neither are the command's own, and come first.
    """

    common: ClassVar[tuple[str, ...]] = ()
    shared: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __new__(cls, *_: Any, **given: Any) -> Self:
        """Note which arguments are given, before the generated `__init__` fills in the defaults."""
        made = super().__new__(cls)
        object.__setattr__(made, "_given", frozenset(given))
        return made

    @property
    def given(self) -> tuple[str, ...]:
        """The fields that were given, in the order of their definition."""
        names: frozenset[str] = self.__dict__["_given"]
        return tuple(option.name for option in fields(self) if option.name in names)

    def with_defaults(self, **values: Any) -> Self:
        """A copy with other values for options that were not given, and which are not given in the copy either."""
        made = replace(self, **values)
        object.__setattr__(made, "_given", self.__dict__["_given"])
        return made

    def changed(self, **values: Any) -> Self:
        """A copy with other values, which count as given in it; an empty tuple counts as not given."""
        made = replace(self, **values)
        dropped = {name for name, value in values.items() if value == ()}
        object.__setattr__(made, "_given", (self.__dict__["_given"] | values.keys()) - dropped)
        return made

    @classmethod
    def flag(cls, option: str) -> str:
        """The command line's name of a field: --num-trials, --set."""
        metadata = getattr(get_type_hints(cls, include_extras=True)[option], "__metadata__", ())
        named = [name for one in metadata if isinstance(one, Parameter) for name in one.name or ()]
        return named[0] if named else "--" + option.replace("_", "-")


def options_of(main: Callable[..., int]) -> type[Options] | None:
    """The class of a command's options; None if it has none."""
    defaults = [parameter.default for parameter in inspect.signature(main).parameters.values()]
    return next((type(one) for one in defaults if isinstance(one, Options)), None)
