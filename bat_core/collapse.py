"""Catastrophic overfitting: one-step training that stops being robust while it looks better than ever.

Source: Wong et al. 2020, arXiv:2001.03994, section 5; Andriushchenko and Flammarion 2020, arXiv:2007.02617.
"""

from dataclasses import dataclass

COLLAPSE_RATIO = 0.5  # share of its best multi-step accuracy below which a model has collapsed
MIN_ROBUST_ACC = 0.15  # multi-step accuracy that there must have been to lose: more than chance among ten classes
MIN_GAP = 0.1  # by which one-step accuracy then exceeds multi-step accuracy


@dataclass(frozen=True)
class CollapseDetector:
    """The best multi-step validation accuracy so far, and the one-step accuracy in that epoch; in [0, 1]."""

    robust_acc: float = 0.0
    one_step_acc: float = 0.0

    def updated(self, robust_acc: float, one_step_acc: float) -> "CollapseDetector":
        """The peak once an epoch with these accuracies is over."""
        return CollapseDetector(robust_acc, one_step_acc) if robust_acc > self.robust_acc else self

    def collapsed(self, robust_acc: float, one_step_acc: float) -> bool:
        """Whether an epoch with these accuracies has lost what was there: multi-step accuracy fell while
        one-step accuracy rose.
        """
        fell = self.robust_acc >= MIN_ROBUST_ACC and robust_acc < COLLAPSE_RATIO * self.robust_acc
        return fell and one_step_acc >= self.one_step_acc and one_step_acc - robust_acc >= MIN_GAP
