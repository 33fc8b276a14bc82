"""An evaluation's folder names code that is imported; a stranger's folder does not get it run."""

import json

import pytest

from bat_core.adapter import importing
from bat_core.errors import InputError
from sweeps.engine.evaluation.attack import SPEC, EvaluationFolder
from tests.engine.evaluation.evaluations import evaluation


def test_code_that_a_folder_names_is_run_only_if_its_user_named_it(tmp_path, monkeypatch):
    place = EvaluationFolder(tmp_path / "evaluation")
    place.create(evaluation("net"))
    place.load().check_code(place.path, (), "evaluation")
    content = json.loads((place.path / SPEC).read_text())
    content["models"][0]["source"]["factory"] = "evil:run"
    (place.path / SPEC).write_text(json.dumps(content))
    with pytest.raises(InputError, match="imports and runs 'evil:run', and nothing shows that you named it"):
        place.load().check_code(place.path, (), "evaluation")
    place.load().check_code(place.path, ("evil:run",), "evaluation")
    place.load().check_code(place.path, (), "evaluation")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-user"))
    with pytest.raises(InputError, match="nothing shows that you named it"):
        place.load().check_code(place.path, (), "evaluation")


def test_the_command_refuses_before_anything_is_imported(tmp_path, monkeypatch):
    from tests.engine.evaluation.evaluations import resume

    place = EvaluationFolder(tmp_path / "evaluation")
    place.create(evaluation("net"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-user"))
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"{name} was imported"))
    with pytest.raises(InputError, match="nothing shows that you named it"):
        resume(place.path)


def test_a_command_imports_only_what_its_user_named():
    with importing.only_named(["json:loads"]):
        assert importing.import_object("json:loads", what="x") is json.loads
        with pytest.raises(InputError, match=r"json:dumps is code that a file names.*set BAT_SWEEPS_CODE=json:dumps"):
            importing.import_object("json:dumps", what="x")
        importing.allow(["json:dumps"])
        assert importing.import_object("json:dumps", what="x") is json.dumps
    assert importing.import_object("json:load", what="x") is json.load
