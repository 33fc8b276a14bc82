import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bat_core.errors import InputError
from bat_core.verdicts import SKIPPED, UNBROKEN, Outcome, Verdicts


def outcome(broken_at, steps=(), final=None):
    return Outcome(
        broken_at=np.array(broken_at),
        steps=steps,
        final=np.empty((len(broken_at), 0), dtype=np.bool_) if final is None else np.array(final),
    )


def hand_made(**changes):
    return Verdicts(
        **{
            "rows": np.array([3, 8, 9]),
            "labels": np.array([1, 0, 2]),
            "clean_correct": np.array([True, True, False]),
            "outcomes": {
                "ce": outcome([UNBROKEN, 3, 0], (1, 4), [[True, True], [True, False], [False, True]]),
                "fgsm": outcome([UNBROKEN, UNBROKEN, 0]),
                "apgd-t": outcome([7, SKIPPED, 0], (10,), [[False], [False], [False]]),
            },
            **changes,
        }
    )


def assert_same(one, other):
    for name in ("rows", "labels", "clean_correct"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert list(one.outcomes) == list(other.outcomes)
    for mine, its in zip(one.outcomes.values(), other.outcomes.values(), strict=True):
        assert mine.steps == its.steps
        for name in ("broken_at", "final"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(its, name))
            assert getattr(mine, name).dtype == getattr(its, name).dtype


def test_the_worst_case_is_taken_over_attacks_by_example():
    verdicts = hand_made()
    assert verdicts.robust_correct.tolist() == [False, False, False]
    assert verdicts.robust_acc == 0
    assert verdicts.clean_acc == pytest.approx(2 / 3)


def test_what_stands_after_the_first_attacks():
    active = [hand_made().robust_after(count).tolist() for count in range(4)]
    assert active == [[True, True, False], [True, False, False], [True, False, False], [False, False, False]]


def test_the_two_readings_of_a_curve():
    verdicts = hand_made()
    assert verdicts.curve("ce", "worst").tolist() == pytest.approx([2 / 3, 1 / 3])
    assert verdicts.curve("ce", "final").tolist() == pytest.approx([2 / 3, 2 / 3])


def test_an_example_that_was_spared_has_fallen():
    spared = hand_made().outcomes["apgd-t"]
    assert spared.robust.tolist() == [False, False, False]
    assert spared.curve("worst").tolist() == [0]
    assert outcome([SKIPPED, UNBROKEN], (1, 2), [[False, False], [True, True]]).curve("worst").tolist() == [0.5, 0.5]


def test_one_attack_more():
    verdicts = hand_made(outcomes={})
    more = verdicts.with_outcome("ce", hand_made().outcomes["ce"]).with_outcome("fgsm", hand_made().outcomes["fgsm"])
    assert list(more.outcomes) == ["ce", "fgsm"]
    assert verdicts.outcomes == {}
    assert_same(more.without_outcomes(), verdicts)


@pytest.mark.parametrize(("name", "added"), [("ce", outcome([0, 0, 0])), ("cw", outcome([0, 0]))])
def test_an_attack_twice_or_on_other_examples_is_not_added(name, added):
    with pytest.raises(
        ValueError, match=rf"attack '{name}' with . examples cannot be added to 3 verdicts under \['ce', 'fgsm', "
    ):
        hand_made().with_outcome(name, added)


def test_some_of_the_examples():
    some = hand_made().take(np.array([2, 0]))
    assert some.rows.tolist() == [9, 3]
    assert some.outcomes["ce"].broken_at.tolist() == [0, UNBROKEN]
    assert some.outcomes["ce"].final.tolist() == [[False, True], [True, True]]


def test_parts_are_joined_in_the_order_of_their_rows():
    whole = hand_made()
    parts = [whole.take(np.array(positions)) for positions in ([2], [1, 0])]
    assert_same(Verdicts.concat(parts), whole)


def test_parts_of_different_attacks_or_of_the_same_examples_are_not_joined():
    whole = hand_made()
    elsewhere = {"rows": np.array([0, 1, 2])}
    fewer = hand_made(outcomes={"ce": whole.outcomes["ce"]}, **elsewhere)
    others = {**whole.outcomes, "ce": outcome([1, 1, 1], (1, 5), [[True, True]] * 3)}
    for part in (fewer, hand_made(outcomes=others, **elsewhere)):
        with pytest.raises(ValueError, match="different attacks or steps"):
            Verdicts.concat([whole, part])
    with pytest.raises(ValueError, match="duplicate rows"):
        Verdicts.concat([whole, whole])


def test_verdicts_survive_parquet(tmp_path):
    for number, verdicts in enumerate((hand_made(), hand_made(outcomes={}))):
        verdicts.write(tmp_path / f"{number}.parquet")
        assert_same(Verdicts.read(tmp_path / f"{number}.parquet"), verdicts)


def test_a_verdict_file_reads_without_this_project(tmp_path):
    hand_made().write(tmp_path / "v.parquet")
    table = pq.read_table(tmp_path / "v.parquet").to_pydict()
    assert list(table) == [
        "index", "label", "clean_correct", "robust_correct",
        "attacked_ce", "broken_at_ce", "final_ce_1", "final_ce_4",
        "attacked_fgsm", "broken_at_fgsm",
        "attacked_apgd-t", "broken_at_apgd-t", "final_apgd-t_10",
    ]  # fmt: skip
    assert table["index"] == [3, 8, 9]
    assert table["robust_correct"] == [False, False, False]
    assert table["broken_at_ce"] == [None, 3, 0]
    assert table["final_ce_4"] == [True, False, True]
    assert table["attacked_apgd-t"] == [True, False, True]
    assert table["broken_at_apgd-t"] == [7, None, 0]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-40])


def foreign(path):
    pq.write_table(pa.table({"index": [1]}), path)


def lacking_a_column(path):
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["attacked_ce"]), path)


def missing(path):
    path.unlink()


def of_other_values(name, values):
    """The column `name` as something else than numbers or truths, or with a gap."""

    def damage(path):
        table = pq.read_table(path)
        pq.write_table(table.set_column(table.column_names.index(name), name, pa.array(values)), path)

    return damage


OTHER_VALUES = [
    ("index", [0.5, 1.0, 2.0]),
    ("label", ["a", "b", "c"]),
    ("clean_correct", [True, None, False]),
    ("attacked_ce", [1, 2, 3]),
    ("broken_at_ce", [0.5, 1.0, 2.0]),
    ("final_ce_4", [True, None, True]),
]


@pytest.mark.parametrize(
    "damage", [truncated, foreign, lacking_a_column, missing, *(of_other_values(*one) for one in OTHER_VALUES)]
)
def test_a_file_that_holds_no_whole_verdicts(damage, tmp_path):
    path = tmp_path / "v.parquet"
    hand_made().write(path)
    damage(path)
    with pytest.raises(InputError, match=r"v\.parquet' is not a complete verdicts file"):
        Verdicts.read(path)


@pytest.mark.parametrize(
    ("labels", "right", "one_class"),
    [
        ([0, 1, 1, 2], [False, True, True, False], True),
        ([0, 1, 1, 2], [False, True, False, False], True),
        ([0, 1, 1, 2], [False] * 4, True),
        ([0, 1, 1, 2], [True, True, False, False], False),
        ([1, 1, 1, 1], [True] * 4, False),  # of one class alone nothing can be said
    ],
)
def test_a_model_that_is_right_on_one_class_alone_is_known_by_it(labels, right, one_class):
    made = Verdicts(rows=np.arange(4), labels=np.array(labels), clean_correct=np.array(right), outcomes={})
    assert made.one_class is one_class
