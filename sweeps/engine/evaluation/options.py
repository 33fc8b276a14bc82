"""The options that `evaluate` and `transfer` share."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from cyclopts import Parameter

from bat_core.config import PRECISIONS, SPLITS
from bat_core.errors import InputError, check_amount, check_choice, check_finite
from sweeps.engine.cli.options import Amount


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Which images, which budget, on which machine. None stands for what is usual."""

    dataset: str | None = None
    """Images: digits, cifar10, svhn, imagenet. Default: what the model was trained on."""
    data_dir: Path | None = None
    """Folder with the images. Default: the one the model's sweep read."""
    image_size: int | None = None
    """Height and width of images in files. Default: what the model was trained on."""
    data_workers: int | None = None
    """Processes that decode images in files, beside each that attacks. Default: one a CPU core it has, at most 8."""
    split: str = "test"
    """test, or val: images held out of train, to choose by."""
    n: int | None = None
    """Attack so many images. Default: all."""
    eps: Amount | None = None
    """Budget, as 8/255. Default: 8 pixels of the data set."""
    step_size: Amount | None = None
    """Step of attacks with fixed steps. Default: a quarter of --eps."""
    seed: int = 0
    """Names the random starts."""
    weights: Path | None = None
    """state_dict for a package.module:factory: safetensors, or what torch.save wrote."""
    precision: str = "float32"
    """Of the search: float32, bfloat16 or auto. Verdicts are float32 always."""
    batch_size: int | None = None
    """Images at once, and in one shard. Default: 250, on GPUs 1,000, or as many as fit into the free memory."""
    despite_findings: bool = False
    """Attack a model even if it fails the inspection (probabilities, another range ...)."""
    workers: int | None = None
    """Processes that share the work. Default: one a GPU, on a cluster as many as fit, else this one alone."""
    gpus_per_worker: float | None = None
    """GPUs of each process. Default: 1 where there are GPUs."""
    address: str | None = None
    """Ray cluster to join. Default: RAY_ADDRESS, else none."""
    output: Path | None = None
    """A new folder for results."""
    resume: str | None = None
    """Resume in this folder, at the shard where it stopped."""

    def check(self) -> None:
        """Raises InputError for what cannot be used, before anything is loaded."""
        check_choice("--split", self.split, SPLITS)
        check_choice("--precision", self.precision, PRECISIONS)
        for name in ("eps", "step_size"):
            if getattr(self, name) is not None:
                check_amount(f"--{name.replace('_', '-')}", getattr(self, name))
        for name in ("n", "batch_size", "workers", "image_size"):
            if getattr(self, name) is not None:
                check_finite(f"--{name.replace('_', '-')}", getattr(self, name), low=1)

    def refuse_beside_resume(self, models: Sequence[str], noun: str) -> None:
        """A resumed `noun` is as it was set up."""
        allowed = {"resume", "data_dir", "data_workers", "workers", "gpus_per_worker", "address"}
        given = [f"--{f.name.replace('_', '-')}" for f in fields(self) if getattr(self, f.name) != f.default]
        given = [flag for flag in given if flag[2:].replace("-", "_") not in allowed] + list(models)
        if given:
            raise InputError(f"{given[0]} cannot be given with --resume: the {noun} goes on as it was set up")

    def gpus(self) -> float:
        """GPUs of each process."""
        default = 1.0 if torch.cuda.is_available() else 0.0
        return default if self.gpus_per_worker is None else self.gpus_per_worker

    def device(self) -> str:
        """What models are put on."""
        return "cuda" if self.gpus() else "cpu"

    def processes(self) -> int:
        """How many at most share a device's memory."""
        if self.gpus():
            return max(round(1 / self.gpus()), 1)
        return 1 if self.alone() else self.workers or os.cpu_count() or 1

    def alone(self) -> bool:
        """Whether this process does all the work."""
        several_gpus = bool(self.gpus()) and torch.cuda.device_count() > 1
        cluster = self.address or os.environ.get("RAY_ADDRESS")
        return self.workers == 1 or (self.workers is None and not cluster and not several_gpus)
