"""What a sweep consists of: trials, resources and its report."""

import datetime
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import bat_core
from bat_core.config import ONLY_IF_SET, Param, TrialConfig
from bat_core.errors import InputError, brief_repr, check_amount, check_choice, check_file_name, check_finite
from bat_core.norms import LINF, NORMS, UNION, Norm, Unit, check_norm

SPEC = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One model to train and evaluate. `id` names its folder and its MLflow run.

    A "grid" trial is part of the sweep's grid; a "reference" trial is a baseline for comparison. A "search"
    trial was proposed while the sweep ran, at `point` of its space; a "finalist" retrains such a point.
    """

    id: str
    config: TrialConfig
    role: str = "grid"
    point: Mapping[str, Param] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        check_file_name("trial.id", self.id)
        for name, value in self.point.items():
            if value != value:  # noqa: PLR0124 (true for NaN only)
                raise InputError(f"trial.point.{name}=nan is not a number: give a finite value")


@dataclass(frozen=True, kw_only=True)
class Resources:
    """The resources of one trial: `num_workers` processes, and the CPU cores and GPUs of each."""

    num_workers: int = 1
    cpus_per_worker: int = 1
    gpus_per_worker: float = 0.0

    def __post_init__(self) -> None:
        check_finite("resources.num_workers", self.num_workers, low=1)
        check_finite("resources.cpus_per_worker", self.cpus_per_worker, low=1)
        check_finite("resources.gpus_per_worker", self.gpus_per_worker)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Everything that is decided before the first trial starts; written once, as sweep.json.

    `pixel` is the data set's unit of budget in [0, 1] and in `norm`. `trials` are the predefined trials. A search is
    `open`: it proposes trials while it runs. `storage` is the URI of the store, for nodes that share no folder.
    `threats` are those under which its trials are verified if there are several, and their union: first the one that
    it is compared by.
    """

    name: str
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    created: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    command: str
    data_dir: str | None
    pixel: float
    resources: Resources
    trials: tuple[Trial, ...]
    open: bool = False
    storage: str | None = None
    version: str = bat_core.__version__
    norm: Norm = field(default=LINF, metadata=ONLY_IF_SET)
    threats: tuple[str, ...] = field(default=(), metadata=ONLY_IF_SET)

    def __post_init__(self) -> None:
        check_norm("sweep.norm", self.norm)
        for threat in self.threats:
            check_choice("sweep.threats", threat, (*NORMS, UNION))
        check_file_name("sweep.name", self.name)
        check_file_name("sweep.id", self.id)
        check_time("sweep.created", self.created)
        check_amount("sweep.pixel", self.pixel)
        if not self.trials and not self.open:
            raise InputError("the sweep has no trials: give at least one seed and one budget")
        counted = Counter(trial.id for trial in self.trials)
        if duplicate := next((trial_id for trial_id, count in counted.items() if count > 1), None):
            raise InputError(f"duplicate trial {duplicate!r}: give each seed and budget once")

    @cached_property
    def by_id(self) -> dict[str, Trial]:
        """The predefined trials by their ids."""
        return {trial.id: trial for trial in self.trials}

    @property
    def unit(self) -> Unit:
        """How its budgets are written."""
        return Unit(self.pixel, self.norm)

    def training_budget(self, trial: Trial, digits: int = 3) -> str | None:
        """A trial's training budget in words, such as "8 px"; None if it trains on clean images."""
        eps = float(trial.config.recipe.params.get("eps", 0.0))
        return self.unit.amount(eps, digits) if eps else None

    def budget_in_pixels(self, trial: Trial) -> float:
        """A trial's training budget in `pixel`; 0 if it trains on clean images."""
        return round(float(trial.config.recipe.params.get("eps", 0.0)) / self.pixel, 6)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a finished sweep: files in its folder, and a one-sentence summary."""

    files: tuple[str, ...]
    sentence: str

    def __post_init__(self) -> None:
        for file in self.files:
            check_file_name("report.files", file)


def check_time(where: str, written: str) -> None:
    """Check that a text is an ISO 8601 timestamp.

    Args:
        where: the field, for the error message.
    Raises:
        InputError: it is not one.
    """
    try:
        datetime.datetime.fromisoformat(written).timestamp()
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"{where}={brief_repr(written)} is not an ISO 8601 timestamp: write it as 2026-01-31T12:00:00+00:00"
        ) from error
