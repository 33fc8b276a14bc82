"""Reads the imports of the project's files."""

import ast
import functools
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORE_MAY = {"torch", "torchvision", "numpy", "pyarrow", "bat_core"}


@functools.cache
def tree(path):
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def sources(*folders):
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def absolute_names(path, node):
    """The modules that one import statement names, relative ones resolved."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    package = Path(path).parent.parts
    base = package[: len(package) - node.level + 1] if node.level else ()
    return {".".join([*base, node.module] if node.module else base)}


def imported(path, *, nested=True):
    """Top-level packages that a file imports; without `nested`, only those imported as the module is."""
    nodes = ast.walk(tree(path)) if nested else iter(tree(path).body)
    statements = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name.split(".")[0] for node in statements for name in absolute_names(path, node)}


def foreign(names):
    return names - set(sys.stdlib_module_names)
