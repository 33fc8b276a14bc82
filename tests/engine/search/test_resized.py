"""What --resume changes in a search: what was typed, and nothing else."""

import pytest

from bat_core.errors import InputError
from sweeps.engine.search.options import SearchOptions, resized
from sweeps.engine.search.spec import Final
from tests.engine.search.trials import search_of

FINAL = Final(count=3, epochs=9, seeds=(5, 6), rule="robust-per-hour", registered_name="mine")


def resume(search, **given):
    return resized(search, SearchOptions(resume="folder", **given))


def test_nothing_given_changes_nothing():
    search = search_of(num_trials=1, max_hours=2.0, flat=3, final=FINAL)
    assert resume(search) == search


@pytest.mark.parametrize("count", [40, 2])
def test_the_number_of_trials_may_be_the_default(count):
    assert resume(search_of(num_trials=1), num_trials=count).num_trials == count


@pytest.mark.parametrize(
    ("given", "changed"),
    [
        ({"seeds": (0, 1, 2)}, {"seeds": (0, 1, 2)}),
        ({"rule": "knee"}, {"rule": "knee"}),
        ({"finalists": 2}, {"count": 2}),
        (
            {"finalists": 2, "final_epochs": 4, "register": "other"},
            {"count": 2, "epochs": 4, "registered_name": "other"},
        ),
    ],
)
def test_of_the_finalists_only_what_is_given_changes(given, changed):
    final = resume(search_of(final=FINAL), **given).final
    expected = {name: changed.get(name, getattr(FINAL, name)) for name in ("count", "epochs", "seeds", "rule")}
    assert {name: getattr(final, name) for name in expected} == expected
    assert final.registered_name == changed.get("registered_name", "mine")


def test_no_finalists_leaves_none():
    assert resume(search_of(final=FINAL), finalists=0).final is None
    assert resume(search_of(final=None), finalists=0).final is None


@pytest.mark.parametrize("given", [{"rule": "knee"}, {"seeds": (0, 1, 2)}])
def test_settings_of_finalists_that_do_not_exist_are_refused(given):
    with pytest.raises(InputError, match="applies to finalists, and this search has none: add --finalists"):
        resume(search_of(final=None), **given)
    with pytest.raises(InputError, match="applies to finalists, and --finalists 0 leaves none"):
        resume(search_of(final=FINAL), finalists=0, **given)


def test_finalists_of_a_search_that_had_none_have_the_defaults():
    final = resume(search_of(final=None), finalists=2).final
    assert (final.count, final.seeds, final.rule) == (2, (0, 1, 2), "knee")


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,), (2**63,)])
def test_seeds_of_finalists_are_checked_before_the_search(seeds):
    with pytest.raises(InputError, match="seed"):
        resume(search_of(final=FINAL), seeds=seeds)


@pytest.mark.parametrize("seed", [-1, 10**17, 2**63, 10**400])
def test_a_seed_whose_trials_would_have_none_is_refused(seed):
    with pytest.raises(InputError, match=r"^--seed="):
        SearchOptions(seed=seed).check()
    SearchOptions(seed=9 * 10**15).check()
