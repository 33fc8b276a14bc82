"""Verdicts in L-inf, column by column of their files, against those that were stored before there were other norms."""

import json

import pytest

from tests.stored.linf_verdicts import EPS, FILE, trained, verdicts


@pytest.fixture(scope="module")
def stored():
    return json.loads(FILE.read_text())


def test_every_verdict_in_l_inf_is_as_before_there_were_other_norms(stored):
    found = verdicts()
    assert found.keys() == stored.keys()
    for suite, columns in stored.items():
        assert list(found[suite]) == list(columns), suite
        for name, values in columns.items():
            assert found[suite][name] == values, (suite, name)


def test_what_is_stored_tells_attacks_apart(stored):
    model, x, y = trained()
    clean = int((model(x).argmax(1) == y).sum())
    for suite, columns in stored.items():
        assert sum(columns["clean_correct"]) == clean
        assert 0 < sum(columns["robust_correct"]) <= clean, suite
    fallen = [
        set(filter(None, columns[name])) for columns in stored.values() for name in columns if "broken_at" in name
    ]
    assert len(set.union(*fallen)) > 5, f"at {EPS:g} images fall at different steps"
