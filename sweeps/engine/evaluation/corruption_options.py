"""The options of `corruptions`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from cyclopts import Parameter

from bat_core.corruption_names import CORRUPTIONS, EXTRA
from bat_core.errors import InputError, check_choice
from sweeps.engine.cli.options import Several
from sweeps.engine.evaluation.options import JobOptions

NO_BUDGET = ("norm", "eps", "step_size", "precision", "cycles")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class CorruptionOptions(JobOptions):
    """Corrupted images, and machine. None means the default."""

    common: ClassVar[tuple[str, ...]] = (*("dataset", "data_dir", "corrupted", "corruptions", "n", "output", "resume"),)
    shared: ClassVar[Mapping[str, tuple[str, ...]]] = {
        **JobOptions.shared,
        "Attacks (not used here)": (*NO_BUDGET, "split"),
    }

    corrupted: Path | None = None
    """Folder of corrupted images as published: CIFAR-10-C, CIFAR-100-C or ImageNet-C. Default: made on the fly."""
    corruptions: Annotated[tuple[str, ...], Several] = ()
    """Corruptions to measure. Default: all of the fifteen that are there."""
    n: int | None = None
    """Number of images under each corruption and severity. Default: all."""
    output: Path | None = None
    """New folder for the results. Default: outputs/corruptions-<time>."""
    resume: str | None = None
    """Resume the evaluation in this folder, at the corruption where it stopped."""

    def check(self) -> None:
        super().check()
        for name in self.corruptions:
            check_choice("--corruptions", name, (*CORRUPTIONS, *EXTRA))
        if given := next((name for name in (*NO_BUDGET, "split") if name in self.given), None):
            raise InputError(f"{self.flag(given)} has no meaning for corruptions of test images: leave it out")
