"""Detects catastrophic overfitting: one-step training loses its robustness while its one-step accuracy rises.

Source: Wong et al. 2020, arXiv:2001.03994, section 5; Andriushchenko and Flammarion 2020, arXiv:2007.02617.
"""

from dataclasses import dataclass

COLLAPSE_RATIO = 0.5  # a model has collapsed below this share of its best multi-step accuracy
MIN_ROBUST_ACC = 0.15  # smallest best accuracy from which a model can collapse: above chance for ten classes
MIN_GAP = 0.1  # smallest excess of one-step over multi-step accuracy after a collapse


@dataclass(frozen=True)
class CollapseDetector:
    """The best multi-step validation accuracy so far, and the one-step accuracy in that epoch; in [0, 1]."""

    robust_acc: float = 0.0
    one_step_acc: float = 0.0

    def updated(self, robust_acc: float, one_step_acc: float) -> "CollapseDetector":
        """The detector after an epoch with these accuracies."""
        return CollapseDetector(robust_acc, one_step_acc) if robust_acc > self.robust_acc else self

    def collapsed(self, robust_acc: float, one_step_acc: float) -> bool:
        """Whether an epoch with these accuracies collapsed: multi-step accuracy fell and one-step accuracy rose."""
        fell = self.robust_acc >= MIN_ROBUST_ACC and robust_acc < COLLAPSE_RATIO * self.robust_acc
        return fell and one_step_acc >= self.one_step_acc and one_step_acc - robust_acc >= MIN_GAP
