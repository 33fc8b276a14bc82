"""All measurements that need a GPU in one run: correctness, speed and results.

python benchmarks/gpu.py --data-dir DIR --output results.json                  # one GPU, all sections
python benchmarks/gpu.py --device cpu --network small_cnn_8 --wide small_cnn_8 --sections references rate steps

references  logits, labels, an attack step and weight gradients on this device, compared with float64 on the CPU
rate        the measured bf16 matrix rate of the GPU, and the share of it that an R-MC-LA step reaches
steps       benchmarks/speed.py on both networks: layouts, precisions, torch.compile
evaluation  gradient steps per second of PGD by batch size, compared with the bare forward and backward passes
speedrun    benchmarks/speedrun.py
reproduce   benchmarks/reproduce.py

The result of each section is written as soon as it is available. A section that fails does not stop the others. Needs
bat_core only, and pyautoattack for AutoAttack.
"""

import argparse
import contextlib
import io
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import reproduce
import speed
import speedrun
import torch
import torch.nn.functional as F
from support.bare import machine, parser, say, spread, synchronise, table, write
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bat_core.attacks import fgsm
from bat_core.attacks.gradient import input_gradient
from bat_core.config import AttackConfig, RecipeConfig, TrialConfig
from bat_core.data import to_unit
from bat_core.evaluate import evaluate
from bat_core.fit import initial_state
from bat_core.forward import autocast, eval_without_tf32, resolve_precision, without_tf32
from bat_core.labels import adversarial_label

PASSES = speed.PASSES["R-MC-LA"]
TARGET_SHARE = 0.5  # target for WRN-28-10, as a share of the matrix rate


def main(arguments: Sequence[str]) -> dict[str, Any]:
    """Run the sections and return the report."""
    options = _options(arguments)
    device = torch.device(options.device)
    report: dict[str, Any] = {"machine": machine(device), "sections": {}}
    sections: dict[str, Callable[[argparse.Namespace, torch.device], dict[str, Any]]] = {
        "references": references,
        "rate": rate,
        "steps": steps,
        "evaluation": evaluation,
        "speedrun": run_fast,
        "reproduce": run_paper,
    }
    for name in options.sections:
        say(f"== {name}")
        began = time.perf_counter()
        try:
            found = sections[name](options, device)
        except Exception:
            found = {"failed": traceback.format_exc(limit=4)}
            say(found["failed"])
        report["sections"][name] = found | {"seconds": time.perf_counter() - began}
        write(options.output, report)
    print(format_report(report))
    return report


def references(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The largest differences from float64 on the CPU, and the share of pixels that a step moves identically."""
    dataset = speed.noise(32, options.image_size, seed=0)
    config = TrialConfig(model=options.network, recipe=RecipeConfig(name="R-MC-LA"))
    model = initial_state(config, dataset, device).model
    exact = initial_state(config, dataset, torch.device("cpu")).model.double()
    exact.load_state_dict({name: tensor.cpu() for name, tensor in model.state_dict().items()})
    x, y = to_unit(dataset.train.images), dataset.train.labels
    with eval_without_tf32(model), eval_without_tf32(exact), torch.no_grad():
        logits, true = model(x.to(device)).cpu().double(), exact(x.double())
    with eval_without_tf32(model), eval_without_tf32(exact):
        moved = fgsm(model, x.to(device), y.to(device), eps=8 / 255).cpu()
        moved_exactly = fgsm(exact, x.double(), y, eps=8 / 255)
    label = adversarial_label(true.float().to(device), y.to(device), beta=9.0).cpu().double()
    return {
        "logits": float((logits - true).abs().max()),
        "logits_size": float(true.abs().max()),
        "labels": float((label - adversarial_label(true, y, beta=9.0)).abs().max()),
        "same_step": float(((moved.double() - moved_exactly).abs() < 1e-5).double().mean()),
        "farthest": float((moved.double() - x.double()).abs().max()),
        "gradients": _gradient_difference(model, exact, x, y, device),
    }


def _gradient_difference(model: nn.Module, exact: nn.Module, x: Tensor, y: Tensor, device: torch.device) -> float:
    """Relative difference of the weight gradients in training mode: float32 on this device, float64 on the CPU."""
    with without_tf32():
        F.cross_entropy(model.train()(x.to(device)), y.to(device)).backward()
    F.cross_entropy(exact.train()(x.double()), y).backward()
    pairs = [(one.grad, other.grad) for one, other in zip(model.parameters(), exact.parameters(), strict=True)]
    squared = sum(float((one.cpu().double() - other).square().sum()) for one, other in pairs)
    return float((squared / sum(float(other.square().sum()) for _, other in pairs)) ** 0.5)


def rate(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """TFLOP/s of a large matrix product in bfloat16, and of an R-MC-LA step of the wide network."""
    size = 8192 if device.type == "cuda" else 512
    one, other = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        one @ other

    product = 2 * size**3 / _seconds(multiply, device, 20) / 1e12
    found: dict[str, Any] = {"matrix_tflops": product, "steps": {}}
    for network, batch in ((options.wide, options.wide_batch), (options.network, options.batch)):
        flops = _forward_flops(network, options.image_size) * batch * PASSES
        for variant in options.variants:
            arguments = ["--model", network, "--batch-size", str(batch), "--recipes", "Undefended", "R-MC-LA"]
            report = _steps(options, device, [*arguments, "--variants", variant])
            best = min(report["variants"][variant]["milliseconds"]["R-MC-LA"].values()) / 1000
            reached = flops / report["variants"][variant]["milliseconds"]["R-MC-LA"]["median"] / 1e9
            found["steps"][f"{network} {variant}"] = {
                "tflops": reached,
                "share": reached / product,
                "images_per_second": batch / best,
            }
    return found


def _forward_flops(network: str, size: int) -> float:
    """Floating-point operations of the forward pass of one image, as counted by torch."""
    config = TrialConfig(model=network)
    model = initial_state(config, speed.noise(8, size, seed=0), torch.device("cpu")).model.eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(torch.rand(1, 3, size, size))
    return float(counter.get_total_flops())


def steps(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Time relative to plain training, by network and variant."""
    found = {}
    for network, batch in ((options.network, options.batch), (options.wide, options.wide_batch)):
        arguments = ["--model", network, "--batch-size", str(batch), "--passes", "--variants", *options.variants]
        found[network] = _steps(options, device, arguments)["variants"]
    return found


def _steps(options: argparse.Namespace, device: torch.device, arguments: Sequence[str]) -> dict[str, Any]:
    images = str(options.images)
    common = ["--device", str(device), "--image-size", str(options.image_size), "--images", images]
    with contextlib.redirect_stdout(io.StringIO()):
        return speed.main([*arguments, *common, "--turns", str(options.turns), "--steps", str(options.steps)])


def evaluation(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Images times gradient steps per second: PGD as run by `evaluate`, and its bare passes."""
    dataset = speed.noise(max(options.batches), options.image_size, seed=0)
    config = TrialConfig(model=options.network)
    model = initial_state(config, dataset, device).model.eval()
    found = {}
    for size in options.batches:
        part = dataset.train.take(slice(size))
        x, y = to_unit(part.images.to(device)), part.labels.to(device)
        for precision in ("float32", "bfloat16"):
            kind = resolve_precision(precision, device)

            def passes(x: torch.Tensor = x, y: torch.Tensor = y, kind: torch.dtype = kind) -> None:
                z = x.clone().requires_grad_()
                with autocast(device, kind):
                    input_gradient(F.cross_entropy(model(z).float(), y), z)

            def attack(part: Any = part, precision: str = precision, size: int = size) -> None:
                pgd = AttackConfig(steps=(options.pgd_steps,), losses=("ce",))
                evaluate(model, part.images, part.labels, attack=pgd, precision=precision, batch_size=size)

            bare = size / _seconds(passes, device, 10)
            ours = size * options.pgd_steps / _seconds(attack, device, 1)
            found[f"{size} {precision}"] = {"ours": ours, "passes": bare, "share": ours / bare}
    return found


def run_fast(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The speedrun, with the options of --speedrun."""
    return speedrun.main([*_data(options), "--device", str(device), *options.speedrun])


def run_paper(options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The full-size reproduction, with the options of --reproduce."""
    return reproduce.main([*_data(options), "--device", str(device), *options.reproduce])


def _data(options: argparse.Namespace) -> list[str]:
    return ["--dataset", options.dataset, *(["--data-dir", str(options.data_dir)] if options.data_dir else [])]


def _seconds(run: Callable[[], object], device: torch.device, count: int) -> float:
    """Seconds per call: the median of three turns of `count` calls each, after a warm-up turn."""
    turns = []
    for turn in range(4):
        synchronise(device)
        began = time.perf_counter()
        for _ in range(count):
            run()
        synchronise(device)
        if turn:
            turns.append((time.perf_counter() - began) / count)
    return spread(turns)["median"]


def format_report(report: dict[str, Any]) -> str:
    """A short summary of all sections."""
    said = [json.dumps(report["machine"])]
    for name, found in report["sections"].items():
        said.append(f"\n{name} ({found['seconds']:.0f} s)" + (": FAILED" if "failed" in found else ""))
        if "failed" in found:
            continue
        if name == "references":
            said += [f"  {key}: {value:.3g}" for key, value in found.items() if key != "seconds"]
        elif name == "rate":
            said.append(
                f"  matrix product: {found['matrix_tflops']:.1f} TFLOP/s; target of the first: {TARGET_SHARE:.0%}"
            )
            said += [f"  {key}: {one['tflops']:.1f} TFLOP/s, {one['share']:.1%}" for key, one in found["steps"].items()]
        elif name == "steps":
            for network, variants in found.items():
                if network != "seconds":
                    said += [f"{network}\n{speed.format_variant(variant, one)}" for variant, one in variants.items()]
        elif name == "evaluation":
            rows = [
                [key, f"{one['ours']:.0f}", f"{one['passes']:.0f}", f"{one['share']:.1%}"]
                for key, one in found.items()
                if key != "seconds"
            ]
            said.append(table(["batch", "images x steps/s", "passes alone", "share"], rows))
        elif name == "speedrun":
            said.append(speedrun.format_report(found))
        else:
            said += [f"  eps_x {one['eps_x']}: {one['ours']}" for one in found["models"]]
    return "\n".join(said)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    made = parser(__doc__)
    every = ["references", "rate", "steps", "evaluation", "speedrun", "reproduce"]
    made.add_argument("--sections", nargs="+", default=every, choices=every)
    made.add_argument("--dataset", default="cifar10")
    made.add_argument("--data-dir", type=Path)
    made.add_argument("--network", default="preact_resnet18")
    made.add_argument("--batch", type=int, default=256)
    made.add_argument("--wide", default="wrn_28_10")
    made.add_argument("--wide-batch", type=int, default=256)
    made.add_argument("--image-size", type=int, default=32)
    made.add_argument("--images", type=int, default=32_768, help="random images per epoch")
    made.add_argument("--variants", nargs="+", default=["bfloat16", "contiguous", "compile", "graphs", "float32"])
    made.add_argument("--turns", type=int, default=5)
    made.add_argument("--steps", type=int, default=10)
    made.add_argument("--batches", type=int, nargs="+", default=[256, 1024, 4096])
    made.add_argument("--pgd-steps", type=int, default=20)
    made.add_argument("--speedrun", type=_words, default=["--compile", "on", "--runs", "5", "--n", "1000"])
    made.add_argument("--reproduce", type=_words, default=["--n", "1000"])
    return made.parse_args(arguments)


def _words(text: str) -> list[str]:
    """Split the options of a section, given as one argument: --speedrun="--runs 2 --n 100"."""
    return text.split()


if __name__ == "__main__":
    main(sys.argv[1:])
