"""RobustBench's facts have the form that the leaderboard reads, and are compared as an interval allows."""

import re

import pytest

from sweeps.engine.evaluation.published import (
    FILE,
    IMAGES,
    comparison,
    differences,
    find_published,
    published,
    published_at,
)


def test_every_entry_is_whole():
    assert len(published()) == 188
    assert len({(one.dataset, one.norm, one.model) for one in published()}) == 188
    for one in published():
        assert one.dataset in IMAGES
        assert one.norm in {"linf", "l2"}
        assert any(abs(one.eps - usual) < 5e-4 for usual in (8 / 255, 4 / 255, 0.5))
        assert re.fullmatch(r"[\w.+-]+", one.model)
        assert one.architecture
        assert 0 <= one.robust_acc <= one.clean_acc <= 1
        assert one.best_known is None or one.best_known <= one.robust_acc
        assert one.interval.low < one.robust_acc < one.interval.high or one.robust_acc == 0
    lines = FILE.read_text().splitlines()
    assert lines[0] == "dataset,norm,eps,model,architecture,extra_data,clean,autoattack,best_known"


@pytest.mark.parametrize(
    ("dataset", "norm", "eps", "model", "numbers"),
    [
        ("cifar10", "linf", 8 / 255, "Wong2020Fast", (0.8334, 0.4321)),
        ("cifar10", "l2", 0.5, "Augustin2020Adversarial", (0.9108, 0.7291)),
    ],
)
def test_well_known_entries_are_as_published(dataset, norm, eps, model, numbers):
    one = find_published(f"robustbench:{dataset}/{model}", dataset, norm, eps)
    assert (one.clean_acc, one.robust_acc) == pytest.approx(numbers)
    assert one in published_at(dataset, norm, eps)


def test_a_model_is_found_by_its_name_at_its_budget_only():
    assert find_published("robustbench:Wong2020Fast", "cifar10", "linf", 8 / 255).model == "Wong2020Fast"
    assert find_published("robustbench:cifar10/L2/Augustin2020Adversarial", "cifar10", "l2", 0.5) is not None
    assert find_published("robustbench:Wong2020Fast", "cifar10", "linf", 4 / 255) is None
    assert find_published("robustbench:Wong2020Fast", "cifar10", "l2", 0.5) is None
    assert find_published("nets:net", "cifar10", "linf", 8 / 255) is None
    assert find_published(None, "cifar10", "linf", 8 / 255) is None


def test_a_measured_number_agrees_if_its_interval_has_the_published_one():
    one = find_published("robustbench:Wong2020Fast", "cifar10", "linf", 8 / 255)
    agrees = comparison(one, robust_acc=0.44, n=1000, suite="standard")
    assert "publishes 43.21% (AutoAttack, n = 10,000)" in agrees
    assert agrees.endswith("They agree within the interval: 1,000 images instead of 10,000.")
    differs = comparison(one, robust_acc=0.5, n=10_000, suite="quick")
    assert "They do not agree within the interval: quick instead of AutoAttack" in differs


def test_the_protocols_differences_are_named():
    assert list(differences(suite="standard", n=10, published_n=10)) == []
    assert list(differences(suite="paper+standard", n=10, published_n=10)) == []
    assert len(differences(suite="PGD-20, not verified", n=5, published_n=10, training="trained on 5 images")) == 3
