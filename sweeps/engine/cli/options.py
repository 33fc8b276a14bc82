"""The command line that all sweeps share: typed options, one sentence for what cannot be used."""

import datetime
from collections.abc import Sequence, Set
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter, Token

from bat_core.config import EVAL_PIXELS, DataConfig, TrainConfig
from bat_core.data import Dataset, load_dataset
from bat_core.errors import InputError, check_finite
from bat_core.suites import STEPS_OF_EPS
from sweeps.engine.storage.files import refuse_if_used
from sweeps.engine.storage.object_store import Storage, is_uri
from sweeps.engine.sweep.folder import SPEC, SweepFolder
from sweeps.engine.sweep.spec import Resources

WIDE_RESNET = "wrn_28_10"
LONG = "+"  # the paper's mark of a model trained by the long schedule
LONG_MILESTONES = (0.5, 0.75)  # shares of training at which the rate decays then
USUAL_MODELS = {"digits": "small_cnn", "imagenet": "resnet50"}  # others: a wide ResNet


def parse_amount(_: Any, tokens: Sequence[Token]) -> float:
    """8/255 or 0.03, as the field writes an amount of pixel change."""
    text = tokens[0].value
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is no amount: write 8/255 or 0.03") from None


Amount = Annotated[float, Parameter(converter=parse_amount, n_tokens=1)]
Several = Parameter(consume_multiple=True)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """What every sweep takes. None stands for what is usual for the data set and the model."""

    dataset: str = "digits"
    """Images: digits (embedded), cifar10, svhn, imagenet."""
    data_dir: Path | None = None
    """Folder with the images: Parquet files of the Hugging Face hub, CIFAR-10's binary or SVHN's .mat files, or
    {train,val}/<class>/*.JPEG."""
    download: bool = False
    """Fetch the published files into --data-dir first, if they are not there."""
    train_size: int | None = None
    """Train on so many images. Default: all that are not held out for validation."""
    val_size: int | None = None
    """Hold out so many training images to choose by. Default: a tenth, at most 1,000."""
    test_size: int | None = None
    """Evaluate on so many test images. Default: all."""
    image_size: int | None = None
    """Height and width of images in files. Default: 224 on imagenet."""
    data_workers: int | None = None
    """Processes that decode images in files, beside each that trains. Default: one a CPU core it has, at most 8."""
    model: str | None = None
    """small_cnn, preact_resnet18 ... Default: small_cnn on digits, resnet50 on imagenet, else wrn_28_10."""
    epochs: int | None = None
    """Passes over the training images. Default: 20 on digits, else 100."""
    batch_size: int | None = None
    """Images an update, over all workers. Default: 64 on digits, else 128."""
    lr: float | None = None
    """Largest learning rate. Default: 0.1; on svhn with a wide ResNet 0.01."""
    schedule: str | None = None
    """one_cycle, multi_step or cosine. Default: multi_step with a wide ResNet, else one_cycle."""
    precision: str = "auto"
    """float32, bfloat16, or auto: bfloat16 on GPUs that have it. Verdicts are float32 always."""
    on_collapse: str = "stop"
    """When one-step training collapses (catastrophic overfitting): stop, and keep the epoch before; or go_on."""
    verify: int | None = None
    """Verify by APGD-CE and APGD-T on so many test images; 0: not at all. Default: 200 on digits, else 1000."""
    seeds: Annotated[tuple[int, ...], Several] = (0, 1, 2)
    """One model a seed."""
    output: Path | None = None
    """A new folder for records, models and figures. Default: outputs/<sweep>-<dataset>-<time>."""
    storage_path: str | None = None
    """Keep the sweep here too, where nodes share no folder: s3://bucket/prefix, or a folder. Fresh or empty."""
    resume: str | None = None
    """Go on with the sweep in this folder, or in this --storage-path, as it was set up."""
    num_workers: int = 1
    """Processes that train one model together."""
    cpus_per_worker: int = 1
    """CPU cores of each process."""
    gpus_per_worker: float | None = None
    """GPUs of each process; a fraction lets trials share one. Default: 1 where there are GPUs."""
    max_concurrent: int | None = None
    """Trials at once. Default: as many as fit what the cluster has now; say more where it can grow."""
    stall_minutes: float = 60.0
    """Give up a trial that has got nothing done, not even a batch, for so long; 0: never."""
    address: str | None = None
    """Ray cluster to join. Default: RAY_ADDRESS, else one that `ray start` left here, else "local": one of its own."""

    def data_config(self) -> DataConfig:
        """Which images, as a part of a trial's config."""
        return DataConfig(
            name=self.dataset,
            train_size=self.train_size,
            val_size=self.val_size,
            test_size=self.test_size,
            image_size=self.image_size,
        )

    def model_name(self) -> str:
        """The model asked for, or the usual one."""
        return self.model or USUAL_MODELS.get(self.dataset, WIDE_RESNET)

    def train_config(self, *, long: bool = False) -> TrainConfig:
        """How to fit: what was asked for, else the paper's settings for a wide ResNet, else one cycle.

        `long` is the schedule of the models that the paper writes with a "+": decay at 100, 150 and 200 epochs in
        place of 60, 90 and 100.
        """
        digits, wide = self.dataset == "digits", self.model_name().startswith("wrn_")
        return TrainConfig(
            epochs=_or(self.epochs, (20 if digits else 100) * (2 if long else 1)),
            milestones=LONG_MILESTONES if long else TrainConfig.milestones,
            batch_size=_or(self.batch_size, 64 if digits else 128),
            lr=_or(self.lr, 0.01 if self.dataset == "svhn" and wide else 0.1),
            schedule=self.schedule or ("multi_step" if wide else "one_cycle"),
            precision=self.precision,
            on_collapse=self.on_collapse,
        )

    def verify_size(self) -> int:
        """How many test images the verifying suite is run on."""
        return _or(self.verify, 200 if self.dataset == "digits" else 1000)

    def resources(self) -> Resources:
        """What a trial gets.

        Raises:
            InputError: less than one worker or core, or GPUs where there are none.
        """
        if self.num_workers < 1 or self.cpus_per_worker < 1:
            raise InputError("--num-workers and --cpus-per-worker must be at least 1")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise InputError(f"--max-concurrent={self.max_concurrent} must be at least 1")
        gpus = self.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if torch.cuda.is_available() else 0.0
        if not gpus >= 0:
            raise InputError(f"--gpus-per-worker={gpus:g} must be at least 0")
        return Resources(num_workers=self.num_workers, cpus_per_worker=self.cpus_per_worker, gpus_per_worker=gpus)

    def stall(self) -> float | None:
        """Seconds without progress after which a trial is given up, or None.

        Raises:
            InputError: less than none.
        """
        check_finite("--stall-minutes", self.stall_minutes)
        return self.stall_minutes * 60 or None

    def output_folder(self, name: str) -> Path:
        """--output, or a folder named after the sweep and the time."""
        return self.output or timestamped(f"{name}-{self.dataset}")

    def new_folder(self, name: str) -> SweepFolder:
        """Where a new sweep is to live.

        Raises:
            InputError: something lives there already, or nothing can.
        """
        path = self.output_folder(name).resolve()
        refuse_if_used(path, SPEC, "a sweep")
        store = Storage.at(self.storage_path) if self.storage_path else None
        if store and store.names():
            raise InputError(
                f"--storage-path {self.storage_path!r} is not empty: go on with it by --resume, or name another"
            )
        return SweepFolder(path, store)

    def refuse_beside_resume(self, *, also_allowed: Set[str] = frozenset()) -> None:
        """A resumed sweep is as it was set up; options that would change it are refused.

        Raises:
            InputError: one was given.
        """
        allowed = {"resume", "data_dir", "data_workers", "download", "max_concurrent", "stall_minutes", "address"}
        allowed |= also_allowed | ({"output"} if self.resume and is_uri(self.resume) else set())
        for option in fields(self):
            if option.name not in allowed and getattr(self, option.name) != option.default:
                flag = "--" + option.name.replace("_", "-")
                raise InputError(f"{flag} cannot be given with --resume: the sweep goes on as it was set up")


def short_name(recipe: str) -> tuple[str, bool]:
    """A recipe's own name, and whether the long schedule is asked for: R-MC-LA+ is R-MC-LA, trained longer."""
    return recipe.removesuffix(LONG), recipe.endswith(LONG)


def evaluation_budget(eps: float | None, step_size: float | None, pixel: float) -> tuple[float, float]:
    """Budget and step size in [0, 1]: what was asked for, else the paper's 8 and 2 pixels."""
    eps = _or(eps, EVAL_PIXELS * pixel)
    return eps, _or(step_size, eps / STEPS_OF_EPS)


def timestamped(name: str) -> Path:
    """A folder for results that is named after what made them and the time."""
    now = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path("outputs") / f"{name}-{now}"


def load_images(
    data: DataConfig, data_dir: str | Path | None, *, download: bool, data_workers: int | None = None
) -> Dataset:
    """The images that a trial's config names, from where this machine has them."""
    return load_dataset(
        data.name,
        data_dir,
        download=download,
        train_size=data.train_size,
        val_size=data.val_size,
        test_size=data.test_size,
        image_size=data.image_size,
        data_workers=data_workers,
    )


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
