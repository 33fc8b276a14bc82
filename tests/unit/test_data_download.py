"""--download, as far as it goes without a network."""

import urllib.error

import pytest

from bat_core.data import load_dataset
from bat_core.errors import InputError


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "mnist", "fashion_mnist"])
def test_a_download_that_fails_is_told_in_one_line(name, tmp_path, monkeypatch):
    asked = []

    def refuse(*arguments, **_):
        asked.append(arguments)
        raise urllib.error.URLError("no route")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(InputError) as caught:
        load_dataset(name, tmp_path / "data", download=True)
    assert asked
    assert str(caught.value).startswith("cannot download ")
    assert str(tmp_path / "data") in str(caught.value)
    assert "add --download" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_is_fetched_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", pytest.fail)
    (tmp_path / "something").touch()
    with pytest.raises(InputError, match="or add --download"):
        load_dataset("cifar10", tmp_path)
