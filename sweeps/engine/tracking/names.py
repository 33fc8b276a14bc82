"""What MLflow calls a trial's numbers and settings.

A name says what its number is. Accuracies on test images that a verifying suite has seen are `robust_acc` and
`clean_acc`. On validation images they end in `_val`, and what no verifying suite has seen ends in `_not_verified`.
Names with a slash form sections in MLflow: `train/` and `val/` by epoch, `test_by_attack_steps/` by attack steps.
"""

import re
from collections.abc import Mapping
from typing import Any

from bat_core.config import TrialConfig, flatten, to_dict
from bat_core.masking.flags import status_in_words
from bat_core.suites import is_verified
from sweeps.engine.cli.text import budget
from sweeps.engine.sweep.spec import Sweep, Trial

VERSION = "2"  # of the names: runs with earlier ones are kept apart
MOST_PARAMS = 20
EPOCH_METRICS = {
    "lr": "train/lr",
    "train_loss": "train/loss",
    "train_acc": "train/acc",
    "val_clean_acc": "val/clean_acc",
    "val_robust_acc": "val/pgd{val_steps}_acc",
    "val_one_step_acc": "val/one_step_acc",
    "seconds": "system/epoch_seconds",  # MLflow shows what begins so in a tab of its own
    "cpu_percent": "system/cpu_utilization_percentage",
    "memory_mb": "system/process_memory_usage_megabytes",
    "gpu_memory_mb": "system/gpu_memory_usage_megabytes",
}
FIRST = ("train.epochs", "train.batch_size", "train.lr", "train.schedule", "train.weight_decay", "train.precision")


def epoch_metric(name: str, config: TrialConfig) -> str:
    """The metric that has a number of an epoch's record."""
    return EPOCH_METRICS[name].format(val_steps=config.train.val_steps)


def clean_metric(split: str) -> str:
    """The metric of clean accuracy on the images of a split."""
    return f"clean_acc{_suffix(split)}"


def robust_metric(split: str, *, verified: bool, threat: str | None = None) -> str:
    """The metric of the worst case over all attacks: one name if it is verified, another if it is not.

    `threat` is a norm, or "union", of a trial that is verified in two norms.
    """
    name = f"robust_acc_{threat}" if threat else "robust_acc"
    return f"{name}{_suffix(split)}" + ("" if verified else "_not_verified")


def headline(result: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies of a finished trial's record."""
    split = result.get("split", "test")
    threats = {
        robust_metric(split, verified=is_verified(one["suite"]), threat=fitting(name)): one["robust_acc"]
        for name, one in result.get("threats", {}).items()
    }
    return {
        clean_metric(split): result["clean_acc"],
        robust_metric(split, verified=is_verified(result["suite"])): result["robust_acc"],
        f"pgd_acc{_suffix(split)}": result["pgd_acc"],
        **threats,
    }


def curve_metric(split: str, loss: str, reading: str) -> str:
    """The metric of a curve whose steps are attack steps."""
    return f"{split}_by_attack_steps/pgd_{loss}_{reading}"


def _suffix(split: str) -> str:
    return "" if split == "test" else f"_{split}"


def verdict(result: Mapping[str, Any]) -> str:
    """What the checks for gradient masking say of a finished trial."""
    return status_in_words(result["verdict"], result["robust_acc"])


def training_budget(sweep: Sweep, trial: Trial) -> str:
    """A trial's training budget, as "40/255 (8 px)"; "none" for clean training."""
    eps = float(trial.config.recipe.params.get("eps", 0.0))
    return budget(eps, sweep.unit) if eps else "none"


def params(sweep: Sweep, trial: Trial) -> tuple[dict[str, str], str]:
    """The settings that tell trials apart, at most MOST_PARAMS, and all others in one text."""
    config = trial.config
    flat = {name: value for name, value in flatten(to_dict(config)).items() if value is not None}
    shown = {
        "dataset": config.data.name,
        "model": config.model,
        "recipe": config.recipe.name,
        "budget": training_budget(sweep, trial),
        "seed": str(config.seed),
        "attack_budget": budget(config.attack.eps, sweep.unit),
    }
    known = {"data.name", "model", "recipe.name", "recipe.params.eps", "seed", "attack.eps"}
    recipe = [name for name in flat if name.startswith("recipe.params.")]
    for name in (*FIRST, *recipe):
        if name in flat and name not in known and len(shown) < MOST_PARAMS:
            shown[name.replace("recipe.params.", "recipe.")] = plain(flat[name])
            known.add(name)
    return shown, ", ".join(f"{name}={plain(value)}" for name, value in flat.items() if name not in known)


def plain(value: Any) -> str:
    """A setting as text, equal for 10 and 10.0: MLflow rejects a different text for the same parameter."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def fitting(name: str) -> str:
    """A text as a part of a metric's or model's name, which MLflow restricts."""
    return re.sub(r"[^\w\- ]", "_", name)
