"""Do the red flags distinguish masked models from sound ones? Tests seven kinds of models.

python benchmarks/masking.py --dataset digits --cache outputs/masking --output benchmarks/results/masking_digits.json
python benchmarks/masking.py --dataset cifar10 --data-dir DIR --cache outputs/masking --output ...

The limits in `bat_core/masking/flags.py` were set with seed 100 and are tested here with other seeds.
"""

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bat_core.checkpoint import load_model, save_model
from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import Dataset, load_dataset
from bat_core.data.augment import NO_AUGMENTATION
from bat_core.evaluate import evaluate
from bat_core.fit import fit
from bat_core.masking.checks import IMAGES, examine
from bat_core.masking.flags import Findings
from bat_core.suites import get_suite

PIXELS = 8


class Scaled(nn.Module):
    """Logits times 10^4: the softmax saturates, and the gradient of cross-entropy is zero in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return 1e4 * self.model(x)


class Quantised(Scaled):
    """Images rounded to nine levels: the gradient is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x * 8).round() / 8)


class Noisy(Scaled):
    """Fresh Gaussian noise on every image in every pass."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x + 0.1 * torch.randn_like(x))


@dataclass(frozen=True)
class Kind:
    """A kind of model: its training recipe, a modification after training, and the expected status."""

    recipe: str
    expected: str = ""  # "clear", "not clear", or empty if there is no expectation
    wrap: Callable[[nn.Module], nn.Module] | None = None


KINDS = {
    "undefended": Kind("Undefended", "clear"),
    "Madry": Kind("Madry", "clear"),
    "R-MC-LA": Kind("R-MC-LA"),
    "FGSM, label leaking": Kind("FGSM", "not clear"),
    "logits x 10^4": Kind("Undefended", "not clear", Scaled),
    "quantised input": Kind("Undefended", "not clear", Quantised),
    "random at inference": Kind("Undefended", "not clear", Noisy),
}


@dataclass(frozen=True)
class Scale:
    """Training settings for one data set. `leaking` are the settings for FGSM that cause label leaking.

    Small networks do not leak at a budget of 8 pixels; it takes a larger budget, few images and many epochs. Such a
    model is evaluated at its training budget, `leaking_pixels`.
    """

    model: str
    train_size: int | None
    train: TrainConfig
    leaking_model: str
    leaking_size: int
    leaking: TrainConfig
    leaking_pixels: int


SCALES = {
    "digits": Scale(
        model="small_cnn",
        train_size=None,
        train=TrainConfig(epochs=20, batch_size=64, lr=0.1),
        leaking_model="small_cnn",
        leaking_size=1000,
        leaking=TrainConfig(epochs=80, batch_size=64, lr=0.2, on_collapse="go_on"),
        leaking_pixels=20,
    ),
    "cifar10": Scale(
        model="small_cnn_16",
        train_size=5000,
        train=TrainConfig(epochs=8, batch_size=128, lr=0.2, precision="bfloat16"),
        leaking_model="small_cnn_16",
        leaking_size=1000,
        leaking=TrainConfig(epochs=60, batch_size=32, lr=0.1, precision="bfloat16", on_collapse="go_on"),
        leaking_pixels=48,
    ),
}


def trial(dataset: Dataset, recipe: str, seed: int) -> TrialConfig:
    """The config for training a recipe."""
    scale, leaks = SCALES[dataset.name], recipe == "FGSM"
    eps = (scale.leaking_pixels if leaks else PIXELS) * dataset.pixel
    return TrialConfig(
        data=DataConfig(name=dataset.name, train_size=scale.leaking_size if leaks else scale.train_size),
        model=scale.leaking_model if leaks else scale.model,
        recipe=RecipeConfig(name=recipe, params={} if recipe == "Undefended" else {"eps": eps}),
        train=scale.leaking if leaks else scale.train,
        attack=AttackConfig(eps=eps, step_size=eps / 4),
        seed=seed,
    )


def trained(config: TrialConfig, dataset: Dataset, cache: Path) -> nn.Module:
    """The trained model, from the cache if possible."""
    folder = cache / f"{dataset.name}-{config.recipe.name}-{config.hash}"
    if not folder.exists():
        images = dataset
        if config.recipe.name == "FGSM":
            few = dataset.train.take(slice(config.data.train_size))
            images = dataclasses.replace(dataset, train=few, augmentation=NO_AUGMENTATION)
        *_, last = fit(config, images)
        cache.mkdir(parents=True, exist_ok=True)
        save_model(folder, last.state, config, dataset)
    return load_model(folder)[0]


def findings_of(model: nn.Module, dataset: Dataset, eps: float, depth: Any) -> tuple[Findings, dict[str, float]]:
    """Findings on test images; full checks include a verified suite."""
    part = dataset.test.take(slice(IMAGES))
    accuracies: dict[str, float] = {}
    verified = None
    if depth == "full":
        verdicts = evaluate(model, part.images, part.labels, attack=get_suite("quick", eps=eps))
        verified = torch.from_numpy(verdicts.robust_correct)
        accuracies = {"verified": verdicts.robust_acc}
    started = time.perf_counter()
    findings = examine(model, part.images, part.labels, eps=eps, depth=depth, verified=verified)
    return findings, {**accuracies, "seconds": time.perf_counter() - started}


def run(
    dataset: Dataset, seeds: list[int], names: list[str], cache: Path, depths: list[str], console: Console
) -> list[dict[str, Any]]:
    """Check every kind of model with every seed."""
    rows = []
    for seed in seeds:
        for name in names:
            kind = KINDS[name]
            config = trial(dataset, kind.recipe, seed)
            model = trained(config, dataset, cache)
            model = kind.wrap(model) if kind.wrap else model
            torch.manual_seed(seed)  # for models that are random at inference
            for depth in depths:
                findings, numbers = findings_of(model.eval(), dataset, config.attack.eps, depth)
                rows.append(
                    {
                        "kind": name,
                        "seed": seed,
                        "depth": depth,
                        "must": kind.expected,
                        "as_it_must": _as_expected(kind, findings),
                        "eps_pixels": config.attack.eps / dataset.pixel,
                        **numbers,
                        **findings.describe(),
                    }
                )
                flags = ", ".join(f"{flag.name} {flag.value:.3f}" for flag in findings.flags)
                console.print(f"seed {seed} {name} ({depth}): {findings.masking_status} [{flags}]", markup=False)
    return rows


def _as_expected(kind: Kind, findings: Findings) -> bool:
    return not kind.expected or (findings.masking_status == "clear") == (kind.expected == "clear")


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """One row per kind of model, with the result of each seed."""
    drawn = Table(title=title, title_justify="left")
    for column in ("kind", "eps", "clean", "PGD-CE", "verified", "full checks", "cheap checks", "must be"):
        drawn.add_column(column)
    for name in dict.fromkeys(row["kind"] for row in rows):
        kind = KINDS[name]
        of = {
            depth: [row for row in rows if row["kind"] == name and row["depth"] == depth] for depth in ("full", "cheap")
        }
        full = of["full"] or of["cheap"]
        drawn.add_row(
            name,
            f"{full[0]['eps_pixels']:g} px",
            _range([row["evidence"]["clean_acc"] for row in full]),
            _range([row["evidence"]["ce_worst"] for row in full]),
            _range([row["verified"] for row in of["full"]]),
            ", ".join(row["verdict"] for row in of["full"]),
            ", ".join(row["verdict"] for row in of["cheap"]),
            kind.expected or "(any)",
        )
    return drawn


def _range(values: list[float]) -> str:
    if not values:
        return ""
    return f"{min(values):.0%}" if min(values) == max(values) else f"{min(values):.0%}-{max(values):.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=sorted(SCALES), default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--depths", nargs="+", choices=["full", "cheap"], default=["full", "cheap"])
    parser.add_argument("--cache", type=Path, default=Path("outputs/masking"))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    console = Console()
    dataset = load_dataset(
        options.dataset, options.data_dir, train_size=SCALES[options.dataset].train_size, val_size=None
    )
    rows = run(dataset, options.seeds, options.kinds, options.cache, options.depths, console)
    console.print(table(rows, f"{options.dataset}, {IMAGES} test images, seeds {options.seeds}"))
    if options.output:
        versions = {"torch": torch.__version__, "python": platform.python_version(), "cpu": platform.processor()}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps({"versions": versions, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
