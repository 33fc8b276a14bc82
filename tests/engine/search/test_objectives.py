import pytest

from bat_core.errors import InputError
from sweeps.engine.search.objectives import MEASURES, check_rule, choose, get_objective
from sweeps.engine.search.spec import DEFAULT_OBJECTIVE, DEFAULT_RULE
from tests.engine.search.trials import score_of

SCORE = score_of(0.9, 0.5, pgd_acc=0.6, hours=0.25)
MASKED = score_of(0.9, 0.5, masked=True)
CONSTANT = score_of(0.9, 0.5, masking_status="suspect", flags=("one_class",))  # gives every image the same class


@pytest.mark.parametrize(
    ("name", "values", "directions"),
    [
        ("clean", [0.9], ["maximize"]),
        ("robust", [0.5], ["maximize"]),
        ("pgd", [0.6], ["maximize"]),
        ("robust-per-hour", [2.0], ["maximize"]),
        ("hours", [0.25], ["minimize"]),
        ("clean+robust", [0.9, 0.5], ["maximize", "maximize"]),
        ("robust+clean", [0.5, 0.9], ["maximize", "maximize"]),
        ("robust+hours", [0.5, 0.25], ["maximize", "minimize"]),
        ("clean+robust+hours", [0.9, 0.5, 0.25], ["maximize", "maximize", "minimize"]),
        ("robust-at-clean>=0.9", [0.5], ["maximize"]),
        ("robust-at-clean>=90%", [0.5], ["maximize"]),
    ],
)
def test_an_objective_says_what_it_aims_at(name, values, directions):
    objective = get_objective(name)
    assert objective.name == name
    assert objective.values(SCORE) == values
    assert objective.directions == directions


def test_the_defaults_are_among_the_known():
    assert len(get_objective(DEFAULT_OBJECTIVE).measures) == 2
    check_rule(DEFAULT_RULE)


@pytest.mark.parametrize("name", [*sorted(set(MEASURES) - {"pgd"}), "clean+robust", "robust-at-clean>=0.5"])
def test_a_trial_that_does_not_count_is_not_feasible(name):
    objective = get_objective(name)
    assert max(objective.constraints(MASKED).values()) > 0
    assert max(objective.constraints(CONSTANT).values()) > 0
    assert max(objective.constraints(SCORE).values()) <= 0


@pytest.mark.parametrize("name", ["pgd", "clean+pgd"])
def test_whoever_aims_at_pgd_gets_the_masks(name):
    assert get_objective(name).constraints(MASKED) == {"one class": -1.0}


@pytest.mark.parametrize(
    ("floor", "feasible"), [("0.89", True), ("0.9", True), ("0.91", False), ("90%", True), ("91%", False)]
)
def test_a_floor_is_a_constraint(floor, feasible):
    constraints = get_objective(f"robust-at-clean>={floor}").constraints(SCORE)
    assert set(constraints) == {"masked", "one class", "clean floor"}
    assert (max(constraints.values()) <= 0) == feasible


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("robus", "--objective 'robus': unknown measure 'robus'; known: clean, robust, pgd, robust-per-hour, hours"),
        ("", "unknown measure ''"),
        ("clean+", "unknown measure ''"),
        ("clean+speed", "unknown measure 'speed'"),
        ("clean,robust", "unknown measure 'clean,robust'"),
        ("clean+clean", "--objective 'clean+clean' names 'clean' twice"),
        ("robust-at-clean>=90", "--objective: clean>=90 is not a share between 0 and 1: write 0.9 or 90%"),
        ("robust-at-clean>=101%", "clean>=101% is not a share between 0 and 1"),
        ("robust-at-clean>=0.9.1", "clean>=0.9.1 is not a share between 0 and 1"),
        ("robust-at-clean>=", "unknown measure 'robust-at-clean>='"),
        ("robust-at-clean>=-1", "unknown measure"),
        ("robust-at-clean>0.9", "unknown measure"),
    ],
)
def test_an_objective_that_there_is_not_is_told(name, message):
    with pytest.raises(InputError) as caught:
        get_objective(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kneee", "--rule 'kneee' is unknown; known: robust-at-clean>=X, knee, robust-per-hour"),
        ("robust", "--rule 'robust' is unknown"),
        ("robust-at-clean>=90", "--rule: clean>=90 is not a share between 0 and 1: write 0.9 or 90%"),
    ],
)
def test_a_rule_that_there_is_not_is_told(name, message):
    with pytest.raises(InputError) as caught:
        check_rule(name)
    assert message in str(caught.value)
    with pytest.raises(InputError):
        choose([SCORE], name)


# between its ends (0.6, 0.6) and (1.0, 0.2): 0.9 + 0.45 lies 0.375 above the line, 0.8 + 0.5 0.25, 0.7 + 0.55 0.125
FRONT = [score_of(*point) for point in [(0.6, 0.6), (0.7, 0.55), (0.8, 0.5), (0.9, 0.45), (1.0, 0.2)]]


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [
        ("knee", "0.9-0.45"),
        ("robust-at-clean>=0.75", "0.8-0.5"),
        ("robust-at-clean>=80%", "0.8-0.5"),
        ("robust-at-clean>=0", "0.6-0.6"),
        ("robust-at-clean>=1", "1-0.2"),
        ("robust-per-hour", "0.6-0.6"),
    ],
)
def test_a_rule_picks_from_a_known_front(rule, chosen):
    for order in (FRONT, FRONT[::-1], FRONT[2:] + FRONT[:2]):
        picked = choose(order, rule)
        assert picked is not None
        assert picked.id == chosen


def test_the_knee_does_not_depend_on_the_scale_of_an_axis():
    squeezed = [score_of(one.clean_acc, one.robust_acc / 10, name=one.id) for one in FRONT]
    picked = choose(squeezed, "knee")
    assert picked is not None
    assert picked.id == "0.9-0.45"


def test_the_knee_of_what_is_no_front_is_the_best():
    inside = score_of(0.5, 0.1)
    for points in ([score_of(0.9, 0.5)], [score_of(0.9, 0.5), inside], [inside, score_of(0.9, 0.5)]):
        picked = choose(points, "knee")
        assert picked is not None
        assert picked.id == "0.9-0.5"
    assert choose([inside, *FRONT], "knee") is FRONT[3]


def test_between_two_ends_the_more_robust_is_the_knee():
    ends = [score_of(1.0, 0.2), score_of(0.6, 0.6)]
    assert choose(ends, "knee") is ends[1]


def test_a_rate_is_for_an_hour_of_training():
    fast, slow = score_of(0.9, 0.4, hours=0.5), score_of(0.9, 0.6, hours=1.0)
    assert choose([slow, fast], "robust-per-hour") is fast


def test_a_floor_that_none_reaches_chooses_none():
    assert choose(FRONT[:-1], "robust-at-clean>=0.95") is None


@pytest.mark.parametrize("rule", ["knee", "robust-at-clean>=0.1", "robust-per-hour"])
@pytest.mark.parametrize("why", [{"masked": True}, {"masking_status": "suspect", "flags": ("one_class",)}], ids=str)
def test_of_nothing_nothing_is_chosen_and_nothing_that_does_not_count_is(rule, why):
    best = score_of(0.99, 0.99, hours=0.001, **why)
    assert choose([], rule) is None
    assert choose([best], rule) is None
    assert choose([best, *FRONT], rule) is choose(FRONT, rule)
