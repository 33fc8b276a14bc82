"""The time of a training step relative to plain training: the theoretical value, the measured one and its parts.

python benchmarks/speed.py                                             # a CPU, random images, a small network
python benchmarks/speed.py --model wrn_28_10 --batch-size 256 --variants bfloat16 compile --device cuda

F is one forward pass. A backward pass to the images costs about F, one to images and weights 2F. Plain training costs
3F. R-MC-LA costs 6F (clean logits F, attack 2F, update 3F), 2.0 times plain; R-MC-LA-5F costs 1.67 times plain and
Madry 17F.

Recipes take turns on the same network, images, precision and batch; each turn starts with another recipe. Ratios
compare times of the same turn and are given as median, minimum and maximum over turns. Steps are those of
`bat_core.fit`, with augmentation and optimiser. `--passes` also times the passes. Needs bat_core only; the last line
printed is a JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from support.bare import machine, parser, say, spread, stored_options, synchronise, table, write

from bat_core.attacks.gradient import input_gradient
from bat_core.config import RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Dataset, Split
from bat_core.data.augment import CROP_AND_FLIP
from bat_core.fit import TrainState, fit_by_batch, initial_state
from bat_core.forward import autocast, evaluation_mode, resolve_layout, resolve_precision

PASSES = {"Undefended": 3, "R-MC-LA": 6, "R-MC-LA-5F": 5, "Madry": 17}
PLAIN, BAT, MADRY = "Undefended", "R-MC-LA", "Madry"
WITHIN, AT_LEAST = 0.05, 2.7  # targets: R-MC-LA within 5 % of 2.0 times plain; Madry at least 2.7 times R-MC-LA
VARIANTS = {
    "float32": {"precision": "float32"},
    "bfloat16": {"precision": "bfloat16"},
    "contiguous": {"precision": "bfloat16", "channels_last": "off"},
    "compile": {"precision": "bfloat16", "compile": "on"},
    "graphs": {"precision": "bfloat16", "compile": "graphs"},
    "float32-compile": {"precision": "float32", "compile": "on"},
}
WARM_UP = 3  # untimed steps at the start


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Time every variant and return the report."""
    options = _options(arguments)
    device = torch.device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": machine(device), "options": stored_options(options), "variants": {}}
    dataset = noise(options.images, options.image_size, seed=0)
    for variant in options.variants:
        say(f"{variant}: {options.model}, batch {options.batch_size}")
        measured = steps(variant, dataset, options, device)
        if options.passes:
            measured["passes"] = passes(variant, dataset, options, device)
        report["variants"][variant] = measured
        write(options.output, report)
        print(format_variant(variant, measured))
    print(json.dumps(report))
    return report


def steps(variant: str, dataset: Dataset, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Seconds per step for each recipe and turn, and the ratios per turn."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    running = {recipe: _updates(_config(recipe, variant, options), dataset, device) for recipe in options.recipes}
    began = time.perf_counter()
    for one in running.values():
        _take(one, WARM_UP, device)
    warm = time.perf_counter() - began
    seconds: dict[str, list[float]] = {recipe: [] for recipe in running}
    names = list(running)
    for turn in range(options.turns):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(_take(running[name], options.steps, device) / options.steps)
    ratios = {
        recipe: spread([ours / plain for ours, plain in zip(times, seconds[PLAIN], strict=True)])
        for recipe, times in seconds.items()
    }
    measured: dict[str, Any] = {
        "milliseconds": {recipe: spread([1000 * one for one in times]) for recipe, times in seconds.items()},
        "images_per_second": {recipe: options.batch_size / min(times) for recipe, times in seconds.items()},
        "over_plain": ratios,
        "counted": {recipe: PASSES[recipe] / PASSES[PLAIN] for recipe in seconds},
        "warm_up_seconds": warm,
    }
    if BAT in seconds and MADRY in seconds:
        pairs = zip(seconds[MADRY], seconds[BAT], strict=True)
        measured["madry_over_bat"] = spread([slow / fast for slow, fast in pairs])
    if device.type == "cuda":
        measured["memory_bytes"] = torch.cuda.max_memory_allocated(device)
    return measured


def passes(variant: str, dataset: Dataset, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Milliseconds of each pass of a step, to verify the assumed costs."""
    config = _config(PLAIN, variant, options)
    model = initial_state(config, dataset, device).model
    precision = resolve_precision(config.train.precision, device)
    x = (dataset.train.images[: options.batch_size].to(device) / 255).contiguous(
        memory_format=resolve_layout(config.train.channels_last)
    )
    y = dataset.train.labels[: options.batch_size].to(device)

    def forward() -> None:
        with evaluation_mode(model), autocast(device, precision), torch.no_grad():
            model(x)

    def to_images() -> None:
        z = x.clone().requires_grad_()
        with evaluation_mode(model), autocast(device, precision):
            input_gradient(F.cross_entropy(model(z).float(), y), z)

    def to_weights() -> None:
        with autocast(device, precision):
            loss = F.cross_entropy(model(x).float(), y)
        loss.backward()
        model.zero_grad(set_to_none=True)

    timed = {"forward": forward, "forward and to images": to_images, "forward and to weights": to_weights}
    milliseconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(options.turns + 1):
        for name, run in timed.items():
            synchronise(device)
            began = time.perf_counter()
            for _ in range(options.steps):
                run()
            synchronise(device)
            if turn:
                milliseconds[name].append(1000 * (time.perf_counter() - began) / options.steps)
    over = {
        name: spread([one / base for one, base in zip(times, milliseconds["forward"], strict=True)])
        for name, times in milliseconds.items()
    }
    return {"milliseconds": {name: spread(times) for name, times in milliseconds.items()}, "over_forward": over}


def format_variant(variant: str, measured: dict[str, Any]) -> str:
    """The table of one variant, and whether the targets are met."""
    rows = [
        [
            recipe,
            f"{measured['milliseconds'][recipe]['median']:.1f}",
            f"{measured['images_per_second'][recipe]:.0f}",
            f"{ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f})",
            f"{measured['counted'][recipe]:.2f}",
        ]
        for recipe, ratio in measured["over_plain"].items()
    ]
    said = [table([variant, "ms a step", "images/s", "over plain: median (least-most)", "counted"], rows)]
    if "madry_over_bat" in measured:
        bat, madry = measured["over_plain"][BAT]["median"], measured["madry_over_bat"]["median"]
        met = {True: "met", False: "missed"}
        said.append(
            f"R-MC-LA over plain {bat:.3f}, within {WITHIN:.0%} of 2: {met[abs(bat / 2 - 1) <= WITHIN]};"
            f" Madry over R-MC-LA {madry:.2f}, at least {AT_LEAST}: {met[madry >= AT_LEAST]}."
        )
    for name, ratio in measured.get("passes", {}).get("over_forward", {}).items():
        said.append(f"{name}: {ratio['median']:.2f} ({ratio['least']:.2f}-{ratio['most']:.2f}) of a forward pass")
    return "\n".join(said) + "\n"


def noise(count: int, size: int, *, seed: int) -> Dataset:
    """A data set of random images: the time of a step does not depend on their content."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=generator)
    split = Split.of(images, torch.randint(10, (count,), generator=generator))
    few = split.take(slice(8))
    return Dataset(
        name="noise",
        train=split,
        val=few,
        test=few,
        class_names=tuple("0123456789"),
        pixel=1 / 255,
        augmentation=CROP_AND_FLIP,
    )


def _config(recipe: str, variant: str, options: argparse.Namespace) -> TrialConfig:
    train = TrainConfig(epochs=10**6, batch_size=options.batch_size, lr=1e-3, **VARIANTS[variant])
    return TrialConfig(model=options.model, recipe=RecipeConfig(name=recipe), train=train)


def _updates(config: TrialConfig, dataset: Dataset, device: torch.device) -> Iterator[TrainState]:
    """An endless sequence of updates. Epochs are longer than the timed turns, so validation is rare."""
    for event in fit_by_batch(config, dataset, device=device):
        if isinstance(event, TrainState):
            yield event


def _take(updates: Iterator[TrainState], count: int, device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    for _ in range(count):
        next(updates)
    synchronise(device)
    return time.perf_counter() - began


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--recipes", nargs="+", default=list(PASSES), choices=list(PASSES))
    made.add_argument("--variants", nargs="+", default=["float32"], choices=list(VARIANTS))
    made.add_argument("--model", default="small_cnn")
    made.add_argument("--batch-size", type=int, default=128)
    made.add_argument("--image-size", type=int, default=32)
    made.add_argument(
        "--images", type=int, default=4096, help="images per epoch; an epoch should be longer than a turn"
    )
    made.add_argument("--turns", type=int, default=7)
    made.add_argument("--steps", type=int, default=3, help="steps per recipe and turn")
    made.add_argument("--passes", action="store_true", help="also time forward and backward passes")
    made.add_argument("--threads", type=int, help="number of torch's CPU threads")
    return made.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
