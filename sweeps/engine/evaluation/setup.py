"""From the command line to models and images that can be attacked, each looked at before any is."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from bat_core.data import Dataset, Split, load_dataset
from bat_core.errors import InputError
from bat_core.masking.inspection import inspect
from bat_core.memory import fitting_batch
from sweeps.engine.cli.app import command_line
from sweeps.engine.cli.options import evaluation_budget
from sweeps.engine.cli.text import counted
from sweeps.engine.evaluation.model_sources import ModelSource, find_models, fingerprint
from sweeps.engine.evaluation.options import JobOptions
from sweeps.engine.evaluation.spec import EvaluationSpec, ModelRecord

GPU_BATCH, CPU_BATCH = 1000, 250
HOPELESS = {"forward", "output", "classes", "no_gradient"}  # findings on models that cannot be attacked at all


def decide(
    models: Sequence[str], options: JobOptions, folder: Path, console: Console, *, subset: int | None = None
) -> tuple[dict[str, Any], Split]:
    """The fields of an `EvaluationSpec` in `folder`, and its images; every model has been looked at.

    Args:
        subset: attack so many images, unless --n says otherwise.
    Raises:
        InputError: a model or the images cannot be used as they are.
    """
    sources = find_models(models, weights=options.weights, downloads=folder.with_name(f"{folder.name}-models"))
    dataset, data_dir, image_size = _images(sources, options)
    eps, step_size = evaluation_budget(options.eps, options.step_size, dataset.pixel)
    images = dataset.part(options.split)
    n = _count(options.n, subset, len(images))
    part = images.take(slice(n))
    examined, fits = _examined(sources, images, dataset, options, console)
    decided = {
        "command": command_line(),
        "models": examined,
        "dataset": dataset.name,
        "data_dir": data_dir,
        "split": options.split,
        "n": n,
        "pixel": dataset.pixel,
        "eps": eps,
        "step_size": step_size,
        "seed": options.seed,
        "precision": options.precision,
        "val_size": len(dataset.val),
        "image_size": image_size,
        "shard_size": options.batch_size or fits,
    }
    return decided, part


def found_again(assessment: EvaluationSpec, options: JobOptions, noun: str) -> Split:
    """The images of an assessment that is resumed.

    Raises:
        InputError: they are gone, or a model is another one by now.
    """
    dataset = load_dataset(
        assessment.dataset,
        options.data_dir or assessment.data_dir,
        val_size=assessment.val_size,
        image_size=assessment.image_size,
        data_workers=options.data_workers,
    )
    for model in assessment.models:
        model.load("cpu", noun)
    return assessment.part(dataset)


def _images(sources: Sequence[ModelSource], options: JobOptions) -> tuple[Dataset, str | None, int | None]:
    """The data set that all models are attacked on, its val without any image that one was trained on,
    where it lies, and the size of its images where there is a choice."""
    names = {options.dataset} if options.dataset else {source.dataset for source in sources if source.dataset}
    if len(names) != 1:
        said = f"the models were trained on {' and '.join(sorted(filter(None, names)))}" if names else "none is known"
        raise InputError(f"name the images with --dataset: {said}")
    (name,) = names
    assert name is not None
    known = next((source.data_dir for source in sources if source.dataset == name and source.data_dir), None)
    data_dir = str(options.data_dir.resolve()) if options.data_dir else known
    size = options.image_size or _trained_size(sources)
    load = partial(load_dataset, name, data_dir, image_size=size, data_workers=options.data_workers)
    dataset = load()
    held_out = min(source.val_size or len(dataset.val) for source in sources)
    if held_out != len(dataset.val):
        dataset = load(val_size=held_out)
    return dataset, data_dir, size


def _trained_size(sources: Sequence[ModelSource]) -> int | None:
    sizes = {source.image_size for source in sources if source.dataset}
    if len(sizes) > 1:
        said = " and ".join(sorted("the usual size" if size is None else f"{size} pixels" for size in sizes))
        raise InputError(f"name the images' size with --image-size: the models were trained on {said}")
    return sizes.pop() if sizes else None


def _count(asked: int | None, subset: int | None, there: int) -> int:
    if asked is not None and asked > there:
        raise InputError(f"--n={asked}: there are {there} images")
    return asked or min(subset or there, there)


def _examined(
    sources: Sequence[ModelSource], images: Split, dataset: Dataset, options: JobOptions, console: Console
) -> tuple[tuple[ModelRecord, ...], int]:
    """Look at every model before any is attacked; and how many images fit into memory at once with each of them.

    Raises:
        InputError: one cannot be attacked as it is.
    """
    examined = []
    fits = default = GPU_BATCH if options.gpus() else CPU_BATCH
    for source in sources:
        model = source.load(options.device())
        findings = inspect(model, images.images, images.labels, num_classes=dataset.num_classes)
        for finding in findings:
            if finding.severity == "error" and (finding.name in HOPELESS or not options.despite_findings):
                remedy = "" if finding.name in HOPELESS else " (or add --despite-findings)"
                raise InputError(f"model {source.name!r}: {finding.description}{remedy}")
            console.print(f"{source.name}: {finding.description}", style="yellow", markup=False, highlight=False)
        weights = fingerprint(model)
        if source.factory and fingerprint(source.load()) != weights:
            raise InputError(f"model {source.name!r} has other weights each time it is made: seed it, or add --weights")
        said = tuple(finding.description for finding in findings)
        examined.append(ModelRecord(source=source, fingerprint=weights, findings=said))
        if not options.batch_size:
            fits = min(fits, fitting_batch(model, images.images, most=default, processes=options.processes()))
    if fits < default:
        console.print(f"{counted(fits, 'image')} at once fit into the free memory (--batch-size)", highlight=False)
    return tuple(examined), fits
