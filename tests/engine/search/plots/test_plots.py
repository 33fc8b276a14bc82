"""What a search's pictures show: every trial, honest marks, a front without masks, nothing learned from what lies."""

import re
from dataclasses import replace

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt
from plotly.offline import get_plotlyjs

from search_spaces.narrowing import narrow
from sweeps.engine.search.plots import html as interactive
from sweeps.engine.search.plots import importance as learned
from sweeps.engine.search.plots import static as pictures
from sweeps.engine.search.plots import style as marks
from sweeps.engine.search.results import volume
from sweeps.engine.search.text import why_not_enough
from tests.engine.search.views import (
    KILLED,
    PIXEL,
    finalist_of,
    realistic,
    score_of,
    search_of,
    status_of,
    study_of,
    trial_of,
    view_of,
)

ALL = ["pareto.png", "importances.png", "parallel.png", "progress.png", "search.html"]


@pytest.fixture(scope="module")
def snapshot():
    return realistic("bat")


@pytest.fixture(scope="module")
def study(snapshot):
    return study_of(snapshot)


@pytest.fixture(scope="module")
def files(snapshot, study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    return folder, pictures.save_pictures(snapshot, study, folder)


def said(figure):
    """All words outside the axes."""
    return " ".join(f"{figure.get_suptitle()} {figure.get_supxlabel()}".split())


def lines(axes):
    """The named lines of a panel, by what the legend says of them."""
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def points(line):
    return sorted(zip(map(float, line.get_xdata()), map(float, line.get_ydata()), strict=True))


def of(snapshot, masking_status):
    return sorted((one.clean_acc, one.robust_acc) for one in snapshot.finished if one.masking_status == masking_status)


def empty():
    search = search_of("bat")
    failed = (trial_of(search, 0), status_of("failed", 0, reason=KILLED))
    return view_of(search, others=[failed])


def single():
    search = search_of("bat")
    return view_of(search, [score_of(search, 0, 0.9, 0.4)])


def all_masked():
    search = search_of("bat")
    return view_of(search, [score_of(search, at, 0.9, 0.4 + at / 20, masking_status="masked") for at in range(6)])


def test_every_finished_trial_is_a_point_with_the_mark_of_its_verdict(snapshot):
    (axes,) = pictures.draw_pareto(snapshot).axes
    drawn = lines(axes)
    for masking_status, mark in marks.VERDICTS.items():
        expected = of(snapshot, masking_status)
        assert expected
        assert points(drawn[f"{mark.description} ({len(expected)})"]) == expected
    masked, clear = (
        drawn["masked: not reliable (3)"],
        drawn[f"{marks.CLEAR.description} ({len(of(snapshot, 'clear'))})"],
    )
    assert (masked.get_marker(), masked.get_markeredgecolor()) == ("x", marks.RED)
    assert clear.get_marker() != masked.get_marker() != marks.SUSPECT.marker != clear.get_marker()


def test_every_point_has_its_wilson_interval(snapshot):
    (axes,) = pictures.draw_pareto(snapshot).axes
    bars = {tuple(points(line)) for line in axes.lines if line.get_label().startswith("_")}
    for one in snapshot.finished:
        low, high = one.interval
        assert ((one.clean_acc, low), (one.clean_acc, high)) in bars
        assert low < one.robust_acc < high
    (_, bottom), (_, top) = zip(axes.get_xlim(), axes.get_ylim(), strict=True)
    assert (
        bottom
        <= min(one.interval[0] for one in snapshot.finished)
        < max(one.interval[1] for one in snapshot.finished)
        <= top
    )


def test_the_front_is_what_dominates_and_no_masked_trial_is_on_it(snapshot):
    x, y = marks.stairs(snapshot.front, left=0.0, low=0.0)
    below = sum((right - left) * height for left, right, height in zip(x, x[1:], y, strict=False))
    assert below == pytest.approx(volume(snapshot.finished))
    masked = set(of(snapshot, "masked"))
    assert masked
    assert not masked & set(zip(x, y, strict=True))
    best = max(robust for _, robust in masked)
    assert best > max(y), "the invented search has a mask above the front"
    (axes,) = pictures.draw_pareto(snapshot).axes
    front = lines(axes)[f"front ({len(snapshot.front)})"]
    assert max(front.get_ydata()) == max(one.robust_acc for one in snapshot.finished if not one.masked)
    numbers = {text.get_text() for text in axes.texts}
    assert numbers == {one.id.removeprefix("trial-") for one in snapshot.front}


def test_finalists_are_stars_at_the_mean_of_their_seeds_and_the_champion_is_named(snapshot):
    (axes,) = pictures.draw_pareto(snapshot).axes
    drawn = lines(axes)
    chosen = snapshot.finalists[1]
    champion = drawn[f"champion: {chosen.origin.id}, mean over seeds"]
    assert points(champion) == [(chosen.clean_acc, chosen.robust_acc)]
    others = drawn["finalist, mean over seeds (2)"]
    assert points(others) == sorted(
        (one.clean_acc, one.robust_acc) for one in (snapshot.finalists[0], snapshot.finalists[2])
    )
    members = [(member.clean_acc, member.robust_acc) for one in snapshot.finalists for member in one.members]
    assert points(drawn["finalists' seeds"]) == sorted(members)
    assert others.get_marker() == champion.get_marker() == "*"


def test_a_finalist_with_a_masked_seed_is_no_golden_star(snapshot):
    masked = finalist_of(snapshot.search, snapshot.front[0], verdicts=("clear", "masked", "clear"))
    (axes,) = pictures.draw_pareto(replace(snapshot, finalists=(masked,), champion=None)).axes
    drawn = lines(axes)
    assert drawn["finalist, masked: not reliable (1)"].get_markeredgecolor() == marks.RED
    assert not any(name.startswith(("champion", "finalist, mean")) for name in drawn)


def test_the_papers_point_is_ringed(snapshot):
    drawn = lines(pictures.draw_pareto(snapshot).axes[0])
    first = snapshot.finished[0]
    assert points(drawn["the paper's point, trial-000"]) == [(first.clean_acc, first.robust_acc)]
    without = view_of(snapshot.search, snapshot.finished[1:])
    assert not any("paper" in name for name in lines(pictures.draw_pareto(without).axes[0]))


def test_a_space_that_does_not_admit_the_papers_point_does_not_claim_it():
    space = narrow(search_of("bat").space, ranges=("beta=20:64",))
    search = search_of(space=space)
    snapshot = view_of(search, [score_of(search, 0, 0.9, 0.4)])
    assert "the point closest to the paper's, trial-000" in lines(pictures.draw_pareto(snapshot).axes[0])


def test_title_and_note_say_what_was_judged(snapshot):
    words = said(pictures.draw_pareto(snapshot))
    for expected in (
        "digits, small_cnn, L-inf budget 8 px",
        "Wilson",
        "validation images",
        "clean n = 300",
        "robust n = 200",
        "PGD-20+quick (APGD-CE, APGD-T)",
        "40 trials drawn by TPE: 32 finished (3 masked), 6 stopped early, 2 failed.",
    ):
        assert expected in words
    assert "not verified" not in words


def test_a_network_that_varies_is_not_in_the_title():
    search = search_of("model")
    assert "small_cnn" not in said(pictures.draw_pareto(view_of(search, [score_of(search, 0, 0.9, 0.4)])))


def test_progress_grows_by_what_is_not_masked(snapshot):
    top, bottom = pictures.draw_progress(snapshot).axes
    x, y = marks.volumes(snapshot)
    assert (x[0], y[0], x[-1], y[-1]) == (0.0, 0.0, snapshot.hours, pytest.approx(volume(snapshot.finished)))
    assert x == sorted(x)
    assert y == sorted(y)
    (curve,) = [line for line in top.lines if line.get_drawstyle() == "steps-post"]
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == (x, y)
    best = lines(bottom)["best so far, unmasked"]
    unmasked = max(one.robust_acc for one in snapshot.finished if not one.masked)
    assert best.get_ydata()[-1] == unmasked < max(one.robust_acc for one in snapshot.finished)
    assert list(best.get_ydata()) == sorted(best.get_ydata())
    assert best.get_xdata()[0] == pytest.approx(0.05)


def test_progress_ticks_once_for_each_trial_that_ended(snapshot):
    top, bottom = pictures.draw_progress(snapshot).axes
    ticks = [x for line in top.lines if line.get_marker() == "|" for x in line.get_xdata()]
    assert sorted(ticks) == pytest.approx([0.05 * (number + 1) for number in range(40)])
    assert "stopped early or failed (8)" in lines(bottom)
    assert len(points(lines(bottom)["masked: not reliable (3)"])) == 3


def test_all_files_are_written_and_are_the_same_bytes_twice(snapshot, study, files, tmp_path):
    folder, names = files
    assert names == ALL
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    again = study_of(snapshot)
    pictures.save_pictures(snapshot, again, tmp_path)
    for name in names:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_no_words_are_cut_off(snapshot, study):
    figures = [pictures.draw_pareto(snapshot), pictures.draw_progress(snapshot)]
    for figure in (*figures, learned.draw_importances(snapshot, study), learned.draw_parallel(snapshot, study)):
        figure.draw_without_rendering()
        width, height = figure.bbox.size
        for text in (figure._suptitle, figure._supxlabel, *(legend for legend in figure.legends)):
            box = text.get_window_extent()
            assert 0 <= box.x0 < box.x1 <= width
            assert 0 <= box.y0 < box.y1 <= height


def test_drawing_leaves_no_trace_in_matplotlib(snapshot, study):
    before, numbers = dict(mpl.rcParams), plt.get_fignums()
    learned.draw_parallel(snapshot, study)
    assert plt.get_fignums() == numbers
    after = dict(mpl.rcParams)
    assert {name for name in after if name != "backend" and after[name] != before[name]} == set()


def test_the_page_holds_one_plotly_and_asks_no_server(files):
    folder, _ = files
    html = (folder / "search.html").read_text()
    library = get_plotlyjs()
    assert html.count(library) == 1
    rest = html.replace(library, "")
    assert "http" not in rest
    assert "src=" not in rest
    assert rest.count("Plotly.newPlot(") == 4 == rest.count('"showSendToCloud": false')
    assert re.findall(r'<div id="(\w+)"', rest) == ["pareto", "importances", "parallel", "progress"]
    assert len(re.findall(r"<h2>[^<]+</h2>\s*<p>[^<]+</p>", rest)) == 4


def test_pointing_at_a_trial_tells_all_there_is_to_know(snapshot):
    masked = next(one for one in snapshot.finished if one.masked)
    text = interactive.hover(snapshot, masked)
    low, high = masked.interval
    for expected in (
        f"<b>{masked.id}</b><br>",
        f"clean {masked.clean_acc:.1%}, robust {masked.robust_acc:.1%} ({100 * low:.1f}-{100 * high:.1f}), n = 200",
        f"PGD alone {masked.pgd_acc:.1%}",
        "masked: zero_gradient, label_leaking",
        f"training {60 * masked.hours:.1f} min",
        f"eps={255 * masked.point['eps']:.4g}/255 ({masked.point['eps'] / PIXEL:.3g} px)",
        f"label={masked.point['label']}",
    ):
        assert expected in text
    shown = [text for trace in interactive.pareto(snapshot).data for text in trace.hovertext or ()]
    for one in (*snapshot.finished, *(member for finalist in snapshot.finalists for member in finalist.members)):
        assert interactive.hover(snapshot, one) in shown
    assert ", on the front<br>" in interactive.hover(snapshot, snapshot.front[0])


def test_page_and_print_show_the_same_marks(snapshot):
    print_ = set(lines(pictures.draw_pareto(snapshot).axes[0]))
    assert {trace.name for trace in interactive.pareto(snapshot).data} == print_
    assert {trace.name for trace in interactive.progress(snapshot).data} - {"hypervolume"} == set(
        lines(pictures.draw_progress(snapshot).axes[1])
    )


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (empty, "they need 4 trials that finished unmasked, and the search has none"),
        (single, "they need 4 trials that finished unmasked, and the search has 1"),
        (all_masked, "they need 4 trials that finished unmasked, and the search has none"),
    ],
)
def test_what_cannot_be_learned_is_left_out_and_the_page_says_why(made, why, tmp_path):
    snapshot = made()
    assert why_not_enough(snapshot) == why
    assert pictures.save_pictures(snapshot, study_of(snapshot), tmp_path) == [
        "pareto.png",
        "progress.png",
        "search.html",
    ]
    html = (tmp_path / "search.html").read_text().replace(get_plotlyjs(), "")
    assert html.count(f"Omitted: {why}.") == 2
    assert html.count("Plotly.newPlot(") == (2 if snapshot.finished else 0)
    assert html.count("Omitted: no trial has finished.") == (0 if snapshot.finished else 2)


def test_of_equal_points_nothing_is_learned(tmp_path):
    search = search_of("bat")
    snapshot = view_of(search, [score_of(search, at, 0.9, 0.4 + at / 100) for at in range(6)])
    assert "no parameter takes more than one value" in why_not_enough(snapshot)
    assert "importances.png" not in pictures.save_pictures(snapshot, study_of(snapshot), tmp_path)


@pytest.mark.parametrize("count", [4, 5, 11])
def test_few_trials_are_enough_to_draw(count, tmp_path):
    snapshot = realistic("bat", trials=count, masked=0, stopped=0, failed=0, finalists=0)
    assert pictures.save_pictures(snapshot, study_of(snapshot), tmp_path) == ALL


def test_without_a_finished_trial_the_pictures_say_so():
    for figure in (pictures.draw_pareto(empty()), pictures.draw_progress(empty())):
        assert [text.get_text() for axes in figure.axes for text in axes.texts] == ["no trial has finished"]
    assert "stopped early or failed (1)" in lines(pictures.draw_progress(empty()).axes[1])


def test_of_masked_trials_alone_there_is_no_front():
    drawn = lines(pictures.draw_pareto(all_masked()).axes[0])
    assert set(drawn) == {"masked: not reliable (6)", "the paper's point, trial-000"}
    assert "best so far, unmasked" not in lines(pictures.draw_progress(all_masked()).axes[1])
    assert marks.volumes(all_masked())[1][-1] == 0


def test_a_single_trial_is_its_own_front():
    drawn = lines(pictures.draw_pareto(single()).axes[0])
    front = drawn["front (1)"]
    assert (max(front.get_xdata()), max(front.get_ydata())) == (0.9, 0.4)
