"""The speed and memory of adversarial training, compared with the same training written with other libraries.

python benchmarks/training.py                                  # a CPU, random images, a small network
python benchmarks/training.py --art                            # also IBM ART, in its own environment
python benchmarks/training.py --network preact_resnet18 --batch-size 128 --device cuda

All contenders train the same network from the same weights on the same batches of images, with SGD, in float32. foolbox
and torchattacks are used as in user code, in a plain loop: crafting in evaluation mode, the update in train mode. The
contenders take turns, and each turn starts with another one; a ratio is the other's time divided by ours in one turn.
torchattacks is included if it can be imported (pip install --no-deps torchattacks). ART's AdversarialTrainer runs in
its own process with the same torch; its packages are installed into a separate virtual environment.
"""

import copy
import os
import subprocess
import sysconfig
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import foolbox
import torch
import torch.nn.functional as F
from cyclopts import Parameter
from safetensors.torch import save_file
from support.bare import spread
from support.common import command, machine, say, table, write_report
from support.peers import torchattacks
from support.timing import synchronise
from torch import Tensor, nn

from bat_core.labels import adversarial_label
from bat_core.losses import cross_entropy, largest_other
from bat_core.models import build_model
from bat_core.recipes import get_recipe
from bat_core.rng import BatchRNG

EPS, STEP, STEPS, BETA = 8 / 255, 2 / 255, 7, 9.0
OURS = "bat-sweeps"
ART_PACKAGES = ("adversarial-robustness-toolbox==1.20.1", "six", "tqdm")
ART_LOOP = Path(__file__).parent / "support" / "art_loop.py"

Step = Callable[[Tensor, Tensor], None]
Loss = Callable[[Tensor], Tensor]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """What to train, and how often to time it."""

    network: str = "small_cnn"
    """The network."""
    batch_size: int = 128
    """Images per step."""
    image_size: int = 32
    """Height and width."""
    steps: int = 4
    """Steps per contender and turn."""
    turns: int = 5
    """Number of turns."""
    art: bool = False
    """Also measure IBM ART; pip downloads its packages."""
    threads: int | None = None
    """Number of torch's CPU threads."""
    device: str = "cpu"
    """cpu or cuda."""
    output: Path | None = None
    """JSON file for all measurements."""


def main(options: Options = Options()) -> dict[str, Any]:
    """Time Madry's training and R-MC-LA here and with other libraries."""
    if options.threads:
        torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"machine": machine(options.device), "options": asdict(options), "recipes": {}}
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch_size, 3, options.image_size, options.image_size)
    x = torch.rand(shape, generator=generator).to(options.device)
    y = torch.randint(10, (options.batch_size,), generator=generator).to(options.device)
    with contenders(options, x, y) as recipes:
        for recipe, steps in recipes.items():
            report["recipes"][recipe] = measured(recipe, steps, x, y, options)
            write_report(options.output, report)
    return report


def measured(recipe: str, steps: Mapping[str, Step], x: Tensor, y: Tensor, options: Options) -> dict[str, Any]:
    """Seconds per step of each contender, the ratio to ours, and the memory on a GPU."""
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    memory: dict[str, int] = {}
    for turn in range(options.turns + 1):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if options.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            synchronise(options.device)
            began = time.perf_counter()
            for _ in range(options.steps):
                steps[name](x, y)
            synchronise(options.device)
            if turn:  # the first turn is a warm-up
                seconds[name].append((time.perf_counter() - began) / options.steps)
            if options.device == "cuda":
                memory[name] = torch.cuda.max_memory_allocated()
        say(f"  {recipe}: turn {turn} of {options.turns}")
    ratios = {
        name: spread([theirs / ours for theirs, ours in zip(times, seconds[OURS], strict=True)])
        for name, times in seconds.items()
    }
    rows = [
        [
            name,
            f"{options.batch_size / median(times):.0f}",
            f"{ratios[name]['median']:.2f} ({ratios[name]['least']:.2f}-{ratios[name]['most']:.2f})",
            f"{memory[name] / 2**20:.0f} MiB" if memory else "",
        ]
        for name, times in seconds.items()
    ]
    table(
        f"{recipe}: {options.network}, batch {options.batch_size}, float32, {options.turns} turns",
        ("trained with", "images/s", "time relative to ours", "memory"),
        rows,
    )
    return {"seconds": seconds, "over_ours": ratios, "memory_bytes": memory}


@contextmanager
def contenders(options: Options, x: Tensor, y: Tensor) -> Iterator[dict[str, dict[str, Step]]]:
    """The training steps by recipe and library, each with its own copy of one network."""
    torch.manual_seed(0)
    shape = (3, options.image_size, options.image_size)
    first = build_model(options.network, num_classes=10, image_shape=shape).to(options.device)

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = copy.deepcopy(first)
        return model, torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    recipes = {
        "Madry": {OURS: ours("Madry", *fresh()), "foolbox": foolbox_madry(*fresh())},
        "R-MC-LA": {OURS: ours("R-MC-LA", *fresh()), "foolbox": foolbox_bat(*fresh())},
    }
    if library := torchattacks():
        recipes["Madry"]["torchattacks"] = torchattacks_madry(library, *fresh())
        recipes["R-MC-LA"]["torchattacks"] = torchattacks_bat(library, *fresh())
    if not options.art:
        yield recipes
        return
    with art_trainer(options, first, x, y) as step:
        recipes["Madry"]["ART"] = step
        yield recipes


def ours(recipe: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    """A step as in `bat_core.fit`, without augmentation, which the other libraries lack."""
    made = get_recipe(recipe)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rng = BatchRNG()

    def step(x: Tensor, y: Tensor) -> None:
        x = x.contiguous(memory_format=torch.channels_last)
        model.eval()
        x_adv, label = made.craft(model, x, y, rng)
        model.train()
        optimizer.zero_grad(set_to_none=True)
        losses, _ = made.loss(model, x, x_adv, label)
        losses.mean().backward()
        optimizer.step()

    return step


def updated(
    model: nn.Module, optimizer: torch.optim.Optimizer, x_adv: Tensor, loss: Callable[[Tensor], Tensor]
) -> None:
    """One update in a plain training loop."""
    model.train()
    optimizer.zero_grad(set_to_none=True)
    loss(model(x_adv)).backward()
    optimizer.step()


def foolbox_madry(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=True)

    def step(x: Tensor, y: Tensor) -> None:
        model.eval()
        _, x_adv, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device), x, y, epsilons=EPS)
        updated(model, optimizer, x_adv, lambda logits: F.cross_entropy(logits, y))

    return step


def foolbox_bat(model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    attack = foolbox.attacks.LinfPGD(abs_stepsize=EPS, steps=1, random_start=True)

    def step(x: Tensor, y: Tensor) -> None:
        model.eval()
        with torch.no_grad():
            logits = model(x)
        towards = foolbox.criteria.TargetedMisclassification(largest_other(logits, y).indices)
        _, x_adv, _ = attack(foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device), x, towards, epsilons=EPS)
        label = adversarial_label(logits, y, beta=BETA)
        updated(model, optimizer, x_adv, lambda logits: cross_entropy(logits, label).mean())

    return step


def torchattacks_madry(library: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    attack = library.PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=True)

    def step(x: Tensor, y: Tensor) -> None:
        model.eval()
        updated(model, optimizer, attack(x, y), lambda logits: F.cross_entropy(logits, y))

    return step


def torchattacks_bat(library: Any, model: nn.Module, optimizer: torch.optim.Optimizer) -> Step:
    attack = library.PGD(model, eps=EPS, alpha=EPS, steps=1, random_start=True)
    attack.set_mode_targeted_by_label(quiet=True)

    def step(x: Tensor, y: Tensor) -> None:
        model.eval()
        with torch.no_grad():
            logits = model(x)
        x_adv = attack(x, largest_other(logits, y).indices)
        label = adversarial_label(logits, y, beta=BETA)
        updated(model, optimizer, x_adv, lambda logits: cross_entropy(logits, label).mean())

    return step


@contextmanager
def art_trainer(options: Options, model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Step]:
    """One step of ART's AdversarialTrainer with PGD-7, in a process that waits for commands."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        python = art_environment(place / "art")
        start = {"x": x.cpu(), "y": y.cpu(), **{f"model.{name}": one for name, one in model.state_dict().items()}}
        save_file({name: one.cpu().contiguous() for name, one in start.items()}, place / "start.safetensors")
        said = [str(python), str(ART_LOOP), str(place / "start.safetensors"), options.network, options.device]
        said += [str(torch.get_num_threads()), str(options.image_size)]
        quiet = {**os.environ, "TQDM_DISABLE": "1"}
        process = subprocess.Popen(said, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet)
        commands, answers = process.stdin, process.stdout
        assert commands
        assert answers

        def step(x: Tensor, y: Tensor) -> None:  # noqa: ARG001 (the process already has the same batch)
            commands.write("step\n")
            commands.flush()
            if answers.readline().strip() != "done":
                raise RuntimeError("ART's process exited")

        if answers.readline().strip() != "ready":
            raise RuntimeError("ART's process did not start")
        try:
            yield step
        finally:
            commands.close()
            process.wait()


def art_environment(place: Path) -> Path:
    """Create a virtual environment with ART's packages in front of ours, and return its python."""
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*install, *ART_PACKAGES], check=True)
    (found,) = (place / "lib").glob("python*/site-packages")
    root = Path(__file__).parents[1]
    (found / "behind.pth").write_text(f"{sysconfig.get_path('purelib')}\n{root}\n")
    return python


if __name__ == "__main__":
    command(main)
