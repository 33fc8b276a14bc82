"""`package.module:factory`: a function, class or module of the user's own."""

from bat_core.adapter.importing import import_object
from bat_core.adapter.made import as_module
from bat_core.adapter.sources.base import PLAIN, SOURCES, Built, Source, Target


@SOURCES.register(PLAIN)
class Factories(Source):
    """Calls a factory without arguments; a factory may return a module, a class or a (model, ...) tuple."""

    form = "package.module:factory"
    seeded = False

    def title(self, name: str) -> str:
        return name.replace(":", ".")

    def load(self, name: str, target: Target | None) -> Built:  # noqa: ARG002
        what = f"model {name!r}"
        factory = import_object(name, what=what)
        return Built(module=as_module(factory, what=what))
