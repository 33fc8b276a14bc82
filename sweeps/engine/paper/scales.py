"""The settings of the four scales at which the paper's tables can be reproduced: smoke, small, fast, paper."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bat_core.config import TrainConfig
from bat_core.errors import unknown_name
from sweeps.engine.cli.options import WIDE_RESNET

RESNETS = ("resnet50", "resnet101", "resnet152")  # Table 9's


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Images, networks, training and evaluation. None means all images, or the default.

    There are several `models` if a table compares networks. The verifying suite attacks `verify` test images.
    `epochs` is the length of the short schedule; the long schedule, marked "+", has twice as many.
    """

    dataset: str
    models: tuple[str, ...]
    epochs: int
    schedule: str
    lr: float
    batch_size: int
    precision: str
    seeds: tuple[int, ...]
    verify: int
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    image_size: int | None = None
    milestones: tuple[float, ...] = TrainConfig.milestones
    weight_decay: float = TrainConfig.weight_decay


def _on_digits(*models: str) -> Setting:
    return Setting(
        dataset="digits",
        models=models,
        epochs=8,
        schedule="one_cycle",
        lr=0.1,
        batch_size=64,
        precision="float32",
        seeds=(0, 1),
        train_size=1000,
        test_size=100,
        verify=50,
    )


def _cut_down(dataset: str) -> Setting:
    return Setting(
        dataset=dataset,
        models=("small_cnn_16",),
        epochs=10,
        schedule="one_cycle",
        lr=0.1,
        batch_size=64,
        precision="bfloat16",
        seeds=(0, 1, 2),
        train_size=5000,
        val_size=200,
        test_size=300,
        verify=150,
    )


def _one_gpu(dataset: str, lr: float) -> Setting:
    return Setting(
        dataset=dataset,
        models=("preact_resnet18",),
        epochs=30,
        schedule="one_cycle",
        lr=lr,
        batch_size=128,
        precision="bfloat16",
        seeds=(0, 1, 2),
        verify=1000,
    )


def _paper_setting(dataset: str, lr: float) -> Setting:
    return Setting(
        dataset=dataset,
        models=(WIDE_RESNET,),
        epochs=100,
        schedule="multi_step",
        milestones=(0.6, 0.9),
        lr=lr,
        batch_size=128,
        precision="float32",
        seeds=(0, 1, 2),
        verify=1000,
    )


def _imagenet(**others: Any) -> Setting:
    """What `fast` and `paper` have in common on ImageNet."""
    return Setting(
        dataset="imagenet", models=RESNETS, batch_size=256, weight_decay=1e-4, seeds=(0,), verify=1000, **others
    )


SCALES: dict[str, Mapping[str, Setting]] = {
    # handwritten digits, a minute or two on 2 cores: whether it runs
    "smoke": {
        "cifar10": _on_digits("small_cnn_16"),
        "svhn": _on_digits("small_cnn_16"),
        "imagenet": _on_digits("small_cnn_8", "small_cnn_16", "small_cnn_32"),
    },
    # parts of the real data sets and small networks, within an hour per table on 2 cores
    "small": {
        "cifar10": _cut_down("cifar10"),
        "svhn": _cut_down("svhn"),
        "imagenet": Setting(
            dataset="imagenet",
            models=("resnet18", "resnet34", "resnet50"),
            image_size=64,
            epochs=10,
            schedule="one_cycle",
            lr=0.05,
            batch_size=32,
            precision="bfloat16",
            seeds=(0, 1, 2),
            val_size=100,
            test_size=100,
            verify=50,
        ),
    },
    # all of the data, one cycle, bfloat16: one GPU
    "fast": {
        "cifar10": _one_gpu("cifar10", lr=0.2),
        "svhn": _one_gpu("svhn", lr=0.05),
        "imagenet": _imagenet(image_size=128, epochs=30, schedule="one_cycle", lr=0.4, precision="bfloat16"),
    },
    # the paper's networks and schedules
    "paper": {
        "cifar10": _paper_setting("cifar10", lr=0.1),
        "svhn": _paper_setting("svhn", lr=0.01),
        "imagenet": _imagenet(
            epochs=100, schedule="multi_step", milestones=(0.3, 0.6, 0.9), lr=0.1, precision="float32"
        ),
    },
}


def setting_of(scale: str, images: str) -> Setting:
    """The settings of a table on the paper's `images` at `scale`.

    Raises:
        InputError: the scale is unknown.
    """
    if scale not in SCALES:
        raise unknown_name("scale", scale, SCALES)
    return SCALES[scale][images]
