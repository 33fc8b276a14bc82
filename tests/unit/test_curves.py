"""What is kept of verdicts says what they say, and does not grow with the images."""

import pickle

import numpy as np
import pytest

from bat_core.curves import Curves
from bat_core.verdicts import READINGS, SKIPPED, UNBROKEN, Outcome, Verdicts

STEPS = (1, 3)


def verdicts(n: int) -> Verdicts:
    broken_at = np.resize(np.array([UNBROKEN, 0, 1, 2, 3, SKIPPED]), n)
    final = np.stack([np.arange(n) % 2 == 0, np.arange(n) % 3 == 0], axis=1)
    outcome = Outcome(broken_at=broken_at, steps=STEPS, final=final)
    return Verdicts(
        rows=np.arange(n), labels=np.arange(n) % 10, clean_correct=broken_at != 0, outcomes={"ce": outcome}
    )  # fmt: skip


@pytest.mark.parametrize("n", [1, 6, 60])
def test_accuracies_and_curves_are_those_of_the_verdicts(n: int) -> None:
    whole = verdicts(n)
    kept = Curves.of(whole)
    for name in ("clean_acc", "robust_acc", "one_class"):
        assert getattr(kept, name) == getattr(whole, name)
    assert len(kept) == len(whole)
    assert kept.outcomes["ce"].steps == STEPS
    for reading in READINGS:
        assert kept.curve("ce", reading).tolist() == whole.curve("ce", reading).tolist()


def test_its_size_does_not_depend_on_the_number_of_images() -> None:
    few, many = (len(pickle.dumps(Curves.of(verdicts(n)))) for n in (60, 6000))
    assert abs(many - few) < 10
