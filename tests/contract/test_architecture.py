"""Who may import whom, read from the imports themselves."""

import ast
import functools
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from tests.contract.imports import CORE_MAY, ROOT, absolute_names, foreign, imported, sources, tree

CORE_MAY_ALSO = {
    "bat_core/adapter/state_dicts.py": {"safetensors"},
    "bat_core/attacks/autoattack.py": {"pyautoattack"},
    "bat_core/checkpoint.py": {"safetensors"},
    "bat_core/data/corrupted.py": {"imagecorruptions"},
    "bat_core/data/digits.py": {"sklearn"},
    "bat_core/models/from_timm.py": {"timm"},
    "bat_core/gallery.py": {"PIL"},
    **{f"bat_core/data/{name}.py": {"PIL"} for name in ("decoding", "files", "parquet", "parquet_folder")},
}
PLATFORM_IN = {"ray": {"ray_backend/"}, "mlflow": {"tracking/", "mlflow_model.py"}, "optuna": {"search/"}}
PLATFORM = set(PLATFORM_IN)
ROOMS = (  # of the engine, from the bottom to the top
    *("storage", "sweep", "cli", "pages", "tracking", "ray_backend", "driver"),
    *("evaluation", "transfer", "paper", "search"),
)


def test_there_is_something_to_read():
    assert "bat_core/fit.py" in sources("bat_core")
    assert imported("bat_core/fit.py") >= {"torch", "bat_core", "time"}


def test_the_core_imports_only_what_it_may():
    too_much = {
        path: foreign(imported(path)) - CORE_MAY - CORE_MAY_ALSO.get(path, set()) for path in sources("bat_core")
    }
    assert {path: names for path, names in too_much.items() if names} == {}


@pytest.mark.parametrize(
    ("path", "package"),
    [
        ("bat_core/data/digits.py", "sklearn"),
        ("bat_core/attacks/autoattack.py", "pyautoattack"),
        ("bat_core/data/corrupted.py", "imagecorruptions"),
        ("bat_core/models/from_timm.py", "timm"),
    ],
)
def test_a_package_that_few_need_is_imported_only_when_it_is_asked_for(path, package):
    assert package in imported(path)
    assert package not in imported(path, nested=False)


def test_search_spaces_are_pure_data():
    assert importers(sources("search_spaces"), {*PLATFORM, "torch", "torchvision"}) == []


def test_nothing_imports_sweeps():
    assert importers(sources("bat_core", "search_spaces"), {"sweeps"}) == []


def importers(paths, packages):
    """The files among `paths` that import one of those packages, anywhere in them."""
    return [path for path in paths if imported(path) & packages]


def test_the_platform_is_named_in_a_room_of_its_own_each():
    for package, rooms in PLATFORM_IN.items():
        allowed = tuple(f"sweeps/engine/{room}" for room in rooms)
        assert [path for path in importers(sources("sweeps"), {package}) if not path.startswith(allowed)] == [], package


def private_modules_of_ray(path):
    """The modules of Ray that a file imports and that Ray does not promise to keep."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            inner = {alias.name for alias in node.names if isinstance(node, ast.ImportFrom)} or {""}
            for module in absolute_names(path, node):
                parts = module.split(".")
                names = [*parts[1:], *(inner if len(parts) == 1 else ())]
                if parts[0] == "ray" and any(name.startswith("_") or name == "experimental" for name in names):
                    yield module


def test_rays_private_modules_are_those_that_its_pin_is_explained_by():
    """Each may change in any version of Ray, so none is added without a reason, and the pin goes with the last one."""
    files = sources("sweeps", "bat_core", "search_spaces")
    found = {module for path in files for module in private_modules_of_ray(path)}
    before, _, _ = (ROOT / "pyproject.toml").read_text().partition('"ray[default,train,tune]==')
    reason = before.rpartition("platform = [")[2]
    assert set(re.findall(r"ray\.[\w.]+\w", reason)) == found


def test_no_file_in_sweeps_shadows_a_module():
    """A script's own folder comes first on sys.path."""
    taken = {*sys.stdlib_module_names, *importlib.metadata.packages_distributions()} - {"sweeps"}
    assert {path.stem for path in (ROOT / "sweeps").glob("*.py")} & taken == set()


@functools.cache
def modules():
    """The project's modules, by their dotted names, and their files."""
    named = {}
    for path in sources("bat_core", "search_spaces", "sweeps"):
        parts = Path(path).with_suffix("").parts
        named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return named


def needs(name):
    """The project's modules that a module imports, anywhere in it, be it for types alone."""
    found, path = set(), modules()[name]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for base in absolute_names(path, node):
                found.add(base)
                if isinstance(node, ast.ImportFrom):
                    found |= {f"{base}.{alias.name}" for alias in node.names}
    return found & modules().keys() - {name}


def room(module):
    """The room of the engine that a module lies in; None for what lies in none."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["sweeps", "engine"] and len(parts) > 2 else None


def test_the_rooms_are_known():
    found = {path.parent.name for path in (ROOT / "sweeps" / "engine").glob("*/__init__.py")}
    assert found == set(ROOMS)


def test_a_room_imports_only_rooms_below_it():
    upward = [
        f"{module} imports {other}"
        for module in modules()
        for other in needs(module)
        if room(module) in ROOMS and room(other) not in {room(module), None, *ROOMS[: ROOMS.index(room(module))]}
    ]
    assert upward == []


def test_what_is_stored_in_every_logged_model_stands_alone():
    """MLflow imports it by its dotted path where none of the engine's rooms need be usable."""
    assert {name for name in needs("sweeps.engine.mlflow_model") if room(name)} == set()


def circles(graph):
    """Groups of modules that import one another, each found by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(one):
        index[one] = low[one] = len(index)
        stack.append(one)
        for other in graph[one]:
            if other not in index:
                visit(other)
                low[one] = min(low[one], low[other])
            elif other in stack:
                low[one] = min(low[one], index[other])
        if low[one] == index[one]:
            group = stack[stack.index(one) :]
            del stack[stack.index(one) :]
            found.extend([sorted(group)] if len(group) > 1 else [])

    for one in graph:
        if one not in index:
            visit(one)
    return found


def test_no_modules_import_one_another_in_a_circle():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}) == [["b", "c"]]
    graph = {name: needs(name) for name in modules()}
    assert graph["bat_core.fit"] >= {"bat_core.config", "bat_core.attacks"}
    assert circles(graph) == []


MOST_PARAMETERS = 6


def parameters(function):
    """How many have a name of their own, without self."""
    given = function.args
    named = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    return len(named) - (bool(named) and named[0].arg in {"self", "cls"})


def test_no_function_of_a_sweep_takes_a_train_of_parameters():
    functions = [
        (f"{path}:{node.name}", parameters(node))
        for path in sources("sweeps")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [(name, count) for name, count in functions if count > MOST_PARAMETERS] == []
