"""Mean and spread over seeds per setting: the table and the metrics of a sweep's own run."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bat_core.suites import is_verified
from sweeps.engine.cli.markdown import pipe_table
from sweeps.engine.cli.text import counted, percent
from sweeps.engine.sweep.records import TrialStatus
from sweeps.engine.sweep.spec import Sweep, Trial
from sweeps.engine.tracking.names import clean_metric, fitting, robust_metric, training_budget, verdict

FILE = "settings.json"
TABLES_TAG = "mlflow.loggedArtifacts"  # MLflow shows the files that it names as tables
TABLES = json.dumps([{"path": FILE, "type": "table"}])
MOST_METRICS = 50  # settings with metrics of their own
MOST_ROWS = 20  # of the table in the description
COLUMNS = (
    *("setting", "seeds", "split", "verified", "robust mean", "robust low", "robust high", "robust sd"),
    *("clean mean", "clean sd", "verdicts", "suite"),
)


@dataclass(frozen=True)
class Setting:
    """Finished trials that differ only in their seed. Verified and unverified ones are never in one setting.

    `label` names it in full, `short` in a metric's name.
    """

    label: str
    short: str
    verified: bool
    split: str
    trials: tuple[str, ...]
    robust: tuple[float, ...]
    clean: tuple[float, ...]
    verdicts: str
    suite: str
    reference: bool

    def row(self) -> list[Any]:
        """Its values below COLUMNS."""
        robust = [statistics.fmean(self.robust), min(self.robust), max(self.robust), spread(self.robust)]
        clean = [statistics.fmean(self.clean), spread(self.clean)]
        word = "yes" if self.verified else "no"
        return [self.label, len(self.robust), self.split, word, *robust, *clean, self.verdicts, self.suite]


def spread(values: Sequence[float]) -> float:
    """The standard deviation over seeds; 0 for one seed."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def settings(sweep: Sweep, rows: Sequence[tuple[Trial, TrialStatus]]) -> list[Setting]:
    """The settings, verified ones first, each kind by falling mean robust accuracy."""
    groups: dict[tuple[Any, ...], list[tuple[Trial, dict[str, Any]]]] = {}
    for trial, status in rows:
        if status.result is not None:
            result = dict(status.result)
            split = str(result.get("split", "test"))
            key = (trial.role, replace(trial.config, seed=0).hash, is_verified(result["suite"]), split)
            groups.setdefault(key, []).append((trial, result))
    found = [_setting(sweep, key, members) for key, members in groups.items()]
    return sorted(found, key=lambda one: (not one.verified, -statistics.fmean(one.robust)))


def _setting(sweep: Sweep, key: tuple[Any, ...], members: Sequence[tuple[Trial, dict[str, Any]]]) -> Setting:
    role, _, verified, split = key
    first = members[0][0]
    words = [verdict(result) for _, result in members]
    own = role in {"search", "finalist"}  # each of these has a setting that only its id names
    label = f"{first.config.recipe.name} at {training_budget(sweep, first)}"
    return Setting(
        label=f"{first.id}: {label}" if own else label,
        short=first.id if own else f"{first.config.recipe.name} {sweep.budget_in_pixels(first):g} px",
        verified=verified,
        split=split,
        trials=tuple(trial.id for trial, _ in members),
        robust=tuple(result["robust_acc"] for _, result in members),
        clean=tuple(result["clean_acc"] for _, result in members),
        verdicts=", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words)),
        suite=members[0][1]["suite"],
        reference=role == "reference",
    )


def table(found: Sequence[Setting]) -> str:
    """The table as the JSON that MLflow shows as one."""
    return json.dumps({"columns": list(COLUMNS), "data": [one.row() for one in found]})


def metrics(found: Sequence[Setting]) -> dict[str, float]:
    """Mean and standard deviation over seeds of settings with several seeds, and the best setting's mean."""
    numbers: dict[str, float] = {}
    for one in [one for one in found if len(one.trials) > 1][:MOST_METRICS]:
        label = fitting(one.short)
        for name, values in _named(one).items():
            numbers[f"{name}_mean/{label}"] = statistics.fmean(values)
            numbers[f"{name}_sd/{label}"] = spread(values)
    if found and (best := best_of(found)):
        numbers |= {f"best/{name}_mean": statistics.fmean(values) for name, values in _named(best).items()}
    return numbers


def _named(one: Setting) -> dict[str, tuple[float, ...]]:
    return {robust_metric(one.split, verified=one.verified): one.robust, clean_metric(one.split): one.clean}


def best_of(found: Sequence[Setting]) -> Setting | None:
    """The first setting that is verified and no reference; without one, the first of all."""
    return next((one for one in found if one.verified and not one.reference), found[0] if found else None)


def in_markdown(found: Sequence[Setting]) -> str:
    """The table for a description, shortened. A robust accuracy is in the column of its kind."""
    rows = []
    for one in found[:MOST_ROWS]:
        robust = f"{percent(statistics.fmean(one.robust))} ± {100 * spread(one.robust):.1f}"
        clean = f"{percent(statistics.fmean(one.clean))} ± {100 * spread(one.clean):.1f}"
        numbers = [robust, ""] if one.verified else ["", robust]
        rows.append([one.label, str(len(one.trials)), *numbers, clean, one.verdicts])
    head = ("setting", "seeds", "robust, verified", "robust, not verified", "clean", "verdicts")
    shown = pipe_table(head, rows, words=("setting", "verdicts"))
    rest = len(found) - MOST_ROWS
    return shown if rest <= 0 else f"{shown}\n\nand {counted(rest, 'more setting')}: see {FILE}."
