"""What a report shows of a model's verdicts: accuracies and curves, whose size does not depend on the images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bat_core.verdicts import READINGS, Outcome, Reading, Verdicts


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy under one attack after each number of `steps`, in [0, 1], by reading."""

    steps: tuple[int, ...]
    accuracies: Mapping[Reading, tuple[float, ...]]

    @classmethod
    def of(cls, outcome: Outcome) -> "Curve":
        """The curve of an outcome."""
        curves = {reading: tuple(map(float, outcome.curve(reading))) for reading in READINGS}
        return cls(steps=outcome.steps, accuracies=curves)

    def curve(self, reading: Reading) -> npt.NDArray[np.float64]:
        """As `Outcome.curve`: (len(steps),) in [0, 1]."""
        return np.array(self.accuracies[reading])


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The accuracies of `Verdicts` on `n` examples, without the examples. Attributes are named as there."""

    n: int
    clean_acc: float
    robust_acc: float
    one_class: bool
    outcomes: Mapping[str, Curve]

    @classmethod
    def of(cls, verdicts: Verdicts) -> "Curves":
        """What is kept of verdicts."""
        return cls(
            n=len(verdicts),
            clean_acc=verdicts.clean_acc,
            robust_acc=verdicts.robust_acc,
            one_class=verdicts.one_class,
            outcomes={name: Curve.of(outcome) for name, outcome in verdicts.outcomes.items()},
        )

    def __len__(self) -> int:
        return self.n

    def curve(self, name: str, reading: Reading) -> npt.NDArray[np.float64]:
        """`Curve.curve` of the attack called `name`."""
        return self.outcomes[name].curve(reading)
