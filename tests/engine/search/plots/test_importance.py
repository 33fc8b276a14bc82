"""What a search learns of its parameters: from the best trials, for each measure, and never from what lies."""

from dataclasses import replace

import optuna
import pytest

from sweeps.engine.search.plots import importance as learned
from sweeps.engine.search.text import trusted
from tests.engine.search.views import PIXEL, realistic, search_of, status_of, study_of, trial_of, view_of


@pytest.fixture(scope="module")
def snapshot():
    return realistic("bat")


@pytest.fixture(scope="module")
def study(snapshot):
    return study_of(snapshot)


def said(figure):
    """All words outside the axes."""
    return " ".join(f"{figure.get_suptitle()} {figure.get_supxlabel()}".split())


def test_importances_are_those_of_the_best_trials_for_each_measure(snapshot, study):
    """Against Optuna on one measure at a time, whose direction it then heeds."""
    found = learned.importances(snapshot, study)
    assert list(found) == ["clean accuracy", "verified robust accuracy"]
    for measure, value in zip(found, (lambda one: one.clean_acc, lambda one: one.robust_acc), strict=True):
        alone = optuna.create_study(direction="maximize")
        scored = {one.id: one for one in snapshot.finished if not one.masked}
        for frozen in study.get_trials():
            if (one := scored.get(frozen.user_attrs["trial"])) is not None:
                known = {"params": frozen.params, "distributions": frozen.distributions}
                alone.add_trial(optuna.trial.create_trial(value=value(one), **known))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=5 / len(scored))
        expected = optuna.importance.get_param_importances(alone, evaluator=evaluator)
        expected = {"eps, px" if name == "eps" else name: share for name, share in expected.items()}
        assert found[measure] == pytest.approx(expected)
        assert sum(found[measure].values()) == pytest.approx(1)
        assert list(found[measure].values()) == sorted(found[measure].values(), reverse=True)


def test_each_panel_names_its_own_bars(snapshot, study):
    figure = learned.draw_importances(snapshot, study)
    for axes, (measure, shares) in zip(figure.axes, learned.importances(snapshot, study).items(), strict=True):
        names = [label.get_text() for label in axes.get_yticklabels()]
        assert axes.get_title() == measure
        assert dict(zip(names, [bar.get_width() for bar in axes.patches], strict=True)) == shares
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] != names


def test_the_page_has_the_same_importances(snapshot, study):
    drawn = learned.importances_page(snapshot, study)
    shares = learned.importances(snapshot, study)
    assert {bars.name: dict(zip(bars.y, bars.x, strict=True)) for bars in drawn.data} == shares


@pytest.mark.parametrize("objective", ["clean+robust", "robust-at-clean>=0.9", "pgd", "robust+hours"])
def test_nothing_is_learned_from_trials_that_cannot_be_believed(objective):
    search = search_of("bat", objective=objective)
    invented = realistic("bat", masked=0, stopped=0, failed=0, trials=20).finished
    good = [replace(one, clean_acc=max(one.clean_acc, 0.91)) for one in invented]
    clean = view_of(search, good)
    bad = [replace(one, trial=replace(one.trial, id=f"trial-{at + 50:03d}")) for at, one in enumerate(good)]
    masked = [replace(one, robust_acc=1.0, masking_status="masked") for one in bad[:5]]
    dirty = [replace(one, clean_acc=0.2) for one in bad[5:8]] if "at-clean" in objective else []
    others = [(trial_of(search, 90), status_of("stopped", reason="x")), (trial_of(search, 91), status_of("failed"))]
    snapshot = view_of(search, [*good, *masked, *dirty], others)
    assert {one.id for one in trusted(snapshot)} == {one.id for one in good}
    taught = [replace(one, robust_acc=0.99) for one in bad[10:]]
    mixed = study_of(snapshot, taught)
    assert len(mixed.get_trials()) == len(good) + 5 + len(dirty) + 2 + len(taught)
    assert learned.importances(snapshot, mixed) == learned.importances(clean, study_of(clean))
    assert len(lines_of(learned.draw_parallel(snapshot, mixed))) == len(good)
    assert drawn_lines(learned.parallel_page(snapshot, mixed)) == len(good)


def lines_of(figure):
    """What a line is in Optuna's printed parallel coordinates: one for each trial."""
    segments = [c.get_segments() for axes in figure.axes for c in axes.collections if hasattr(c, "get_segments")]
    (drawn,) = [found for found in segments if found and len(found[0]) > 2]
    return drawn


def drawn_lines(figure):
    return sum(trace.mode == "lines" for trace in figure.data)


def test_parallel_coordinates_show_measures_and_foremost_parameters():
    snapshot = realistic()
    study = study_of(snapshot)
    figure = learned.draw_parallel(snapshot, study)
    names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert names[:2] == ["clean accuracy", "verified robust accuracy"]
    most = {}
    for shares in learned.importances(snapshot, study).values():
        most |= {name: max(share, most.get(name, 0)) for name, share in shares.items()}
    assert set(names[2:]) == set(sorted(most, key=most.get)[-learned.MOST :])
    assert "the 8 most important of 18 parameters" in said(figure)
    assert len(lines_of(figure)) == 29
    assert len(learned.parallel_page(snapshot, study).layout.xaxis.ticktext) == 20


def test_a_parameter_that_a_trial_does_not_have_is_called_unused(snapshot, study):
    figure = learned.draw_parallel(snapshot, study)
    ticks = {label.get_text() for axes in figure.axes for label in axes.get_yticklabels()}
    page = {annotation.text for annotation in learned.parallel_page(snapshot, study).layout.annotations}
    for words in (ticks, page):
        assert "unused" in words
        assert "None" not in words
        assert {"yes", "no"} <= words
    assert '"unused"' in said(figure)


def test_budgets_are_learned_about_in_pixels(snapshot, study):
    values = [trial.params["eps, px"] for trial in learned._study(snapshot, study).get_trials()]
    assert sorted(values) == pytest.approx(sorted(one.point["eps"] / PIXEL for one in trusted(snapshot)))
    assert 1 <= min(values) < max(values) <= 16
