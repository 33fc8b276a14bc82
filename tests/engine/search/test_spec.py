import dataclasses
import json

import pytest

from bat_core.errors import InputError
from search_spaces.narrowing import narrow
from sweeps.engine.search.spec import SEARCH, Final, Halving, Search, differences, read_search
from sweeps.engine.sweep.folder import SweepFolder
from tests.engine.search.trials import SPACE, search_of

SEARCHES = [
    search_of(),
    search_of(sampler="tpe", max_hours=1.5, flat=7, halving=Halving(grace=2, factor=3), warm_start=("a", "b")),
    search_of(final=Final(count=3, epochs=None, seeds=(0, 1), rule="knee", registered_name="m")),
    search_of(halving=Halving(grace=2, factor=7, by="front", always=2, continues=True)),
    search_of(
        final=Final(count=3, epochs=9, seeds=(5,), rule="robust-at-clean>=90%", registered_name="m", by="expected")
    ),
    search_of(narrow(SPACE, fixed=["random_start=no", "eps=40/255"], ranges=["label=smooth,adversarial"])),
]


@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_is_read_as_it_was_written(tmp_path, search):
    folder = SweepFolder(tmp_path)
    search.write(folder)
    back = Search.read(folder)
    assert back == search
    assert back.space.default_point() == search.space.default_point()
    for mine, theirs in zip(search.space.parameters, back.space.parameters, strict=True):
        assert [type(option) for option in theirs.options] == [type(option) for option in mine.options]


def test_an_older_search_keeps_what_it_was_started_with(tmp_path):
    """Its rung keeps three and nothing continues, and its finalists are from the seen front."""
    final = Final(count=3, epochs=None, seeds=(0,), rule="knee", registered_name="m", by="expected")
    halving = Halving(grace=2, factor=7, by="front", always=2, continues=True)
    search_of(final=final, halving=halving).write(SweepFolder(tmp_path))
    told = json.loads((tmp_path / SEARCH).read_text())
    for part, names in (("halving", ("always", "continues")), ("final", ("by",))):
        for name in names:
            del told[part][name]
    (tmp_path / SEARCH).write_text(json.dumps(told))
    old = read_search(tmp_path)
    assert old.halving == Halving(grace=2, factor=7, by="front", always=3, continues=False)
    assert old.final == dataclasses.replace(final, by="seen")


def test_a_folder_without_a_search_says_so(tmp_path):
    with pytest.raises(InputError, match=r"is not a search folder: search.json is missing"):
        read_search(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not a valid search description"),
        ("[]", "must be a mapping"),
        ("{}", "missing"),
        ('{"objective": 3}', "objective=3 must be of type str"),
        ('{"goal": 3}', "Search has no field 'goal'"),
    ],
)
def test_a_description_that_is_damaged_says_so(tmp_path, text, message):
    (tmp_path / SEARCH).write_text(text)
    with pytest.raises(InputError) as caught:
        read_search(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def changed(space, name, **changes):
    parameters = [dataclasses.replace(p, **changes) if p.name == name else p for p in space.parameters]
    return dataclasses.replace(space, parameters=tuple(parameters))


@pytest.mark.parametrize(
    "other",
    [
        SPACE,
        narrow(SPACE, ranges=["eps=20/255:40/255", "label=smooth,adversarial"]),
        changed(SPACE, "lr", low=1e-4, high=10.0, default=1.0, log=False, description="something else"),
    ],
)
def test_spaces_of_other_bounds_mean_the_same(other):
    assert differences(SPACE, other) is None
    assert differences(other, SPACE) is None


ANOTHER = "it uses parameter {!r} for a different field or type"
MADRY = dataclasses.replace(SPACE, fixed={"recipe.name": "Madry"})


@pytest.mark.parametrize(
    ("other", "said", "said_back"),
    [
        (narrow(SPACE, fixed=["label=one-hot"]), "it lacks parameter 'beta'", "only it has parameter 'beta'"),
        (changed(SPACE, "lr", field_path="train.momentum"), ANOTHER.format("lr"), ANOTHER.format("lr")),
        (changed(SPACE, "num_steps", kind="float"), ANOTHER.format("num_steps"), ANOTHER.format("num_steps")),
        (MADRY, "it fixes {'recipe.name': 'Madry'}, and", "this search fixes {'recipe.name': 'Madry'}"),
    ],
)
def test_spaces_that_mean_something_else_differ(other, said, said_back):
    assert said in (differences(SPACE, other) or "")
    assert said_back in (differences(other, SPACE) or "")
