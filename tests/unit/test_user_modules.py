"""Which files of a user's go to the nodes of a cluster, and whether they have changed."""

import sys

import pytest

from bat_core.adapter import importing
from bat_core.adapter.importing import import_object
from bat_core.user_modules import changed_modules, import_roots, source_digests, user_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with modules, of which nothing stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importing, "imported", set())
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    known = set(sys.modules)
    (tmp_path / "single.py").write_text("import beside, json, numpy\nnet = len\n")
    (tmp_path / "beside.py").write_text("")
    (tmp_path / "other.py").write_text("")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "nets.py").write_text("net = len\n")
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_module_goes_with_those_beside_it_that_it_imports(folder):
    assert user_files() == {}
    import_object("single:net", what="it")
    assert user_files() == {"beside": folder / "beside.py", "single": folder / "single.py"}
    assert import_roots() == [folder]


def test_a_package_goes_as_a_folder_and_installed_ones_do_not(folder):
    import_object("package.nets:net", what="it")
    import_object("torchvision.models:resnet18", what="it")
    import_object("json:dumps", what="it")
    import_object("bat_core.models:build_model", what="it")
    assert user_files() == {"package": folder / "package"}


def test_a_change_anywhere_in_a_package_is_seen(folder):
    import_object("package.nets:net", what="it")
    before = source_digests()
    assert changed_modules(before, source_digests()) == []
    (folder / "package" / "new.py").write_text("x = 1\n")
    assert changed_modules(before, source_digests()) == ["package"]
    assert changed_modules({}, source_digests()) == []
