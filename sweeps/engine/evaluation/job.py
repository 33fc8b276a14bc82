"""From the command line to models and images that can be attacked; how the attacking is spread and watched."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from cyclopts import Parameter
from rich.console import Console

from bat_core.config import PRECISIONS, SPLITS
from bat_core.data import Dataset, Split, load_dataset
from bat_core.errors import InputError, check_amount, check_choice, check_finite
from bat_core.masking.inspection import inspect
from bat_core.memory import max_batch_size
from bat_core.suites import STEPS_PER_EPS
from sweeps.engine.cli.app import command_line
from sweeps.engine.cli.options import Amount
from sweeps.engine.cli.text import counted
from sweeps.engine.evaluation.model_sources import ModelSource, find_models, fingerprint
from sweeps.engine.evaluation.spec import EvaluationSpec, ModelRecord

PIXELS = 8  # of budget, unless another is asked for
GPU_BATCH, CPU_BATCH = 1000, 250
HOPELESS = {"forward", "output", "classes", "no_gradient"}  # findings on what cannot be attacked at all

Run: TypeAlias = Callable[[Callable[..., None], Sequence[tuple[Any, ...]]], None]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AssessOptions:
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
    resume: Path | None = None
    """Go on in this folder, at the shard where it stopped."""

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


def decide(
    models: Sequence[str], options: AssessOptions, folder: Path, console: Console, *, subset: int | None = None
) -> tuple[dict[str, Any], Split]:
    """The fields of an `EvaluationSpec` in `folder`, and its images; every model has been looked at.

    Args:
        subset: attack so many images, unless --n says otherwise.
    Raises:
        InputError: a model or the images cannot be used as they are.
    """
    sources = find_models(models, weights=options.weights, downloads=folder.with_name(f"{folder.name}-models"))
    dataset, data_dir, image_size = _images(sources, options)
    eps = options.eps if options.eps is not None else PIXELS * dataset.pixel
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
        "step_size": options.step_size if options.step_size is not None else eps / STEPS_PER_EPS,
        "seed": options.seed,
        "precision": options.precision,
        "val_size": len(dataset.val),
        "image_size": image_size,
        "shard_size": options.batch_size or fits,
    }
    return decided, part


def found_again(assessment: EvaluationSpec, options: AssessOptions, noun: str) -> Split:
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


def _images(sources: Sequence[ModelSource], options: AssessOptions) -> tuple[Dataset, str | None, int | None]:
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
    sources: Sequence[ModelSource], images: Split, dataset: Dataset, options: AssessOptions, console: Console
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
            fits = min(fits, max_batch_size(model, images.images, most=default, processes=options.processes()))
    if fits < default:
        console.print(f"{counted(fits, 'image')} at once fit into the free memory (--batch-size)", highlight=False)
    return tuple(examined), fits


@contextmanager
def spread(options: AssessOptions, shared: tuple[Any, ...]) -> Iterator[Run]:
    """Gives run(function, calls), which makes every `function(*shared, *call)`: here, or on several processes."""
    if options.alone():

        def run(function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
            for call in calls:
                function(*shared, *call)

        yield run
        return
    from sweeps.engine.ray_backend import cluster, tasks  # noqa: PLC0415 (slow to import, and not needed in one process)

    with cluster.cluster(address=cluster.existing_cluster(options.address)):

        def run_there(function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
            list(tasks.run_tasks(function, calls, shared, gpus=options.gpus(), most=options.workers))

        yield run_there
