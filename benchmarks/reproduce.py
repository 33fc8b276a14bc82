"""The paper's best method at full size on one GPU, compared with the paper's accuracies and with AutoAttack.

python benchmarks/reproduce.py --data-dir DIR                                       # PreActResNet-18, 30 epochs
python benchmarks/reproduce.py --data-dir DIR --model wrn_28_10 --epochs 100 --schedule multi_step
python benchmarks/reproduce.py --dataset digits --model small_cnn --epochs 3 --n 100   # smoke test on a CPU

Trains R-MC-LA at 8 and at 4 pixels, evaluates both models with the suites `paper` and `standard` on the same test
images, and runs the masking checks. Needs bat_core and its dependencies, and pyautoattack for `standard`; neither Ray
nor MLflow. The last line printed, also written to --output, is a JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from support.bare import add_image_options, evaluate_clean, evaluate_suite, machine, parser, say, stored_options, write

from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig, to_dict
from bat_core.data import Dataset, load_dataset
from bat_core.evaluate import Evaluator
from bat_core.fit import fit
from bat_core.masking.checks import examine
from bat_core.recipes import recipe_params
from bat_core.stats import wilson
from bat_core.suites import Suite, get_suite
from bat_core.verdicts import Verdicts

PAPER = {8: {"clean": 90.8, "CE100": 52.9, "CW100": 51.9}, 4: {"clean": 93.0, "CE100": 60.1, "CW100": 58.0}}  # Table 6
ROBUSTBENCH = {4: {"clean": 92.80, "AutoAttack": 29.35}}  # the authors' model, all 10,000 test images


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Train and evaluate a model for each budget, and return the report."""
    options = _options(arguments)
    device = torch.device(options.device)
    dataset = load_dataset(options.dataset, options.data_dir, train_size=options.train_size)
    report: dict[str, Any] = {
        "machine": machine(device),
        "options": stored_options(options),
        "robustbench": ROBUSTBENCH,
        "models": [],
    }
    for pixels in options.eps_x:
        report["models"].append(_model(pixels, dataset, options, device))
        write(options.output, report)
    print(json.dumps(report))
    return report


def _model(pixels: int, dataset: Dataset, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    config = _config(pixels, dataset, options)
    say(f"{options.recipe} at {pixels} pixels: {options.epochs} epochs of {options.model}")
    began, seconds, reports = time.perf_counter(), [], []
    for one in fit(config, dataset, device=device):
        seconds.append(one.seconds)
        reports.append(one.metrics())
        say(f"epoch {one.epoch}: {one.seconds:.1f} s, clean {one.val_clean_acc:.3f}, robust {one.val_robust_acc:.3f}")
    trained = time.perf_counter() - began
    model = one.state.model
    evaluator = Evaluator(model, seed=options.seed, precision=options.precision)
    part = dataset.test.take(slice(options.n)).in_memory()
    verdicts = evaluate_clean(evaluator, part, options.batch)
    took = {}
    suites = [get_suite(one, eps=config.attack.eps, step_size=config.attack.step_size) for one in options.suites]
    for suite in suites:
        began = time.perf_counter()
        verdicts = evaluate_suite(evaluator, verdicts, part, suite, options.batch)
        took[suite.name] = time.perf_counter() - began
        say(f"{suite.name}: {verdicts.robust_acc:.3f} hold, {took[suite.name]:.0f} s")
    findings = examine(
        model, dataset.val.images, dataset.val.labels, eps=config.attack.eps, depth="cheap", seed=options.seed
    )
    return {
        "eps_x": pixels,
        "config": to_dict(config),
        "paper": PAPER.get(pixels, {}),
        "ours": _accuracies(verdicts, suites),
        "n": len(verdicts),
        "robust_interval": list(wilson(int(verdicts.robust_correct.sum()), len(verdicts))),
        "verdict": findings.masking_status,
        "flags": [flag.name for flag in findings.flags],
        "train_seconds": trained,
        "epoch_seconds": seconds,
        "suite_seconds": took,
        "epochs": reports,
        "memory_bytes": torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None,
    }


def _accuracies(verdicts: Verdicts, suites: Sequence[Suite]) -> dict[str, float]:
    """Accuracies in percent: clean, under each attack with listed steps, and the worst case."""
    found = {"clean": 100 * verdicts.clean_acc}
    for entry in (entry for suite in suites for entry in suite.entries if entry.steps):
        stands = verdicts.outcomes[entry.name].final.mean(0)
        found |= {name: 100 * float(one) for (name, _), one in zip(entry.readings(), stands, strict=True)}
    return found | {f"worst case of {'+'.join(suite.name for suite in suites)}": 100 * verdicts.robust_acc}


def _config(pixels: int, dataset: Dataset, options: argparse.Namespace) -> TrialConfig:
    eps = 8 * dataset.pixel
    return TrialConfig(
        data=DataConfig(name=options.dataset, train_size=options.train_size),
        model=options.model,
        recipe=RecipeConfig(
            name=options.recipe, params={**recipe_params(options.recipe), "eps": pixels * dataset.pixel}
        ),
        train=TrainConfig(
            epochs=options.epochs,
            batch_size=options.batch_size,
            lr=options.lr,
            schedule=options.schedule,
            precision=options.precision,
            on_collapse="go_on",
        ),
        attack=AttackConfig(eps=eps, step_size=eps / 4),
        seed=options.seed,
    )


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = add_image_options(parser(__doc__))
    made.add_argument("--recipe", default="R-MC-LA")
    made.add_argument("--eps-x", type=int, nargs="+", default=[8, 4], help="training budgets in pixels")
    made.add_argument("--model", default="preact_resnet18")
    made.add_argument("--epochs", type=int, default=30)
    made.add_argument("--batch-size", type=int, default=128)
    made.add_argument("--lr", type=float, default=0.1)
    made.add_argument("--schedule", default="one_cycle")
    made.add_argument("--precision", default="auto")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--suites", nargs="+", default=["paper", "standard"])
    return made.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
