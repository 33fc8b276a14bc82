"""How fast can a robust network be trained? Seconds on one GPU to a robust accuracy verified by AutoAttack.

python benchmarks/speedrun.py --data-dir DIR                                       # one GPU, five runs
python benchmarks/speedrun.py --dataset digits --network small_cnn_8 --epochs 2 --runs 2 --n 20 --suite quick

CIFAR-10, L-inf 8/255. A run counts if its accuracy on test images is at least 43.2 % under AutoAttack's standard suite
and at least 80 % clean (Fast-AT, Wong et al. 2020: 43.2 % and 83.3 %); further rows require 48 % and 50 %. The report
gives the training time from the first to the last step, and the total time with compilation and data loading. Neither
includes evaluation.

The method: one step from noise of twice the budget, without projection to the ball (N-FGSM, de Jorge et al. 2022),
which prevents catastrophic overfitting; a one-cycle schedule; averaged weights; mirroring of each image in every other
epoch instead of at random (K. Jordan's airbench); smaller images in early epochs. Needs bat_core only, and pyautoattack
for `standard`. The last line printed is a JSON object.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from support.bare import (
    add_image_options,
    evaluate_clean,
    evaluate_suite,
    machine,
    parser,
    say,
    stored_options,
    synchronise,
    table,
    write,
)
from torch import Tensor, nn

from bat_core.attacks.gradient import input_gradient
from bat_core.data import Dataset, load_dataset, to_unit
from bat_core.evaluate import Evaluator
from bat_core.forward import autocast, compiled, evaluation_mode, frozen, resolve_compile, resolve_precision
from bat_core.losses import cross_entropy
from bat_core.models import build_model
from bat_core.stats import wilson
from bat_core.suites import get_suite

TARGETS = ((0.432, 0.80), (0.48, 0.80), (0.50, 0.80))  # verified robust accuracy, clean accuracy
NOISE = 2.0  # as a multiple of the budget
PAD, MID_GREY = 4, 128
PEAK = 0.3  # share of training after which the learning rate peaks


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Train and verify `--runs` networks, and return the report."""
    options = _options(arguments)
    device = torch.device(options.device)
    torch.backends.cudnn.benchmark = True
    dataset = load_dataset(options.dataset, options.data_dir, train_size=options.train_size)
    report: dict[str, Any] = {"machine": machine(device), "options": stored_options(options), "runs": []}
    for seed in range(options.runs):
        began = time.perf_counter()
        model, seconds = train(dataset, options, device, seed)
        total = time.perf_counter() - began
        report["runs"].append(
            {"seed": seed, "seconds": seconds, "total": total, **verify(model, dataset, options, seed)}
        )
        say(f"run {seed}: {report['runs'][-1]}")
        write(options.output, report)
    report["rows"] = rows(report["runs"])
    write(options.output, report)
    print(format_report(report))
    print(json.dumps(report))
    return report


@dataclass(frozen=True)
class Batch:
    """Images uint8 (B, C, H, W) and their classes y (B,)."""

    images: Tensor
    y: Tensor


def train(dataset: Dataset, options: argparse.Namespace, device: torch.device, seed: int) -> tuple[nn.Module, float]:
    """The averaged network, and the seconds from the first to the last step."""
    torch.manual_seed(seed)
    shape = dataset.image_shape
    model = build_model(options.network, num_classes=dataset.num_classes, image_shape=shape)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = dataset.train.images[:].to(device), dataset.train.labels.to(device)
    if dataset.augmentation.pad:
        images = F.pad(images, (PAD,) * 4, value=MID_GREY)
    optimizer = _optimizer(model, options, device)
    run = compiled(model, resolve_compile(options.compile))
    updates = len(labels) // options.batch_size
    total = updates * options.epochs
    averaged = [tensor.detach().clone().float() for tensor in model.state_dict().values()]
    if run is not model:
        _warm_up(run, model, images, labels, shape[-1], dataset.pixel, options, device)
        optimizer = _optimizer(model, options, device)
    synchronise(device)
    began, step = time.perf_counter(), 0
    for epoch in range(options.epochs):
        size = _size(shape[-1], epoch / options.epochs, options)
        for batch in _epoch(images, labels, epoch, shape[-1], options.batch_size, flip=dataset.augmentation.flip):
            for group in optimizer.param_groups:
                group["lr"] = options.lr * _one_cycle(step / total)
            x = _resized(to_unit(batch.images), size).contiguous(memory_format=torch.channels_last)
            _update(run, model, optimizer, x, batch.y, dataset.pixel * options.eps, options, device)
            step += 1
            _average(averaged, model, min(options.decay, step / (step + 10)))
    synchronise(device)
    seconds = time.perf_counter() - began
    state = dict(zip(model.state_dict(), averaged, strict=True))
    model.load_state_dict({name: state[name].to(tensor.dtype) for name, tensor in model.state_dict().items()})
    return model.eval(), seconds


def _update(
    run: Any,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    y: Tensor,
    eps: float,
    options: argparse.Namespace,
    device: torch.device,
) -> None:
    """One attack step from noise, then one update on the result."""
    precision = resolve_precision(options.precision, device)
    if run is not model:
        torch.compiler.cudagraph_mark_step_begin()
    start = (x + NOISE * eps * (2 * torch.rand_like(x) - 1)).requires_grad_()
    with evaluation_mode(model), frozen(model), autocast(device, precision):
        gradient = input_gradient(cross_entropy(run(start), y), start)
    x_adv = (start.detach() + eps * gradient.sign()).clamp_(0, 1)
    optimizer.zero_grad(set_to_none=True)
    with autocast(device, precision):
        logits = run(x_adv)
    F.cross_entropy(logits.float(), y, label_smoothing=options.smoothing).backward()
    optimizer.step()


def _epoch(images: Tensor, labels: Tensor, epoch: int, size: int, batch_size: int, *, flip: bool) -> Any:
    """Batches of randomly cropped images. Each image is mirrored in every other epoch, half of them in even epochs."""
    device, count = labels.device, len(labels)
    order = torch.randperm(count, device=device)
    reach = images.shape[-1] - size
    for part in order[: count // batch_size * batch_size].split(batch_size):
        chosen = images[part]
        if reach:
            top, left = torch.randint(reach + 1, (2, len(part)), device=device)
            rows = top[:, None] + torch.arange(size, device=device)
            columns = left[:, None] + torch.arange(size, device=device)
            each = torch.arange(len(part), device=device)[:, None, None]
            chosen = chosen.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
        if flip:
            mirrored = ((part + epoch) % 2 == 0)[:, None, None, None]
            chosen = torch.where(mirrored, chosen.flip(3), chosen)
        yield Batch(chosen, labels[part])


def _warm_up(
    run: Any,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    size: int,
    pixel: float,
    options: argparse.Namespace,
    device: torch.device,
) -> None:
    """Compile for every image size, then restore the network's weights."""
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = _optimizer(model, options, device)
    for each in dict.fromkeys(_size(size, part / 100, options) for part in range(100)):
        batch = next(_epoch(images, labels, 0, size, options.batch_size, flip=True))
        x = _resized(to_unit(batch.images), each).contiguous(memory_format=torch.channels_last)
        _update(run, model, optimizer, x, batch.y, pixel * options.eps, options, device)
    model.load_state_dict(kept)


def _optimizer(model: nn.Module, options: argparse.Namespace, device: torch.device) -> torch.optim.Optimizer:
    groups = [
        {"params": [one for one in model.parameters() if one.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [one for one in model.parameters() if one.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=options.lr, momentum=0.9, nesterov=True, fused=device.type == "cuda")


def _one_cycle(done: float) -> float:
    return done / PEAK if done < PEAK else (1 - done) / (1 - PEAK)


def _size(full: int, done: float, options: argparse.Namespace) -> int:
    """Height and width of training images after a share of training; grows in steps of four to full size."""
    if options.small_until <= 0 or done >= options.small_until:
        return full
    grown = options.small + (1 - options.small) * done / options.small_until
    return min(full, max(4, round(full * grown / 4) * 4))


def _resized(x: Tensor, size: int) -> Tensor:
    return x if x.shape[-1] == size else F.interpolate(x, size=(size, size), mode="bilinear", antialias=True)


@torch.no_grad()
def _average(averaged: list[Tensor], model: nn.Module, decay: float) -> None:
    """Update the exponential moving average of weights and batch norm statistics."""
    torch._foreach_lerp_(averaged, [tensor.float() for tensor in model.state_dict().values()], 1 - decay)


def verify(model: nn.Module, dataset: Dataset, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Clean and verified robust accuracy on test images, in float32."""
    part = dataset.test.take(slice(options.n)).in_memory()
    evaluator = Evaluator(model, seed=seed)
    suite = get_suite(options.suite, eps=dataset.pixel * options.eps)
    began = time.perf_counter()
    verdicts = evaluate_suite(evaluator, evaluate_clean(evaluator, part, options.batch), part, suite, options.batch)
    return {
        "clean_acc": verdicts.clean_acc,
        "robust_acc": verdicts.robust_acc,
        "robust_interval": list(wilson(int(verdicts.robust_correct.sum()), len(verdicts))),
        "n": len(verdicts),
        "suite": suite.label,
        "verify_seconds": time.perf_counter() - began,
    }


def rows(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each target, and the number of runs that reached it."""
    return [
        {
            "robust_acc": robust,
            "clean_acc": clean,
            "reached": sum(one["robust_acc"] >= robust and one["clean_acc"] >= clean for one in runs),
            "of": len(runs),
        }
        for robust, clean in TARGETS
    ]


def format_report(report: dict[str, Any]) -> str:
    """Means and standard deviations over runs, and the targets."""
    runs = report["runs"]

    def over(name: str, scale: float, unit: str) -> str:
        values = [scale * one[name] for one in runs]
        deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.2f}{deviation} {unit}"

    said = table(
        ("runs", "training", "total", "clean", f"robust: {runs[0]['suite']}, n = {runs[0]['n']}"),
        [
            [
                str(len(runs)),
                over("seconds", 1, "s"),
                over("total", 1, "s"),
                over("clean_acc", 100, "%"),
                over("robust_acc", 100, "%"),
            ]
        ],
    )
    bars = [
        f"{row['reached']} of {row['of']} runs reach {row['robust_acc']:.1%} robust at {row['clean_acc']:.0%} clean"
        for row in report["rows"]
    ]
    return "\n".join([said, *bars])


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = add_image_options(parser(__doc__))
    made.set_defaults(n=10_000)
    made.add_argument("--network", default="preact_resnet18")
    made.add_argument("--epochs", type=int, default=12)
    made.add_argument("--batch-size", type=int, default=256)
    made.add_argument("--lr", type=float, default=0.2)
    made.add_argument("--weight-decay", type=float, default=5e-4)
    made.add_argument("--smoothing", type=float, default=0.0, help="label smoothing")
    made.add_argument("--decay", type=float, default=0.998, help="decay of the averaged weights per step")
    made.add_argument("--small", type=float, default=0.75, help="initial image size, as a share of the full size")
    made.add_argument("--small-until", type=float, default=0.4, help="share of training in which images grow")
    made.add_argument("--precision", default="auto")
    made.add_argument("--compile", default="off", choices=("off", "on", "graphs"))
    made.add_argument("--eps", type=float, default=8, help="budget in pixels")
    made.add_argument("--runs", type=int, default=5)
    made.add_argument("--suite", default="standard")
    return made.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
