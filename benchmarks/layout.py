"""The time of attacking a stored model in channels-last layout, as `load_model` returns it, relative to plain layout.

python benchmarks/layout.py --models small_cnn preact_resnet18 wrn_10_1 --turns 9

Both copies of a network have the same weights and attack the same images by PGD through `bat_core.evaluate`, which
gives images in channels-last layout to every model. They take turns; each turn starts with the other one. The report
also says whether their logits and verdicts are equal bit for bit. Needs bat_core only; the last line printed is a JSON
object.
"""

import argparse
import copy
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import speed
import torch
from support.bare import machine, parser, say, spread, stored_options, synchronise, table, write
from torch import nn

from bat_core.config import AttackConfig
from bat_core.data import to_unit
from bat_core.evaluate import Evaluator, evaluate
from bat_core.models import build_model

LAYOUTS = {"plain": torch.contiguous_format, "channels-last": torch.channels_last}


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Time every model and return the report."""
    options = _options(arguments)
    device = torch.device(options.device)
    report: dict[str, Any] = {"machine": machine(device), "options": stored_options(options), "models": {}}
    for name in options.models:
        say(f"{name}: batch {options.batch_size}, PGD-{options.pgd_steps}")
        report["models"][name] = measure(name, options, device)
        write(options.output, report)
    print(format_report(report))
    print(json.dumps(report))
    return report


def measure(name: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds per turn by layout, their ratio, and whether logits and verdicts are the same."""
    part = speed.noise(options.batch_size, options.image_size, seed=0).train
    torch.manual_seed(0)
    plain = build_model(name, num_classes=10, image_shape=(3, options.image_size, options.image_size)).to(device).eval()
    models: dict[str, nn.Module] = {
        layout: copy.deepcopy(plain).to(memory_format=memory_format)  # type: ignore[call-overload]
        for layout, memory_format in LAYOUTS.items()
    }
    attack = AttackConfig(steps=(options.pgd_steps,), losses=("ce",))
    seconds: dict[str, list[float]] = {layout: [] for layout in models}
    verdicts = {}
    for turn in range(options.turns + 1):
        for layout in sorted(models, reverse=bool(turn % 2)):
            synchronise(device)
            began = time.perf_counter()
            verdicts[layout] = evaluate(
                models[layout], part.images, part.labels, attack=attack, batch_size=options.batch_size
            )
            synchronise(device)
            if turn:  # the first turn warms up
                seconds[layout].append(time.perf_counter() - began)
    with torch.no_grad():
        x = to_unit(part.images.to(device))
        logits = [Evaluator(model).logits(x) for model in models.values()]
    outcomes = [one.outcomes["ce"] for one in verdicts.values()]
    return {
        "seconds": {layout: spread(times) for layout, times in seconds.items()},
        "plain_over_channels_last": spread([a / b for a, b in zip(*seconds.values(), strict=True)]),
        "same_logits": torch.equal(*logits),
        "same_verdicts": bool(np.array_equal(*(one.broken_at for one in outcomes))),
    }


def format_report(report: dict[str, Any]) -> str:
    """A table of all models."""
    rows = []
    for name, found in report["models"].items():
        ratio = found["plain_over_channels_last"]
        same = ["the same" if found[key] else "other" for key in ("same_logits", "same_verdicts")]
        rows.append([name, f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f})", *same])
    return table(["model", "plain over channels-last", "logits", "verdicts"], rows)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--models", nargs="+", default=["small_cnn", "preact_resnet18"])
    made.add_argument("--image-size", type=int, default=32)
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--pgd-steps", type=int, default=3)
    made.add_argument("--turns", type=int, default=7)
    return made.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
