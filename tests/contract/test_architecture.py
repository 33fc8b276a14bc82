"""Who may import whom, read from the imports themselves; and what no committed file may hold."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE_MAY = {"torch", "torchvision", "numpy", "pyarrow", "bat_core"}
CORE_MAY_ALSO = {
    "bat_core/adapter/state_dicts.py": {"safetensors"},
    "bat_core/attacks/autoattack.py": {"pyautoattack"},
    "bat_core/checkpoint.py": {"safetensors"},
    "bat_core/data/digits.py": {"sklearn"},
    "bat_core/models/from_timm.py": {"timm"},
    **{f"bat_core/data/{name}.py": {"PIL"} for name in ("decoding", "files", "parquet", "parquet_folder")},
}
PLATFORM_IN = {"ray": {"ray_backend/"}, "mlflow": {"tracking/", "mlflow_model.py"}, "optuna": {"search/"}}
PLATFORM = set(PLATFORM_IN)
ROOMS = (  # of the engine, from the bottom to the top
    *("storage", "sweep", "cli", "tracking", "ray_backend", "driver", "evaluation", "transfer", "paper", "search"),
)
WEIGHTS_ONLY = "torch.load(weights_only=True)"  # builds tensors and runs nothing
# --weights: a state_dict that torch.save wrote
MAY_READ_PICKLES = {"bat_core/adapter/state_dicts.py": {WEIGHTS_ONLY}}
RUNS_WHAT_IT_READS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load",
    "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "torch.load", "pandas.read_pickle",
    "pd.read_pickle", "np.load", "numpy.load", "torch.jit.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load",
    "ray.cloudpickle.loads", "mlflow.pyfunc.load_model", "mlflow.pytorch.load_model", "scipy.io.loadmat", "eval",
    "exec",
}  # fmt: skip
PICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}  # not imported at all


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
        ("bat_core/models/from_timm.py", "timm"),
    ],
)
def test_a_package_that_few_need_is_imported_only_when_it_is_asked_for(path, package):
    assert package in imported(path)
    assert package not in imported(path, nested=False)


def installed_with(requirements):
    """The top-level modules of these distributions and of all that they require."""
    found, waiting = set(), list(requirements)
    while waiting:
        name = re.split(r"[^\w.-]", waiting.pop(), maxsplit=1)[0].lower().replace("_", "-")
        if name not in found:
            found.add(name)
            try:
                needed = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:  # for another system
                continue
            waiting += [one for one in needed if "extra ==" not in one]
    owners = importlib.metadata.packages_distributions()
    return {module for module, names in owners.items() if found & {name.lower().replace("_", "-") for name in names}}


def test_the_core_runs_where_only_its_own_needs_are_installed():
    """As `pip install bat-sweeps` without an extra: every other package is made to be missing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    allowed = installed_with(project["dependencies"]) | {"bat_core"}
    assert allowed >= CORE_MAY | {"safetensors", "PIL"}
    assert not allowed & {
        "ray",
        "optuna",
        "mlflow",
        "sklearn",
        "scipy",
        "pandas",
        "matplotlib",
        "pyautoattack",
        "sweeps",
    }
    missing = set(importlib.metadata.packages_distributions()) - allowed | {"sweeps", "search_spaces"}
    program = f"""
import pkgutil, sys
for name in {sorted(missing)}: sys.modules[name] = None
import bat_core
for module in pkgutil.walk_packages(bat_core.__path__, "bat_core."): __import__(module.name)
import torch
from bat_core.attacks import ATTACKS, pgd
from bat_core.data import dataset_names, load_dataset
from bat_core.errors import InputError
from bat_core.evaluate import evaluate
from bat_core.models import build_model, model_names
from bat_core.recipes import recipe_names
from bat_core.suites import SUITES, get_suite
assert all(get_suite(name, eps=0.1).entries for name in SUITES)
assert ATTACKS.names() and dataset_names() and model_names() and recipe_names()
model = build_model("small_cnn_4", num_classes=5, image_shape=(1, 8, 8)).eval()
images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
labels = model(images / 255).argmax(1)
evaluate(model, images, labels, attack=get_suite("quick", eps=0.1))
for act, extra in (
    (lambda: load_dataset("digits"), "platform"),
    (lambda: evaluate(model, images, labels, attack=get_suite("standard", eps=0.1)), "autoattack"),
):
    try:
        act()
    except InputError as error:
        assert f"pip install 'bat-sweeps[{{extra}}]'" in str(error), error
    else:
        raise AssertionError(extra)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_command_without_its_packages_names_the_extra_that_has_them():
    for missing in ("cyclopts", "ray"):
        program = f"import sys; sys.modules[{missing!r}] = None; import sweeps.search"
        done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == (
            f"error: the commands need the extra 'platform', of which {missing} cannot be found:"
            " pip install 'bat-sweeps[platform]'\n"
        )


def test_every_package_that_is_imported_is_declared():
    """pip installs what is declared; what another package happens to bring may go with its next version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    owners = importlib.metadata.packages_distributions()

    def declared(requirements):
        names = {re.split(r"[^\w.-]", one, maxsplit=1)[0].lower() for one in requirements}
        return names | {module for module, found in owners.items() if names & {name.lower() for name in found}}

    core = declared(project["dependencies"])
    extras = project["optional-dependencies"]
    every = core | declared(one for name in extras if name != "all" for one in extras[name])
    ours = {"bat_core", "search_spaces", "sweeps"}
    assert {n for path in sources("bat_core") for n in foreign(imported(path, nested=False))} - ours <= core
    assert {n for path in sources("sweeps", "bat_core") for n in foreign(imported(path))} - ours <= every


def test_a_scripts_own_folder_is_off_the_import_path():
    """`import evaluate` in a user's module means the user's or a library's, not the script."""
    program = """
import sys
assert sys.path[0].endswith("sweeps")
import sweeps
assert not [entry for entry in sys.path if entry.endswith("sweeps")]
"""
    for folder in ("sweeps", "tests/../sweeps"):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}){program}"],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


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


def dotted(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def reads_weights_only(node):
    if not isinstance(node, ast.Call) or dotted(node.func) != "torch.load":
        return False
    given = {keyword.arg: keyword.value for keyword in node.keywords}.get("weights_only")
    return isinstance(given, ast.Constant) and given.value is True


def unpickles(path):
    """Names in a file that run what they read, and keywords that allow it."""
    restricted = {id(node.func) for node in ast.walk(tree(path)) if reads_weights_only(node)}
    found = {WEIGHTS_ONLY} if restricted else set()
    for node in ast.walk(tree(path)):
        if id(node) not in restricted and dotted(node) in RUNS_WHAT_IT_READS:
            found.add(dotted(node))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & RUNS_WHAT_IT_READS
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.add("allow_pickle")
    return found | (imported(path) & PICKLERS)


def test_nothing_unpickles_but_the_restricted_readers():
    found = {path: unpickles(path) for path in sources("bat_core", "search_spaces", "sweeps", "benchmarks")}
    assert {path: names for path, names in found.items() if names} == MAY_READ_PICKLES


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("import pickle", {"pickle"}),
        ("from joblib import load", {"joblib", "joblib.load"}),
        ("torch.load(path)", {"torch.load"}),
        ("torch.load(path, weights_only=False)", {"torch.load"}),
        ("torch.load(path, weights_only=True)", {WEIGHTS_ONLY}),
        ("np.load(path, allow_pickle=True)", {"np.load", "allow_pickle"}),
        ("mlflow.pyfunc.load_model(uri)", {"mlflow.pyfunc.load_model"}),
        ("model.eval()", set()),
    ],
)
def test_what_unpickles_is_seen(tmp_path, written, named):
    (tmp_path / "x.py").write_text(written)
    assert unpickles(str(tmp_path / "x.py")) == named


def committed():
    """Files that git tracks, and those that it would."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


HOMES = "|".join(["work", "home", "root", "Users"])
CLOUD_LOGIN = "home/ubuntu/"  # what the cluster file's example has on any machine
MACHINE_PATH = re.compile(rf"(?<![\w.$}}~/<-])/(?!{CLOUD_LOGIN})(?:{HOMES})/\w[^\s'\"`]*|\b[A-Z]:\\\\?Users\b")


def test_no_committed_text_holds_a_path_of_a_machine():
    found = []
    for path in committed():
        content = path.read_bytes()
        if b"\0" in content:
            continue
        text = content.decode("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MACHINE_PATH.finditer(text)]
    assert found == []


HEAVY = {"torch", "torchvision", "numpy", "pyarrow", "ray", "mlflow", "optuna", "matplotlib", "pandas", "sklearn"}


def test_a_command_answers_help_without_importing_what_takes_seconds():
    program = f"""
import contextlib, io, runpy, sys
from pathlib import Path
for script in sorted(Path("sweeps").glob("*.py")):
    if script.stem == "__init__":
        continue
    sys.argv = [str(script), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        runpy.run_path(str(script), run_name="__main__")
    assert "Usage" in shown.getvalue(), script
    loaded = {HEAVY!r} & set(sys.modules)
    assert not loaded, (script, loaded)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
