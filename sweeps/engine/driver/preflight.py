"""Checks that run before anything is started or written."""

import os

import torch

from bat_core.config import TrialConfig
from bat_core.data import Dataset
from bat_core.errors import InputError
from bat_core.few_classes import check_classes
from bat_core.fit import batches_per_epoch
from bat_core.models import build_model
from bat_core.recipes import get_recipe
from bat_core.suites import evaluation_suite
from bat_core.workers import Workers
from sweeps.engine.sweep.spec import Resources


def check_trial(config: TrialConfig, dataset: Dataset, workers: Workers) -> None:
    """Check that the trial's recipe, suite, model and batch size exist and fit the data set.

    That includes what the trial needs at its end only: its attacks must exist for the number of classes and be
    installed, and every part of the data set must have images.

    Raises:
        InputError: one of them is missing or does not fit.
    """
    recipe = get_recipe(config.recipe.name, **config.recipe.params)
    check_classes(f"data set {config.data.name}", dataset.num_classes)
    evaluation_suite(config.attack).for_classes(dataset.num_classes).check_available()
    with torch.device("meta"):
        model = build_model(config.model, num_classes=dataset.num_classes, image_shape=dataset.image_shape)
    recipe.check(model, dataset.num_classes)
    batches_per_epoch(config, len(dataset.train), workers)
    for part in ("val", config.attack.split):
        if (count := len(dataset.part(part))) < workers.size:
            raise InputError(f"{count} {part} images cannot be shared by {workers.size} workers: use more images")


def check_machine(resources: Resources, address: str | None, concurrent: int | None) -> None:
    """Check that this machine has enough cores and GPUs, unless a cluster is used, which may grow.

    Raises:
        InputError: the machine has too few.
    """
    cores, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    at_once = concurrent or 1
    needed_cores = resources.num_workers * resources.cpus_per_worker * at_once
    needed_gpus = resources.num_workers * resources.gpus_per_worker * at_once
    if needed_cores <= cores and needed_gpus <= gpus:
        return
    from sweeps.engine.ray_backend import cluster

    if cluster.existing_cluster(address) is None:
        what, fewer = (
            ("a trial needs", "fewer workers") if at_once == 1 else (f"{at_once} trials at once need", "fewer")
        )
        raise InputError(
            f"{what} {needed_cores} CPU cores and {needed_gpus:g} GPUs, and this machine has {cores} and {gpus}:"
            f" use {fewer}, or a cluster (--address)"
        )
