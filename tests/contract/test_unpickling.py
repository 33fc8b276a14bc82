"""No file of the project runs what it reads."""

import ast

import pytest

from tests.contract.imports import imported, sources, tree

WEIGHTS_ONLY = "torch.load(weights_only=True)"  # builds tensors and runs nothing
NO_OBJECTS = "np.load(allow_pickle=False)"  # raises if an array holds Python objects
# --weights: a state_dict that torch.save wrote
MAY_READ_PICKLES = {
    "bat_core/adapter/state_dicts.py": {WEIGHTS_ONLY},
    "bat_core/data/corrupted.py": {NO_OBJECTS},
}
RUNS_WHAT_IT_READS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load",
    "dill.loads", "joblib.load", "marshal.load", "marshal.loads", "shelve.open", "torch.load", "pandas.read_pickle",
    "pd.read_pickle", "np.load", "numpy.load", "torch.jit.load", "torch.hub.load", "yaml.load", "yaml.unsafe_load",
    "ray.cloudpickle.loads", "mlflow.pyfunc.load_model", "mlflow.pytorch.load_model", "scipy.io.loadmat", "eval",
    "exec",
}  # fmt: skip
PICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}  # not imported at all


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


def reads_no_objects(node):
    if not isinstance(node, ast.Call) or dotted(node.func) != "np.load":
        return False
    given = {keyword.arg: keyword.value for keyword in node.keywords}.get("allow_pickle")
    return isinstance(given, ast.Constant) and given.value is False


def unpickles(path):
    """Names in a file that run what they read, and keywords that allow it."""
    readers = {WEIGHTS_ONLY: reads_weights_only, NO_OBJECTS: reads_no_objects}
    calls = {name: [n for n in ast.walk(tree(path)) if reads(n)] for name, reads in readers.items()}
    found = {name for name, some in calls.items() if some}
    restricted = {id(node.func) for some in calls.values() for node in some}
    restricted |= {id(keyword) for node in calls[NO_OBJECTS] for keyword in node.keywords}
    for node in ast.walk(tree(path)):
        if id(node) not in restricted and dotted(node) in RUNS_WHAT_IT_READS:
            found.add(dotted(node))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} & RUNS_WHAT_IT_READS
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and id(node) not in restricted:
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
        ("np.load(path, allow_pickle=False)", {NO_OBJECTS}),
        ("np.load(path)", {"np.load"}),
        ("mlflow.pyfunc.load_model(uri)", {"mlflow.pyfunc.load_model"}),
        ("model.eval()", set()),
    ],
)
def test_what_unpickles_is_seen(tmp_path, written, named):
    (tmp_path / "x.py").write_text(written)
    assert unpickles(str(tmp_path / "x.py")) == named
