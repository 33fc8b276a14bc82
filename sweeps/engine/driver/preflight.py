"""Checks that run before anything is started or written."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import nn

from bat_core.config import TrialConfig
from bat_core.data import Dataset
from bat_core.errors import InputError
from bat_core.few_classes import check_classes
from bat_core.fit import batches_per_epoch
from bat_core.models import ImageShape, build_model
from bat_core.recipes import get_recipe, recipe_params
from bat_core.suites import evaluation_suite
from bat_core.trainable import check_trainable, is_users
from bat_core.user_modules import changed_modules, source_digests, user_files
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
    if not is_users(config.model):  # `check_trainable` builds those of users
        with torch.device("meta"):
            model = build_model(config.model, num_classes=dataset.num_classes, image_shape=dataset.image_shape)
        recipe.check(model, dataset.num_classes)
        _check_share(model, config, dataset.image_shape, workers)
    batches_per_epoch(config, len(dataset.train), workers)
    for part in ("val", config.attack.split):
        if (count := len(dataset.part(part))) < workers.size:
            raise InputError(f"{count} {part} images cannot be shared by {workers.size} workers: use more images")


def _check_share(model: nn.Module, config: TrialConfig, image_shape: ImageShape, workers: Workers) -> None:
    """Check that a network on the meta device can be updated with one image per worker, if that is the batch size.

    Batch norm needs several values per channel. One image has only one where the network has shrunk it to a pixel.
    """
    if config.train.batch_size > workers.size:
        return
    try:
        with torch.no_grad():
            model.train()(torch.empty(1, *image_shape, device="meta"))
    except ValueError as error:
        shared = "" if workers.size == 1 else f" for {workers.size} workers"
        raise InputError(
            f"--batch-size {config.train.batch_size} is too small{shared}: the batch norm of {config.model} cannot be"
            f" trained on one image, which it sees as a single value per channel; use at least {2 * workers.size}"
        ) from error


def check_user_code(configs: Iterable[TrialConfig], dataset: Dataset, workers: Workers, address: str | None) -> None:
    """Check that networks and recipes from outside this package can be trained, and are there on every node.

    Raises:
        InputError: one of them raises an exception, does not fit, or cannot be imported on a node.
    """
    different = {(config.model, config.recipe, config.train): config for config in configs}
    for config in different.values():
        check_trainable(config, num_classes=dataset.num_classes, image_shape=dataset.image_shape, workers=workers)
    models = tuple({config.model: None for config in different.values() if is_users(config.model)})
    recipes = tuple({config.recipe.name: None for config in different.values() if is_users(config.recipe.name)})
    if not (models or recipes or user_files()):
        return
    from sweeps.engine.ray_backend import cluster, nodes

    if (joined := cluster.existing_cluster(address)) is None:
        return
    check = partial(_check_node, models, recipes, source_digests(), dataset.num_classes, dataset.image_shape)
    with cluster.cluster(address=joined):
        nodes.check_nodes(check)


def _check_node(
    models: Sequence[str],
    recipes: Sequence[str],
    drivers: Mapping[str, str],
    num_classes: int,
    image_shape: ImageShape,
) -> None:
    """Import and build on this node what a trial will."""
    for name in recipes:
        recipe_params(name)
    for name in models:
        build_model(name, num_classes=num_classes, image_shape=image_shape)
    if changed := changed_modules(drivers, source_digests()):
        raise InputError(f"module {changed[0]!r} is another version than the driver's: install the same one")


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
