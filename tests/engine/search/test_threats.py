"""Searches that aim at several norms at once: objectives, options, fronts and reports."""

import itertools
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from bat_core.config import SecondThreat, to_dict
from bat_core.data import load_dataset
from bat_core.errors import InputError
from bat_core.norms import UNION
from sweeps.engine.search import finalists
from sweeps.engine.search.objectives import MEASURES, get_objective
from sweeps.engine.search.options import SearchOptions
from sweeps.engine.search.pace import Pace
from sweeps.engine.search.page import story
from sweeps.engine.search.plots.static import save_pictures
from sweeps.engine.search.report import report_md
from sweeps.engine.search.results import Robustness, Slices, Staircase, beats, front, largest_part, sliced, volume
from sweeps.engine.search.run import run_search
from sweeps.engine.search.snapshot import Finalist, Snapshot, flat_for
from sweeps.engine.search.spec import Final, Search
from sweeps.engine.search.threats import compared_by
from sweeps.engine.search.warm_start import read_warm_start
from sweeps.engine.sweep.records import VERDICTS
from tests.engine.search.trials import BASE, LINE, PIXEL, SPACE, Lab, score_of, search_of
from tests.engine.sweep.test_trial_threats import verdicts_on

THREE = "clean+robust-linf+robust-l2"
BOTH = replace(BASE, attack=replace(BASE.attack, second=SecondThreat(norm="l2", eps=0.5)))
THREATS = ("linf:40/255", "l2:0.5")


def threats_of(linf: float, l2: float, union: float | None = None, suite: str = "quick") -> dict[str, Any]:
    reached = {"linf": linf, "l2": l2, UNION: min(linf, l2) if union is None else union}
    return {name: {"robust_acc": acc, "n": 200, "suite": suite} for name, acc in reached.items()}


def both_of(clean: float, linf: float, l2: float, **changes: Any):
    found = {
        name: Robustness(acc=one["robust_acc"], n=one["n"], suite=one["suite"])
        for name, one in threats_of(linf, l2).items()
    }
    return score_of(clean, linf, threats=found, name=f"{clean:g}-{linf:g}-{l2:g}", **changes)


def searched(path, objective: str = THREE, *, sampler: str = "random", count: int = 16, space=SPACE) -> Lab:
    """A search of so many trials: budget buys robustness in one norm or the other. Two are masked, one is constant."""
    lab = Lab(path, search_of(space, base=BOTH, objective=objective, sampler=sampler, skip_dominated=False))
    study = lab.open()
    for number in range(count):
        trial = study.propose()
        first = (number * 7 % count) / count
        linf, l2 = 0.2 + 0.5 * first, 0.6 - 0.4 * first**2
        said: dict[str, Any] = {"threats": threats_of(linf, l2, 0.9 * min(linf, l2)), "flags": []}
        if number in (3, 5):
            label = "quick, not verified: masked"
            said |= {"verdict": "masked", "suite": label, "threats": threats_of(0.9, 0.9, suite=label)}
        if number == 6:
            said |= {"verdict": "suspect", "flags": ["one_class"]}
        lab.finish(trial, 0.9 - 0.3 * (number * 5 % count) / count, linf, time=60.0 * number, **said)
        study.settle(trial)
    lab.search.write(lab.folder)
    return lab


@pytest.mark.parametrize(
    ("name", "values", "aims", "shown"),
    [
        (THREE, [0.9, 0.5, 0.4], 3, UNION),
        ("clean+robust-union", [0.9, 0.3], 2, UNION),
        ("robust-l2", [0.4], 2, "l2"),
        ("clean+robust", [0.9, 0.5], 2, None),
        ("clean+robust+robust-l2", [0.9, 0.5, 0.4], 3, UNION),
        ("clean+robust-l2+hours", [0.9, 0.4, 1.0], 2, "l2"),
        ("robust-per-hour", [0.5], 2, None),
        ("pgd", [0.5], 2, None),
    ],
)
def test_an_objective_reads_each_norm_and_keeps_doing_so_in_what_reports_show(name, values, aims, shown):
    one = both_of(0.9, 0.5, 0.4)
    one = replace(one, threats={**one.threats, UNION: Robustness(acc=0.3, n=200, suite="both")})
    objective = get_objective(name)
    assert (len(objective.aims), objective.shown) == (aims, shown)
    seen = one.shown_under(shown)
    assert objective.values(one) == objective.values(seen) == values
    assert objective.variances(one) == objective.variances(seen)
    assert seen.robust_acc == {None: 0.5, "l2": 0.4, UNION: 0.3}[shown]
    assert next(aim(seen) for aim in objective.aims) == 0.9


@pytest.mark.parametrize(
    ("objective", "order"),
    [
        (THREE, ("union", "linf", "l2")),
        ("clean+robust-l2", ("l2", "union", "linf")),
        ("clean+robust", ("linf", "union", "l2")),
    ],
)
def test_trials_in_two_norms_are_compared_by_what_reports_show(objective, order):
    assert compared_by(search_of(SPACE, base=BOTH, objective=objective)) == order
    assert compared_by(search_of(SPACE, base=BASE)) == ()


def test_a_trial_in_one_norm_has_that_one_and_no_other():
    one = score_of(0.9, 0.5)
    assert get_objective("robust-linf").values(one) == get_objective("robust").values(one) == [0.5]
    with pytest.raises(InputError, match="is not verified in l2"):
        get_objective("robust-l2").values(one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"objective": "clean+robust-l2"},
            "aims at robust-l2, and trials are verified in linf alone: name l2 too, with",
        ),
        ({"objective": "clean+robust-union"}, "aims at robust-union, and trials are verified in linf alone: name two"),
        ({"objective": THREE, "threat": ("l2:0.5",)}, "aims at robust-linf, and trials are verified in l2 alone"),
        ({"objective": "robust-linf", "norm": "l2"}, "aims at robust-linf, and trials are verified in l2 alone"),
        ({"objective": "robust+robust-linf", "threat": THREATS}, "robust is robust-linf here"),
        ({"objective": "robust-l1"}, "unknown measure 'robust-l1'; known: clean, robust, pgd,"),
        ({"threat": THREATS, "norm": "l2"}, "--norm cannot be given with --threat"),
        ({"threat": THREATS, "norm": "linf"}, "--norm cannot be given with --threat"),
        ({"threat": THREATS, "eps": 0.1}, "--eps cannot be given with --threat"),
        ({"threat": THREATS, "step_size": 0.1}, "--step-size cannot be given with --threat"),
        ({"threat": ("l2:0.5", "l2:1")}, "--threat names l2 twice"),
        ({"threat": ("l2",)}, "--threat 'l2' must be a norm and a budget"),
        ({"threat": ("linf:8",)}, "--threat linf=8 is outside (0, 1]"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_in_one_sentence(options, message):
    with pytest.raises(InputError) as caught:
        SearchOptions(**options).check()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("objective", [THREE, "clean+robust-l2", "clean+robust"])
def test_finalists_are_evaluated_in_each_norm_aimed_at_and_the_union_is_the_worst_of_each_example(
    tmp_path, monkeypatch, objective
):
    robust = {"linf": [True, True, True, False], "l2": [True, False, False, True]}
    verdict = {"linf": "clear", "l2": "suspect"}
    asked = []

    def evaluated(_models, options, *, part_of):
        asked.append((options.norm, options.eps, options.step_size, options.split, options.suite, options.n))
        place = tmp_path / options.output.name / "one"
        place.mkdir(parents=True)
        verdicts_on([7, 8, 9, 11], robust[options.norm]).write(place / VERDICTS)
        share = sum(robust[options.norm]) / 4
        said = {"clean_acc": 1.0, "robust_acc": share, "robust_acc_interval": [0.1, 0.9], "n": 4, "suite": "quick"}
        said |= {"verdict": verdict[options.norm], "flags": [{"name": f"of_{options.norm}"}]}
        (place / "summary.json").write_text(json.dumps(said))

    monkeypatch.setattr("sweeps.engine.search.finalist_evaluations.run_evaluation", evaluated)
    folder = SimpleNamespace(
        path=tmp_path, file=lambda name: tmp_path / name, results=lambda _: tmp_path, copy_to_store=lambda _: None
    )
    session = SimpleNamespace(folder=folder, options=SearchOptions())
    member = both_of(0.9, 0.5, 0.4)
    member = replace(member, trial=replace(member.trial, id="one"))
    search = search_of(base=BOTH, objective=objective)
    (found,) = finalists._evaluated_on_val(session, search, [member])
    attack = BOTH.attack
    both = [("linf", attack.eps, attack.step_size, "val", "quick", attack.verify)]
    both += [("l2", 0.5, None, "val", "quick", attack.verify)] if objective != "clean+robust" else []
    assert asked == both
    assert found.robust_acc == {THREE: 0.25, "clean+robust-l2": 0.5, "clean+robust": 0.75}[objective]
    assert found.masking_status == ("suspect" if len(both) > 1 else "clear")
    assert found.flags == (("of_linf (L-inf)", "of_l2 (L2)") if len(both) > 1 else ("of_linf",))
    if len(both) > 1:
        assert [one.acc for one in found.threats.values()] == [0.75, 0.5, 0.25]
    asked.clear()
    (tested,) = finalists._tested(session, search, [Finalist(origin=member, members=(found,))])[0].tested
    assert [one[:5] for one in asked] == [(*one[:3], "test", "standard") for one in both]
    assert (tested.robust_acc, tested.own.acc, tested.n) == (found.robust_acc, 0.75, 4)
    assert tested.suite == ("quick (L-inf) and quick (L2)" if objective == THREE else "quick")


def test_finalists_of_a_front_of_three_are_part_of_it(tmp_path):
    lab = searched(tmp_path)
    final = Final(count=3, epochs=None, seeds=(0,), rule="knee", registered_name="x")
    snapshot = Snapshot.of(lab.sweep, replace(lab.search, final=final), lab.folder)
    origins = finalists.finalist_origins(snapshot)
    assert origins == largest_part(snapshot.front, 3, snapshot.objective.aims)


def test_the_first_threat_is_that_of_training_and_pgd_and_the_second_is_beside_it():
    options = SearchOptions(objective=THREE, threat=THREATS, gpus_per_worker=0.0)
    options.check()
    at_first = options.at_first_threat()
    assert at_first.given == options.given
    search = at_first.search(load_dataset("digits"))
    attack = search.base.attack
    assert (attack.norm, attack.eps, attack.step_size) == ("linf", 40 / 255, 10 / 255)
    assert attack.second == SecondThreat(norm="l2", eps=0.5)
    assert not search.skip_dominated
    assert search.halving is not None
    assert search.halving.by == "front"
    turned = replace(options, threat=THREATS[::-1]).at_first_threat().search(load_dataset("digits")).base
    assert (turned.attack.norm, turned.attack.eps, turned.recipe.params["norm"]) == ("l2", 0.5, "l2")
    assert turned.attack.second == SecondThreat(norm="linf", eps=40 / 255)


def test_one_threat_is_norm_and_budget_and_leaves_the_search_as_it_is():
    digits = load_dataset("digits")
    named = SearchOptions(threat=("l2:0.5",)).at_first_threat().search(digits)
    assert named == SearchOptions(norm="l2", eps=0.5).search(digits)
    assert "second" not in to_dict(named)["base"]["attack"]
    assert SearchOptions(threat=THREATS).at_first_threat().search(digits).skip_dominated


def test_the_space_is_shown_in_the_unit_of_the_first_threat(capsys):
    assert run_search(SearchOptions(threat=("l2:0.5", "linf:8/255"), show_space=True)) == 0
    shown = capsys.readouterr().out
    assert run_search(SearchOptions(norm="l2", eps=0.5, show_space=True)) == 0
    assert shown == capsys.readouterr().out


POINTS = [tuple(row) for row in np.random.default_rng(0).integers(0, 5, size=(40, 3)) / 4]


def test_a_front_of_three_is_what_nobody_beats():
    scored = [both_of(*point, n=300 + number) for number, point in enumerate(POINTS)]
    scored.append(both_of(1.0, 1.0, 1.0, masked=True))
    found = front(scored, get_objective(THREE).aims)
    alone = {point for point in POINTS if not any(other != point and beats(other, point) for other in POINTS)}
    assert {(one.clean_acc, one.under("linf").acc, one.under("l2").acc) for one in found} == alone
    assert len(found) == len(alone) < len(POINTS)
    assert all(found[at].robust_acc <= found[at + 1].robust_acc for at in range(len(found) - 1))
    assert front(scored, get_objective("clean+robust").aims) == front(scored)


def counted(points: list[tuple[float, ...]], cells: int = 4) -> float:
    """The hypervolume of points on a grid, by counting the cells that one of them dominates."""
    upper = [
        tuple((at + 1) / cells for at in corner) for corner in itertools.product(range(cells), repeat=len(points[0]))
    ]
    return sum(any(beats(point, corner) for point in points) for corner in upper) / cells ** len(points[0])


@pytest.mark.parametrize("values", [2, 3, 4])
def test_a_hypervolume_is_what_is_counted_cell_by_cell(values):
    rng = np.random.default_rng(values)
    points = [tuple(row) for row in rng.integers(0, 5, size=(12, values)) / 4]
    assert sliced(points) == pytest.approx(counted(points))
    known = Staircase() if values == 2 else Slices()
    for at, point in enumerate(points):
        assert known.add(*point) == pytest.approx(counted(points[: at + 1]))
    assert sliced([]) == 0.0


def test_the_largest_part_is_of_all_three():
    scored = [both_of(0.9, 0.1, 0.1), both_of(0.5, 0.5, 0.1), both_of(0.5, 0.1, 0.6)]
    aims = get_objective(THREE).aims
    assert [one.id for one in largest_part(scored, 1, aims)] == ["0.5-0.1-0.6"]
    assert volume(scored, aims) == pytest.approx(0.9 * 0.01 + 0.5 * (0.4 * 0.1 + 0.1 * 0.5))


@pytest.mark.parametrize("sampler", ["tpe", "auto", "gp", "random"])
def test_a_search_for_three_is_told_all_three_and_masks_nothing(tmp_path, sampler):
    lab = searched(tmp_path, sampler=sampler, space=LINE, count=12)
    study = lab.open()
    frozen = study.study.trials[:12]
    assert all(len(one.values) == 3 for one in frozen)
    assert frozen[2].values == pytest.approx([0.9 - 0.3 * 10 / 12, 0.2 + 0.5 * 2 / 12, 0.6 - 0.4 * (2 / 12) ** 2])
    best = {one.number for one in study.study.best_trials}
    assert best.isdisjoint({3, 5, 6})
    assert {f"trial-{number:03d}" for number in best} == {
        one.id for one in Snapshot.of(lab.sweep, lab.search, lab.folder).front
    }
    assert study.dominating(0.0, 0.0) is None
    assert study.propose().id == "trial-012"
    assert lab.open().study.trials[-1].state == TrialState.RUNNING


def test_pace_and_snapshot_agree_on_the_volume_of_three(tmp_path):
    lab = searched(tmp_path)
    snapshot, objective = Snapshot.of(lab.sweep, lab.search, lab.folder), get_objective(THREE)
    pace = Pace(lab.sweep, lab.folder, objective.aims)
    pace.look(lab.folder.trials(lab.sweep))
    assert pace.flat == flat_for(snapshot)
    assert snapshot.progress()[-1][1] == pytest.approx(volume(snapshot.finished, objective.aims))
    assert len(snapshot.front) > len(snapshot.plotted_front)


def test_the_report_page_and_plots_say_which_robust_accuracy_they_show(tmp_path):
    lab = searched(tmp_path)
    snapshot, study = Snapshot.of(lab.sweep, lab.search, lab.folder), lab.open()
    report = report_md(snapshot)
    for words in (
        "robust in both norms at once", "L2 0.5", "Every whole trial is verified",
        "beats in all of clean accuracy, verified robust accuracy in L-inf and verified robust accuracy in L2",
        "| trial | clean | robust in L-inf (95 %) | robust in L2 (95 %) | robust in both norms at once (95 %) |",
        "APGD at L2 0.5 attacks the same images",
    ):  # fmt: skip
        assert words in report
    assert len(snapshot.finished) == 16
    one = snapshot.front[-1]
    assert one.robust_acc == one.under(UNION).acc
    files = save_pictures(snapshot, study.study, tmp_path)
    assert {"pareto.png", "progress.png", "search.html"} <= set(files)
    html = (tmp_path / "search.html").read_text()
    assert "verified robust accuracy in both norms at once" in html
    assert "The search aims at 3 accuracies" in html
    page = story(snapshot)
    assert page.sections[0].heading == "The front in each norm"
    assert len(page.sections[0].rows) == len(snapshot.front)


def test_a_search_for_the_union_alone_is_a_plane_of_clean_and_union(tmp_path):
    lab = searched(tmp_path, "clean+robust-union")
    snapshot = Snapshot.of(lab.sweep, lab.search, lab.folder)
    assert snapshot.front == snapshot.plotted_front
    assert snapshot.front[-1].robust_acc == max(one.under(UNION).acc for one in snapshot.finished if one.counts)
    assert "beats in both accuracies" in report_md(snapshot)


def test_a_search_in_one_norm_says_nothing_of_another(tmp_path):
    lab = Lab(tmp_path, search_of())
    lab.finish(lab.propose(), 0.9, 0.4)
    snapshot = Snapshot.of(lab.sweep, lab.search, lab.folder)
    assert "L2" not in report_md(snapshot)
    assert "norm" not in report_md(snapshot).replace("normal", "")
    assert [section.heading for section in story(snapshot).sections] == []


def test_a_search_is_read_back_with_its_threats_and_warms_another_only_if_it_has_them(tmp_path):
    lab = searched(tmp_path / "both", count=4)
    assert Search.read(lab.folder) == lab.search
    start = read_warm_start(lab.folder.path, replace(lab.search, sampler="tpe"), PIXEL)
    assert start.difference is None
    mine = Lab(tmp_path / "mine", replace(lab.search, sampler="tpe"))
    study = mine.open()
    study.add(start.trials, "both")
    assert study.study.trials[1].values == get_objective(THREE).values(start.trials[0])
    one_norm = Lab(tmp_path / "one", search_of())
    one_norm.finish(one_norm.propose(), 0.9, 0.4)
    one_norm.search.write(one_norm.folder)
    with pytest.raises(InputError, match=r"its attack\.second\.norm is None, and this search's is l2"):
        read_warm_start(one_norm.folder.path, lab.search, PIXEL)
    assert read_warm_start(lab.folder.path, search_of(), PIXEL).difference is None  # of its own norm nothing differs


def test_measures_name_their_threats():
    assert {name: one.threat for name, one in MEASURES.items() if one.robust} == {
        "robust": None, "robust-linf": "linf", "robust-l2": "l2", "robust-union": UNION,
    }  # fmt: skip
