"""When training has collapsed, and that fit says so."""

import pytest

import bat_core.fit
from bat_core.collapse import CollapseDetector
from bat_core.fit import fit

PEAK = CollapseDetector(robust_acc=0.6, one_step_acc=0.5)


def test_the_peak_is_the_best_epoch_whatever_comes_after():
    collapse_detector = CollapseDetector()
    for robust_acc, one_step_acc in [(0.2, 0.3), (0.6, 0.5), (0.6, 0.9), (0.1, 0.9)]:
        collapse_detector = collapse_detector.updated(robust_acc, one_step_acc)
    assert collapse_detector == PEAK


@pytest.mark.parametrize(
    ("robust_acc", "one_step_acc", "collapsed"),
    [
        (0.0, 0.9, True),
        (0.29, 0.5, True),  # one-step accuracy need not be higher than at the peak
        (0.3, 0.9, False),  # half of the peak is left
        (0.29, 0.49, False),  # both fell: training diverged or lr is too large, and may recover
        (0.6, 0.9, False),
        (0.7, 0.8, False),
    ],
)
def test_multi_step_accuracy_falls_while_one_step_accuracy_rises(robust_acc, one_step_acc, collapsed):
    assert PEAK.collapsed(robust_acc, one_step_acc) is collapsed


@pytest.mark.parametrize(("one_step_acc", "collapsed"), [(0.31, False), (0.34, True)])
def test_one_step_accuracy_must_stand_out(one_step_acc, collapsed):
    assert CollapseDetector(robust_acc=0.5, one_step_acc=0.2).collapsed(0.23, one_step_acc) is collapsed


def test_nothing_collapses_before_it_stood():
    assert not CollapseDetector().collapsed(0.0, 0.9)


def test_accuracy_no_better_than_chance_is_no_peak_to_fall_from():
    # Early in training a network says one class whatever it is shown, and stands on a tenth of ten classes.
    assert not CollapseDetector(robust_acc=0.11, one_step_acc=0.12).collapsed(0.02, 0.4)


# (clean, multi-step, one-step) accuracy on validation images after each epoch
COLLAPSING = [(0.8, 0.5, 0.5), (0.8, 0.6, 0.5), (0.9, 0.0, 0.9), (0.9, 0.0, 0.9), (0.9, 0.6, 0.6)]


@pytest.fixture
def made_up(monkeypatch):
    """Validation that finds what it is told to."""

    def say(accuracies):
        monkeypatch.setattr(bat_core.fit._Trainer, "_validate", lambda self, epoch: accuracies[epoch - 1])

    say(COLLAPSING)
    return say


def test_fit_says_in_which_epochs_training_is_collapsed(made_up, make_trial, digits):
    reports = list(fit(make_trial("FGSM", epochs=5), digits))
    assert [report.collapsed for report in reports] == [False, False, True, True, False]
    assert reports[-1].state.collapse_detector == PEAK
    assert all(isinstance(value, int | float) for value in reports[2].metrics().values())
    assert "collapsed" not in reports[2].metrics()


def test_a_model_that_is_not_defended_has_nothing_to_collapse(made_up, make_trial, digits):
    reports = list(fit(make_trial("Undefended", params={}, epochs=5), digits))
    assert not any(report.collapsed for report in reports)


def test_a_collapse_is_seen_across_a_stop(made_up, make_trial, digits):
    config = make_trial("FGSM", epochs=3)
    reports = fit(config, digits)
    next(reports)
    state = next(reports).state
    (last,) = fit(config, digits, state=state)
    assert (last.epoch, last.collapsed) == (3, True)


# Trained at 1 pixel and judged at 12: next to nothing stands there, and less as the network learns.
OVERPOWERED = [(0.4, 0.09, 0.3), (0.7, 0.06, 0.5), (0.8, 0.03, 0.6), (0.85, 0.0, 0.7), (0.9, 0.0, 0.75)]


def test_a_budget_too_large_to_stand_in_is_no_collapse(made_up, make_trial, digits):
    made_up(OVERPOWERED)
    assert not any(report.collapsed for report in fit(make_trial(epochs=5), digits))
    made_up([(clean, 3 * robust, one_step) for clean, robust, one_step in OVERPOWERED])  # above chance it would be
    assert any(report.collapsed for report in fit(make_trial(epochs=5), digits))
