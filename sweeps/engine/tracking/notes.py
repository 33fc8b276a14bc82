"""What MLflow says in words: the descriptions of an experiment, of a sweep's run and of a trial's run."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from bat_core.norms import THREAT_TITLES
from bat_core.stats import wilson
from bat_core.suites import is_verified
from sweeps.engine.cli.markdown import escaped, harmless
from sweeps.engine.cli.text import counted, percent, with_interval
from sweeps.engine.sweep.records import TrialStatus
from sweeps.engine.sweep.spec import Report, Sweep, Trial
from sweeps.engine.tracking.names import clean_metric, robust_metric, training_budget, verdict
from sweeps.engine.tracking.settings_table import Setting, best_of, in_markdown

MOST_NAMED = 12
LONGEST = 4500  # characters of a description: MLflow takes 5,000 in a tag


def picture(run_id: str, file: str) -> str:
    """A picture that a run has as an artifact, in Markdown for a page of MLflow."""
    return f"![{file}](get-artifact?{urlencode({'path': file, 'run_uuid': run_id})})"


def trial_note(sweep: Sweep, trial: Trial, status: TrialStatus, pictures: Sequence[str] = ()) -> str:
    """What a trial is and what came out, and its `pictures`."""
    config = trial.config
    size = f", {config.data.train_size} training images" if config.data.train_size else ""
    what = (
        f"{config.model} trained by {config.recipe.name} on {config.data.name}{size}, budget"
        f" {training_budget(sweep, trial)}, {counted(config.train.epochs, 'epoch')}, seed {config.seed}."
    )
    return "\n\n".join([escaped(what), _outcome(sweep, trial, status), *pictures])


def _outcome(sweep: Sweep, trial: Trial, status: TrialStatus) -> str:
    if status.phase == "stopped" and status.bound is not None:
        return f"Trained to its end and not verified, since it cannot enter the front: {escaped(status.reason)}."
    if status.phase == "stopped":
        return (
            f"Stopped early after {counted(len(status.epochs), 'epoch')}, as planned:"
            f" {escaped(status.reason)}. Nothing failed; its budget went to better trials."
        )
    if status.phase == "failed":
        return f"**Failed**: {escaped(status.reason)}"
    if status.result is None:
        return "Not finished."
    return _result(status.result, sweep.unit.budget(trial.config.attack.eps))


def _result(result: Mapping[str, Any], eps: str) -> str:
    n, robust = result["robust_n"], result["robust_acc"]
    word = "verified" if is_verified(result["suite"]) else "NOT verified: stronger attacks can only lower it"
    flags = ", ".join(result["flags"])
    said = verdict(result) + (f" ({flags})" if flags else "")
    return (
        f"**Robust {with_interval(robust, wilson(round(robust * n), n))}** ({word}), clean"
        f" {percent(result['clean_acc'])}: {n} {result.get('split', 'test')} images, {eps},"
        f" {escaped(result['suite'])}.{_in_each_norm(result)} Gradient masking: {escaped(said)}."
    )


def _in_each_norm(result: Mapping[str, Any]) -> str:
    """What a trial that is verified in two norms reached in each, and in both at once; empty for others."""
    found = result.get("threats", {}).items()
    said = (f"{THREAT_TITLES.get(name, escaped(name))} {percent(one['robust_acc'])}" for name, one in found)
    return f" Robust in {', '.join(said)}." if found else ""


def sweep_note(report: Report, found: Sequence[Setting], pictures: Sequence[str]) -> str:
    """What a sweep found: the figure on top, the sentence, the best setting, and the mean and spread of each."""
    parts = [*pictures, harmless(report.sentence)]
    if best := best_of(found):
        kind = "verified" if best.verified else "not verified"
        parts.append(f"Best setting ({kind}): **{escaped(best.label)}**, trials {escaped(', '.join(best.trials))}.")
    if found:
        parts += ["Means over seeds ± standard deviation:", in_markdown(found)]
    note = "\n\n".join(parts)
    return note if len(note) <= LONGEST else "\n\n".join(parts[:-1])[:LONGEST]


def experiment_note(sweep: Sweep, trials: Sequence[Trial], report: Report | None) -> str:
    """What was swept, on what data, what came out, and how to read the columns."""
    configs = [trial.config for trial in trials]
    split = configs[0].attack.split if configs else "val"
    varied = {
        "recipes": sorted({config.recipe.name for config in configs}),
        "training budgets": list(dict.fromkeys(training_budget(sweep, trial) for trial in trials)),
        "seeds": sorted({str(config.seed) for config in configs}),
        "models": sorted({config.model for config in configs}),
    }
    data = sorted({config.data.name for config in configs})
    lines = [f"* {name}: {_some(values)}" for name, values in varied.items() if values]
    lines.append(f"* data: {_some(data)}; 1 px = {255 * sweep.pixel:g}/255; all accuracies on {split} images")
    robust, open_ = robust_metric(split, verified=True), robust_metric(split, verified=False)
    columns = [
        f"* `{robust}`: the share of images that stand against every attack, a verifying suite (Auto-PGD or AutoAttack)"
        " among them",
        f"* `{open_}`: the same without a verifying suite, or with masked gradients: stronger attacks can lower it",
        *_threat_columns(sweep, split),
        f"* `{clean_metric(split)}`: the share of images that are correct without an attack",
        "* `bat.verdict`: clear, suspect or masked gradients; nothing to mask: the model is not robust at all",
        "* `bat.suite`: the attacks behind the robust accuracy, and on how many images",
        "* `val/`: by epoch, weak attacks on validation images, not verified; `..._by_attack_steps/`: by attack steps",
    ]
    outcome = harmless(report.sentence) if report else "Not finished yet."
    parts = [
        f"{counted(len(trials), 'model')} on {_some(data)}: {outcome}",
        "**What was swept**:",
        "\n".join(lines),
        "**How to read the columns**:",
        "\n".join(columns),
    ]
    return "\n\n".join(parts)


def _threat_columns(sweep: Sweep, split: str) -> list[str]:
    """How to read the columns of each norm, and of the union, of a sweep that is verified in several."""
    names = {robust_metric(split, verified=True, threat=threat): THREAT_TITLES[threat] for threat in sweep.threats}
    return [f"* `{name}`: the share that stand in {title}" for name, title in names.items()]


def _some(values: Sequence[str]) -> str:
    shown = ", ".join(values[:MOST_NAMED])
    return escaped(shown if len(values) <= MOST_NAMED else f"{shown} and {len(values) - MOST_NAMED} more")
