"""Load and inspect the models and images named on the command line, before any attack."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from bat_core.adapter import detection
from bat_core.adapter.adapted import adapted
from bat_core.adapter.detection import Wishes
from bat_core.adapter.importing import model_code
from bat_core.adapter.normalize import parse_normalization
from bat_core.adapter.sources import Target
from bat_core.data import Dataset, Split, load_dataset, to_unit
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.few_classes import check_classes
from bat_core.masking.inspection import inspect
from bat_core.memory import max_batch_size
from sweeps.engine.cli.app import command_line
from sweeps.engine.cli.options import evaluation_budget
from sweeps.engine.cli.text import counted
from sweeps.engine.evaluation.model_sources import ModelSource, find_models, fingerprint
from sweeps.engine.evaluation.options import JobOptions
from sweeps.engine.evaluation.spec import EvaluationSpec, ModelRecord

GPU_BATCH, CPU_BATCH = 1000, 250
CYCLE_IMAGES = 48  # on which it is tried whether searches that repeat themselves may end
# Findings that make an attack impossible.
FATAL_FINDINGS = {"forward", "output", "classes", "no_gradient", "backward", "single"}


def make_spec_fields(
    models: Sequence[str],
    options: JobOptions,
    folder: Path,
    console: Console,
    *,
    subset: int | None = None,
    cycles: bool = False,
) -> tuple[dict[str, Any], Split]:
    """Make the fields of an `EvaluationSpec` in `folder`, and load its images. Inspects every model.

    Args:
        subset: number of images to attack, unless --n is given.
        cycles: whether searches that repeat themselves may end. Says so where a model does not allow it.
    Raises:
        InputError: a model or the images cannot be used as they are.
    """
    downloads = folder.with_name(f"{folder.name}-models")
    sources = find_models(models, weights=options.weights, downloads=downloads, weights_key=options.weights_key)
    dataset, chosen = _images(sources, options)
    unit = dataset.unit(options.norm)
    eps, step_size = evaluation_budget(options.eps, options.step_size, unit)
    check_classes(f"data set {dataset.name}", dataset.num_classes)
    images = dataset.part(options.split)
    n = _count(options.n, subset, len(images))
    part = images.take(slice(n))
    target = Target(dataset=dataset.name, num_classes=dataset.num_classes, image_shape=dataset.image_shape)
    sources = [source.aimed_at(target) for source in sources]
    examined, fits = _inspect_models(sources, images, dataset, options, console, cycles=cycles)
    decided = {
        "command": command_line(),
        "models": examined,
        "dataset": dataset.name,
        **chosen,
        "split": options.split,
        "n": n,
        "pixel": unit,
        "norm": options.norm,
        "eps": eps,
        "step_size": step_size,
        "seed": options.seed,
        "precision": options.precision,
        "val_size": len(dataset.val) or None,
        "num_classes": dataset.num_classes,
        "shard_size": options.batch_size or fits,
    }
    return decided, part


def reload_images(spec: EvaluationSpec, options: JobOptions, noun: str) -> Split:
    """Load the images of a job that is resumed, and check that its models are unchanged.

    Raises:
        InputError: the images cannot be loaded, or a model has changed.
    """
    dataset = load_dataset(
        spec.dataset,
        options.data_dir or spec.data_dir,
        val_size=spec.val_size,
        image_size=spec.image_size,
        image_column=spec.image_column,
        label_column=spec.label_column,
        data_workers=options.data_workers,
    )
    for model in spec.models:
        model.load("cpu", noun)
    return spec.part(dataset)


def _images(sources: Sequence[ModelSource], options: JobOptions) -> tuple[Dataset, dict[str, Any]]:
    """Load the data set that all models are attacked on. No model was trained on an image of its val split.

    Returns:
        The data set, and the spec's fields that say where its images are: folder, image size and columns.
    Raises:
        InputError: the models do not agree on a data set, an image size or a column.
    """
    names = {options.dataset} if options.dataset else {source.dataset for source in sources if source.dataset}
    if len(names) != 1:
        said = (
            f"the models were trained on {' and '.join(sorted(filter(None, names)))}"
            if names
            else "the models do not say what they were trained on"
        )
        raise InputError(f"cannot choose the images: {said}; name them with --dataset")
    (name,) = names
    assert name is not None
    known = next((source.data_dir for source in sources if source.dataset == name and source.data_dir), None)
    data_dir = str(options.data_dir.resolve()) if options.data_dir else known
    trained = [source for source in sources if source.dataset == name]
    chosen = {
        "image_size": options.image_size or _trained_size(sources),
        "image_column": options.image_column or _trained_column("image_column", trained),
        "label_column": options.label_column or _trained_column("label_column", trained),
    }
    load = partial(load_dataset, name, data_dir, **chosen, data_workers=options.data_workers)  # type: ignore[arg-type]
    dataset = load()
    held_out = min(source.val_size or len(dataset.val) for source in sources)
    if held_out != len(dataset.val) and len(dataset.train) and (options.split == "val" or _fits(held_out, dataset)):
        dataset = load(val_size=held_out)
    return dataset, {"data_dir": data_dir, **chosen}


def _fits(held_out: int, dataset: Dataset) -> bool:
    return held_out < len(dataset.train) + len(dataset.val)


def _trained_column(field: str, sources: Sequence[ModelSource]) -> str | None:
    columns = {getattr(source, field) for source in sources}
    if len(columns) > 1:
        flag = "--" + field.replace("_", "-")
        said = " and ".join(sorted("the default" if column is None else repr(column) for column in columns))
        raise InputError(f"cannot choose the {field.replace('_', ' ')}: the models were trained on {said}; give {flag}")
    return columns.pop() if columns else None


def _trained_size(sources: Sequence[ModelSource]) -> int | None:
    sizes = {source.image_size for source in sources if source.dataset}
    if len(sizes) > 1:
        said = " and ".join(sorted("the default size" if size is None else f"{size} pixels" for size in sizes))
        raise InputError(f"cannot choose the image size: the models were trained on {said}; give --image-size")
    return sizes.pop() if sizes else None


def _count(asked: int | None, subset: int | None, there: int) -> int:
    if asked is not None and asked > there:
        raise InputError(f"--n={asked} is more than the {there} images of the split: give a smaller --n")
    return asked or min(subset or there, there)


def _inspect_models(
    sources: Sequence[ModelSource],
    images: Split,
    dataset: Dataset,
    options: JobOptions,
    console: Console,
    *,
    cycles: bool,
) -> tuple[tuple[ModelRecord, ...], int]:
    """Inspect every model before the first attack. Also returns the batch size that fits into memory for all models.

    Raises:
        InputError: a model cannot be attacked as it is.
    """
    _check_wishes(sources, options)
    examined = []
    fits = default = GPU_BATCH if options.gpus() else CPU_BATCH
    for source in sources:
        record, model = adapt_model(source, images, dataset.num_classes, options, console)
        with model_code(f"model {source.name!r}"):
            findings = inspect(
                model, images.images, images.labels, num_classes=dataset.num_classes, batch_size=options.batch_size
            )
        for finding in findings:
            if finding.severity == "error" and (finding.name in FATAL_FINDINGS or not options.despite_findings):
                remedy = "" if finding.name in FATAL_FINDINGS else " (or add --despite-findings)"
                raise InputError(f"model {source.name!r}: {finding.description}{remedy}")
            console.print(f"{source.name}: {finding.description}", style="yellow", markup=False, highlight=False)
        if source.varies and fingerprint(source.load()) != record.fingerprint:
            raise InputError(
                f"model {source.name!r} has different weights each time it is built: seed it, or add --weights"
            )
        if cycles and (reason := Evaluator(model).cycle_problem(images.images[:CYCLE_IMAGES])):
            console.print(f"{source.name}: PGD runs every step: {reason}", markup=False, highlight=False)
        said = tuple(finding.description for finding in findings)
        examined.append(replace(record, findings=said))
        if not options.batch_size and options.measures_memory():
            with model_code(f"model {source.name!r}"):
                fits = min(fits, max_batch_size(model, images.images, most=default, processes=options.processes()))
    if fits < default:
        console.print(
            f"{counted(fits, 'image')} per batch fit into the free memory (change with --batch-size)", highlight=False
        )
    return tuple(examined), fits


def adapt_model(
    source: ModelSource, images: Split, num_classes: int, options: JobOptions, console: Console
) -> tuple[ModelRecord, nn.Module]:
    """Load a model and find out how it is called. Prints what the user should know of that.

    Returns:
        The model's record, without findings, and the model behind its adapter.
    Raises:
        InputError: the model cannot be loaded.
    """
    device = options.device()
    built = source.build(device)
    weights = fingerprint(built.module)
    if source.folder is not None:  # a model of our own
        return ModelRecord(source=source, fingerprint=weights), built.module
    normalization = parse_normalization(options.normalize) if options.normalize else built.normalization
    sample = to_unit(images.images[: detection.IMAGES].to(device))
    if normalization is not None and not normalization.fits(sample.shape[1]):
        raise InputError(
            f"model {source.name!r}: the normalisation {normalization} is for {len(normalization.mean)} channels, and"
            f" the images have {sample.shape[1]}: give one number, or one per channel, with --normalize"
        )
    wishes = Wishes(logits_key=options.logits_key, normalization=normalization, batch_size=options.batch_size)
    with model_code(f"model {source.name!r}"):
        detected = detection.detect(built.module, sample, num_classes=num_classes, wishes=wishes)
    told = [*built.said, *detected.said]
    if normalization is not None and not options.normalize:
        told.append(f"its images are normalised by {normalization}, as its source says (change with --normalize)")
    for sentence in told:
        console.print(f"{source.name}: {sentence}", markup=False, highlight=False)
    record = ModelRecord(source=source, fingerprint=weights, adaptation=detected.adaptation)
    return record, adapted(built.module, detected.adaptation)


def _check_wishes(sources: Sequence[ModelSource], options: JobOptions) -> None:
    """Raises InputError if an option for models from elsewhere is given for one of ours."""
    given = [
        flag for flag, value in (("--normalize", options.normalize), ("--logits-key", options.logits_key)) if value
    ]
    own = next((source.name for source in sources if source.folder is not None), None)
    if given and own is not None:
        raise InputError(
            f"{given[0]} applies to models from elsewhere: {own!r} was trained here, takes images in [0, 1] and returns"
            " logits"
        )
