"""Writes and reads summary.json, which an evaluation leaves for each model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bat_core.config import from_dict, to_dict
from bat_core.errors import InputError
from bat_core.jsontext import read_json
from bat_core.masking.flags import Findings
from bat_core.norms import LINF
from bat_core.paths import Rooted, below, read_regular, write_atomically
from bat_core.stats import wilson
from bat_core.suites import NOT_VERIFIED, Entry
from bat_core.verdicts import Verdicts
from sweeps.engine.evaluation.attack import CHECKS, SUMMARY, Evaluation
from sweeps.engine.evaluation.audit import read_audit
from sweeps.engine.evaluation.best import LEFT
from sweeps.engine.evaluation.published import comparison, find_published
from sweeps.engine.evaluation.sampling import sample_of, sampled_label
from sweeps.engine.evaluation.spec import ModelRecord


def summarise(
    evaluation: Evaluation, model: ModelRecord, verdicts: Verdicts, folder: Rooted, *, standing: int | None = None
) -> dict[str, Any]:
    """Write and return summary.json of the model in `folder`. Accuracies are in [0, 1], intervals 95 % Wilson.

    If images were drawn, the robust accuracy is the upper end of the interval in `sampled`.

    Args:
        verdicts: under the attacks on all images, as far as the model met them.
        standing: how many images stand, for a model that was left before all attacks were over.
    """
    suite, checked = evaluation.attacks(), below(folder, CHECKS)
    checks = _read_checks(checked) if checked.exists() else None
    met = [entry for entry in evaluation.entries() if entry.name in verdicts.outcomes]
    attacks = per_attack(met, verdicts, evaluation.seed)
    status = checks["verdict"] if checks else "not checked"
    n, label, sample = len(verdicts), suite.label_for(status), None
    robust = int(verdicts.robust_correct.sum())
    interval: tuple[float, float] = wilson(robust, n)
    if standing is not None:
        robust, interval, label = standing, wilson(standing, n), f"{suite.title}{NOT_VERIFIED}: {LEFT}"
    if evaluation.sampled:
        sample = sample_of(evaluation, folder)
        robust, label = round(sample.high * n), sampled_label(evaluation, sample, status)
        interval = wilson(robust, n) if sample.exact else (sample.low, sample.high)
    exact = standing is None and (sample is None or sample.exact)
    summary = {
        "model": model.source.name,
        "source": to_dict(model.source),
        "fingerprint": model.fingerprint,
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "n": len(verdicts),
        "eps": evaluation.eps,
        **({"eps_pixels": evaluation.eps_in_pixels} if evaluation.norm == LINF else {"norm": evaluation.norm}),
        "suite": label,
        "verified_by": suite.verified_by if exact else None,
        "clean_acc": verdicts.clean_acc,
        "clean_acc_interval": list(wilson(int(verdicts.clean_correct.sum()), len(verdicts))),
        "robust_acc": robust / n,
        "robust_acc_interval": list(interval),
        "per_attack": {attack["name"]: attack["acc"] for attack in attacks},
        "attacks": attacks,
        "verdict": status,
        "flags": checks["flags"] if checks else [],
        "findings": list(model.findings),
        "seed": evaluation.seed,
        "evaluation": evaluation.id,
        "version": evaluation.version,
    }
    if sample is not None:
        summary["sampled"] = {**to_dict(sample), "exact": sample.exact}
    theirs = find_published(model.source.factory, evaluation.dataset, evaluation.norm, evaluation.eps)
    if theirs is not None and evaluation.split == "test" and exact:
        said = comparison(theirs, robust_acc=robust / n, n=n, suite=label)
        summary |= {"published_acc": theirs.robust_acc, "published": said}
    if (audited := read_audit(folder)) is not None:
        summary["audit"] = to_dict(audited)
    write_atomically(below(folder, SUMMARY), json.dumps(summary, indent=1))
    return summary


def _read_checks(path: Path) -> dict[str, Any]:
    """The findings of the checks for gradient masking.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return to_dict(from_dict(Findings, read_json(read_regular(path))))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is damaged: {error}; remove it, and --resume checks again") from error


def per_attack(entries: Sequence[Entry], verdicts: Verdicts, seed: int) -> list[dict[str, Any]]:
    """One entry per reported number: the attack, its settings, the accuracy and its interval.

    `alone` is True for an attack on all images, and False for an attack on the images that are still correct after
    the attacks before it. In the second case, the accuracy counts the images that are correct after this attack.
    """
    lines = []
    for number, entry in enumerate(entries):
        outcome, settings = verdicts.outcomes[entry.name], entry.describe()
        for position, (name, step) in enumerate(entry.readings()):
            if entry.skip_broken:
                correct = verdicts.robust_after(number + 1)
            else:
                correct = outcome.robust if step is None else outcome.final[:, position]
            lines.append(
                {
                    "name": name,
                    "acc": float(correct.mean()),
                    "interval": list(wilson(int(correct.sum()), len(correct))),
                    "n": len(correct),
                    "alone": not entry.skip_broken,
                    "steps": step or settings.get("num_steps"),
                    "searches": entry.num_searches,
                    "step_size": settings.get("step_size"),
                    "restarts": settings["restarts"],
                    "loss": settings.get("loss"),
                    "target": settings["target"],
                    "seed": seed,
                }
            )
    return lines


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A red flag that was raised."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is read of a model's summary.json. Accuracies are in [0, 1]."""

    clean_acc: float
    robust_acc: float
    robust_acc_interval: tuple[float, ...]
    n: int
    suite: str
    verdict: str
    flags: tuple[Flag, ...]

    def __post_init__(self) -> None:
        low_high = self.robust_acc_interval
        if len(low_high) != 2 or not all(0 <= share <= 1 for share in (self.clean_acc, self.robust_acc, *low_high)):
            raise InputError("its accuracies must be in [0, 1], and its interval needs a low and a high one")


def read_summary(path: Rooted) -> Summary:
    """The summary in a file.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        content = read_json(read_regular(path))
        known = {field.name: content[field.name] for field in fields(Summary)}
        flags = [{"name": flag["name"]} for flag in known["flags"]]
        return from_dict(Summary, known | {"flags": flags})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(path)!r} is not a complete summary: {error}") from error
