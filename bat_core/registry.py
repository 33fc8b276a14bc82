"""Registries that discover components by name. A new file in the package is enough; there is no list to edit."""

import importlib
import pkgutil
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from bat_core.errors import unknown_name

T = TypeVar("T")


@dataclass(frozen=True)
class Registration(Generic[T]):
    """The item registered under one name, or under one family of names that follow a pattern."""

    item: T
    pattern: re.Pattern[str]
    form: str


@dataclass
class Registry(Generic[T]):
    """The registered items of one kind. The first look-up imports every module of `package` once.

    `kind` is the word that errors use. The modules of `package` register their items here.
    """

    kind: str
    package: str
    _entries: dict[str, Registration[T]] = field(default_factory=dict)
    _open: dict[str, tuple[re.Pattern[str], Callable[[str], T]]] = field(default_factory=dict)
    _importing: bool = False
    _discovered: bool = False

    def register(self, name: str, *, pattern: str | None = None, form: str = "") -> Callable[[T], T]:
        """Decorator that registers the decorated item under `name`.

        With `pattern`, a regular expression with named groups, the item serves a whole family of names. `form`
        describes the family to users, as in `wrn_<depth>_<width>`; `name` is then its default member.
        """

        def remember(item: T) -> T:
            if name in self._entries:
                raise RuntimeError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Registration(item, re.compile(pattern or re.escape(name)), form)
            return item

        return remember

    def register_open(self, form: str, *, pattern: str) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
        """Decorator that registers a function from a name to an item, for all names that match `pattern`.

        For names that refer to something outside this package, such as `package.module:factory`: they cannot be
        listed. `form` describes them to users. No name may match two patterns.
        """

        def remember(resolve: Callable[[str], T]) -> Callable[[str], T]:
            if form in self._open:
                raise RuntimeError(f"{self.kind} {form!r} is registered twice")
            self._open[form] = (re.compile(pattern), resolve)
            return resolve

        return remember

    def names(self) -> tuple[str, ...]:
        """All names, sorted. A family is listed by its default member, and an open family not at all."""
        self._discover()
        return tuple(sorted(self._entries))

    def open_families(self) -> dict[str, Callable[[str], T]]:
        """The functions that resolve the names of open families, by the form of those names."""
        self._discover()
        return {form: resolve for form, (_, resolve) in self._open.items()}

    def find(self, name: str) -> tuple[T, dict[str, str]]:
        """The item registered under `name`, and the values captured by its pattern's groups.

        Raises:
            InputError: the name is unknown, or an open family cannot resolve it.
        """
        self._discover()
        for entry in self._entries.values():
            if match := entry.pattern.fullmatch(name):
                return entry.item, {key: text for key, text in match.groupdict().items() if text is not None}
        for expression, resolve in self._open.values():
            if expression.fullmatch(name):
                return resolve(name), {}
        forms = ", ".join([*(entry.form for entry in self._entries.values() if entry.form), *self._open])
        raise unknown_name(self.kind, name, self._entries, forms=forms)

    def _discover(self) -> None:
        if self._discovered or self._importing:
            return
        self._importing = True
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._discovered = True
        finally:
            self._importing = False
