"""What the command line accepts by name, each with the first sentence of what its author wrote about it."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any


def described_names(kind: str) -> list[tuple[str, str]]:
    """(name, one line) of each recipe, model, dataset, attack, suite or space, sorted by name."""
    return _KINDS[kind]()


def first_sentence(item: Any) -> str:
    """The first sentence of a docstring, in one line, without its full stop; empty if there is none."""
    document = inspect.getdoc(item) or ""
    paragraph = " ".join(document.partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence if stop else paragraph.removesuffix(".")


def _registered(registry: Any) -> list[tuple[str, str]]:
    listed = {name: first_sentence(registry.find(name)[0]) for name in registry.names()}
    families = {form: first_sentence(resolve) for form, resolve in registry.open_families().items()}
    return [*sorted(listed.items()), *sorted(families.items())]


def _recipes() -> list[tuple[str, str]]:
    from bat_core.recipes import RECIPES

    return _registered(RECIPES)


def _models() -> list[tuple[str, str]]:
    from bat_core.models.base import MODELS

    return _registered(MODELS)


def _datasets() -> list[tuple[str, str]]:
    from bat_core.data.base import DATASETS

    return _registered(DATASETS)


def _attacks() -> list[tuple[str, str]]:
    from bat_core.attacks.base import ATTACKS

    return _registered(ATTACKS)


def _suites() -> list[tuple[str, str]]:
    from bat_core.suites import get_suite, suite_names

    return [(name, _suite_line(get_suite(name, eps=8 / 255))) for name in suite_names()]


def _suite_line(suite: Any) -> str:
    attacks = _several(heading for entry in suite.entries for heading, _ in entry.readings())
    verified = f"verified by {suite.verified_by}" if suite.verified_by else "not verified"
    on = f", on {suite.subset:,} images" if suite.subset else ""
    return f"{attacks}; {verified}{on}"


def _several(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every if len(every) <= 8 else [*every[:4], "...", every[-1]])


def _spaces() -> list[tuple[str, str]]:
    from search_spaces.base import get_space, space_names

    return [(name, get_space(name).description) for name in space_names()]


_KINDS: dict[str, Callable[[], list[tuple[str, str]]]] = {
    "recipes": _recipes,
    "models": _models,
    "datasets": _datasets,
    "attacks": _attacks,
    "suites": _suites,
    "spaces": _spaces,
}
