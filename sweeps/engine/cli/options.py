"""The command-line options that all sweeps share.

Whatever imports torch is imported where it is used, so that --help answers at once.
"""

import datetime
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from cyclopts import Parameter, Token

from bat_core.config import EVAL_PIXELS, STEPS_PER_EPS, DataConfig, TrainConfig, VerifyingSuite
from bat_core.errors import InputError, check_finite
from bat_core.norms import LINF, Norm
from sweeps.engine.cli.given import Options
from sweeps.engine.storage.files import is_uri, refuse_if_used
from sweeps.engine.sweep.spec import SPEC, Resources

if TYPE_CHECKING:
    from bat_core.data import Dataset
    from sweeps.engine.sweep.folder import SweepFolder

WIDE_RESNET = "wrn_28_10"
LONG = "+"  # the paper's suffix for models trained with the long schedule
LONG_MILESTONES = (0.5, 0.75)  # fractions of training at which its learning rate decays
DEFAULT_MODELS = {  # for other data sets: WIDE_RESNET
    **dict.fromkeys(("digits", "mnist", "fashion_mnist"), "small_cnn"),
    **dict.fromkeys(("imagenet", "imagefolder"), "resnet50"),
}


def parse_amount(_: Any, tokens: Sequence[Token]) -> float:
    """Parse a pixel amount, such as 8/255 or 0.03.

    Raises:
        ValueError: the text is not an amount.
    """
    return amount_of(tokens[0].value)


def amount_of(text: str) -> float:
    """The amount that a text such as 8/255 or 0.03 means.

    Raises:
        ValueError: the text is not an amount.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"invalid pixel amount {text!r}: write 8/255 or 0.03") from None


def parse_share(_: Any, tokens: Sequence[Token]) -> float:
    """Parse a share, such as 45% or 0.45.

    Raises:
        ValueError: the text is not a share in [0, 1].
    """
    text = tokens[0].value
    if (share := share_of(text)) is None:
        raise ValueError(f"invalid share {text!r}: write 45% or 0.45")
    return share


def share_of(text: str) -> float | None:
    """A share, such as 45% or 0.45; None if the text is none in [0, 1]."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return share if 0 <= share <= 1 else None


Amount = Annotated[float, Parameter(converter=parse_amount, n_tokens=1)]
Several = Parameter(consume_multiple=True)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SweepOptions(Options):
    """Options of every sweep. None selects the default for the data set and model."""

    common: ClassVar[tuple[str, ...]] = ("dataset", "data_dir", "model", "epochs", "seeds", "output", "resume")
    shared: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Images": (
            *("image_column", "label_column", "download", "train_size", "val_size", "test_size", "image_size"),
            "data_workers",
        ),
        "Training": ("batch_size", "lr", "schedule", "precision", "on_collapse"),
        "Evaluation": ("norm", "verify", "verify_suite", "cycles"),
        "Machines": (
            *("num_workers", "cpus_per_worker", "gpus_per_worker", "max_concurrent", "stall_minutes", "address"),
            "storage_path",
        ),
    }

    dataset: str = "digits"
    """Data set: digits (embedded), cifar10, cifar100, svhn, mnist, fashion_mnist, tiny_imagenet or imagenet; your own
    as parquet, imagefolder or package.module:factory (docs/data.md)."""
    data_dir: Path | None = None
    """Folder with the images, or its parent: Parquet files from the Hugging Face hub, the data set's own files, or
    {train,val,test}/<class>/*."""
    image_column: str | None = None
    """Column of the images in Parquet files. Default: found by its type."""
    label_column: str | None = None
    """Column of the labels in Parquet files. Default: found by its name and type."""
    download: bool = False
    """Download the published files to --data-dir first, if they are missing."""
    train_size: int | None = None
    """Number of training images. Default: all that are not held out for validation."""
    val_size: int | None = None
    """Number of training images held out for validation. Default: a tenth, at most 1,000."""
    test_size: int | None = None
    """Number of test images. Default: all."""
    image_size: int | None = None
    """Height and width of images read from files. Default: 224 on imagenet; on imagefolder the images' own size if all
    have the same, else 224."""
    data_workers: int | None = None
    """Processes that decode image files, per training process. Default: one per CPU core, at most 8."""
    model: str | None = None
    """Model: small_cnn, preact_resnet18 ..., timm:NAME, torchvision:NAME, or your own as package.module:factory.
    Default: small_cnn on digits, mnist and fashion_mnist, resnet50 on imagenet and imagefolder, else wrn_28_10."""
    epochs: int | None = None
    """Passes over the training images. Default: 20 on digits, else 100."""
    batch_size: int | None = None
    """Images per update, over all workers. Default: 64 on digits, else 128."""
    lr: float | None = None
    """Maximum learning rate. Default: 0.1; 0.01 on svhn with a wide ResNet."""
    schedule: str | None = None
    """Learning rate schedule: one_cycle, multi_step or cosine. Default: multi_step with a wide ResNet, else
    one_cycle."""
    precision: str = "auto"
    """Training precision: float32, bfloat16, or auto (bfloat16 if the GPU supports it). Verdicts always use float32."""
    on_collapse: str = "stop"
    """If one-step training collapses (catastrophic overfitting): stop and keep the previous epoch, or go_on."""
    norm: Norm = LINF
    """Norm of all budgets, of training and of evaluation: linf, or l2 (docs/threats.md)."""
    verify: int | None = None
    """Test images to verify with --verify-suite; 0 disables. Default: 200 on digits, else 1000."""
    verify_suite: VerifyingSuite = "fast"
    """Attacks that verify: fast (a ladder of APGD searches) or quick (APGD-CE and APGD-T, three times as slow)."""
    seeds: Annotated[tuple[int, ...], Several] = (0, 1, 2)
    """Random seeds; one model per seed."""
    output: Path | None = None
    """New folder for records, models and figures. Default: outputs/<sweep>-<dataset>-<time>."""
    storage_path: str | None = None
    """Empty store for the sweep, if the nodes share no folder: s3://bucket/prefix, or a folder. With --resume: the
    store of a sweep whose folder you did not write yourself."""
    resume: str | None = None
    """Resume the sweep in this folder or --storage-path with its original settings."""
    num_workers: int = 1
    """Processes that train one model together (data parallel)."""
    cpus_per_worker: int = 1
    """CPU cores per process."""
    gpus_per_worker: float | None = None
    """GPUs per process; a fraction lets trials share one. Default: 1 if the machine has GPUs, else 0."""
    max_concurrent: int | None = None
    """Maximum number of concurrent trials. Default: as many as fit the cluster now; set it higher if the cluster
    can grow."""
    stall_minutes: float = 60.0
    """Fail a trial after this many minutes without progress; 0 disables."""
    cycles: Annotated[bool, Parameter(negative="--no-cycles")] = True
    """Run every step of PGD. Default: an image leaves PGD once its search repeats itself, with the same verdicts."""
    address: str | None = None
    """Ray cluster to join. Default: RAY_ADDRESS, else one that `ray start` started on this machine, else "local",
    which starts a new one."""

    def data_config(self) -> DataConfig:
        """The data set settings of a trial's config."""
        return DataConfig(
            name=self.dataset,
            train_size=self.train_size,
            val_size=self.val_size,
            test_size=self.test_size,
            image_size=self.image_size,
            image_column=self.image_column,
            label_column=self.label_column,
        )

    def model_name(self) -> str:
        """The model given, or the data set's default."""
        return self.model or DEFAULT_MODELS.get(self.dataset, WIDE_RESNET)

    def train_config(self, *, long: bool = False) -> TrainConfig:
        """The training settings: those given, else the paper's for a wide ResNet, else one cycle.

        `long` selects the long schedule, which the paper marks with a "+": decay at 100, 150 and 200 epochs instead
        of 60, 90 and 100.
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
        """How many test images to verify."""
        return _or(self.verify, 200 if self.dataset == "digits" else 1000)

    def resources(self) -> Resources:
        """The resources of one trial.

        Raises:
            InputError: fewer than one worker, core or concurrent trial, or a negative number of GPUs.
        """
        if self.num_workers < 1 or self.cpus_per_worker < 1:
            raise InputError("--num-workers and --cpus-per-worker must be at least 1")
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise InputError(f"--max-concurrent={self.max_concurrent} must be at least 1")
        if self.data_workers is not None:
            check_finite("--data-workers", self.data_workers)
        gpus = self.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if gpu_count() else 0.0
        if not gpus >= 0:
            raise InputError(f"--gpus-per-worker={gpus:g} must be at least 0")
        return Resources(num_workers=self.num_workers, cpus_per_worker=self.cpus_per_worker, gpus_per_worker=gpus)

    def stall(self) -> float | None:
        """Seconds without progress after which a trial fails; None disables the check.

        Raises:
            InputError: the value is negative or not finite.
        """
        check_finite("--stall-minutes", self.stall_minutes)
        return self.stall_minutes * 60 or None

    def output_folder(self, name: str) -> Path:
        """--output, or a new folder named after the sweep and the time."""
        return self.output or timestamped(f"{name}-{file_name(self.dataset)}")

    def new_folder(self, name: str) -> "SweepFolder":
        """The folder, and the store if any, of a new sweep.

        Raises:
            InputError: one of them is not empty or cannot be used.
        """
        from sweeps.engine.storage.object_store import Storage
        from sweeps.engine.sweep.folder import SweepFolder

        path = self.output_folder(name).resolve()
        refuse_if_used(path, SPEC, "a sweep")
        store = Storage.at(self.storage_path) if self.storage_path else None
        if store and store.names():
            raise InputError(
                f"--storage-path {self.storage_path!r} is not empty: use --resume, or another --storage-path"
            )
        return SweepFolder(path, store)

    def refuse_download_into(self, data_dir: str | None) -> None:
        """Reject a download into a folder that the user did not name.

        Args:
            data_dir: the folder that the resumed sweep names.
        Raises:
            InputError: --download is given without --data-dir.
        """
        if self.download and self.data_dir is None and data_dir is not None:
            raise InputError(
                f"--download would write to {data_dir!r}, which the sweep's folder names: add --data-dir with the"
                " folder that you mean"
            )

    def refuse_with_resume(self, *, also_allowed: Set[str] = frozenset()) -> None:
        """Reject options that would change a resumed sweep.

        Raises:
            InputError: such an option was given.
        """
        allowed = {"resume", "storage_path", "data_dir", "data_workers", "download", "max_concurrent", "stall_minutes"}
        allowed |= {"address", "cycles"} | also_allowed | ({"output"} if self.resume and is_uri(self.resume) else set())
        for option in self.given:
            if option not in allowed:
                flag = self.flag(option)
                raise InputError(f"{flag} cannot be given with --resume: the sweep keeps its settings; omit {flag}")


def short_name(recipe: str) -> tuple[str, bool]:
    """Split a recipe into its name and whether it uses the long schedule: R-MC-LA+ is R-MC-LA, trained longer."""
    return recipe.removesuffix(LONG), recipe.endswith(LONG)


def evaluation_budget(eps: float | None, step_size: float | None, pixel: float) -> tuple[float, float]:
    """Budget and step size in [0, 1]. Default: the paper's 8 pixels (in L2: 8 units), and a quarter of it."""
    eps = _or(eps, EVAL_PIXELS * pixel)
    return eps, _or(step_size, eps / STEPS_PER_EPS)


def file_name(dataset: str) -> str:
    """A data set's name as part of a file name: package.module:factory has a colon."""
    return dataset.replace(":", "-")


def timestamped(name: str) -> Path:
    """The path of a results folder, named after its origin and the time."""
    now = datetime.datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    return Path("outputs") / f"{name}-{now}"


def load_images(
    data: DataConfig, data_dir: str | Path | None, *, download: bool, data_workers: int | None = None
) -> "Dataset":
    """Load the data set that a trial's config names from this machine's `data_dir`.

    Raises:
        InputError: it cannot be loaded, or has no images to train on and to choose by.
    """
    from bat_core.data import load_dataset

    dataset = load_dataset(
        data.name,
        data_dir,
        download=download,
        train_size=data.train_size,
        val_size=data.val_size,
        test_size=data.test_size,
        image_size=data.image_size,
        image_column=data.image_column,
        label_column=data.label_column,
        data_workers=data_workers,
    )
    dataset.check_trainable()
    return dataset


def gpu_count() -> int:
    """How many GPUs this machine has."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
