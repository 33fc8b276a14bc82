"""The options of `evaluate` and `transfer`. Whatever imports torch is imported where it is used."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from cyclopts import Parameter

from bat_core.config import PRECISIONS, SPLITS
from bat_core.errors import InputError, check_choice, check_finite
from bat_core.norms import LINF, Norm, check_budget
from sweeps.engine.cli.given import Options
from sweeps.engine.cli.options import Amount, Several, gpu_count, parse_share

if TYPE_CHECKING:
    from bat_core.suites import Suite


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class JobOptions(Options):
    """Images, budget and machine. None means the default."""

    common: ClassVar[tuple[str, ...]] = (
        "dataset",
        "data_dir",
        "split",
        "n",
        "norm",
        "eps",
        "step_size",
        "output",
        "resume",
    )
    shared: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "Models from elsewhere": ("weights", "weights_key", "logits_key", "normalize", "despite_findings"),
        "Images": ("image_column", "label_column", "image_size", "data_workers"),
        "Attacks": ("seed", "precision", "batch_size", "cycles"),
        "Machines": ("workers", "gpus_per_worker", "address"),
    }

    dataset: str | None = None
    """Images: digits, cifar10, svhn, imagenet, parquet, imagefolder, package.module:factory ... (docs/data.md).
    Default: what the model was trained on."""
    data_dir: Path | None = None
    """Folder with the images, or its parent. A test split is enough. Default: the one that the model's sweep used."""
    image_column: str | None = None
    """Column of the images in Parquet files. Default: the one the model was trained on, else found by its type."""
    label_column: str | None = None
    """Column of the labels in Parquet files. Default: the one the model was trained on, else found by name and type."""
    image_size: int | None = None
    """Height and width of images read from files. Default: what the model was trained on."""
    data_workers: int | None = None
    """Processes per worker that decode image files. Default: one per CPU core of the worker, at most 8."""
    split: str = "test"
    """test or val (images held out of train, for choosing between models)."""
    n: int | None = None
    """Number of images to attack. Default: all."""
    norm: Norm = LINF
    """Norm of the budget: linf, or l2 (docs/threats.md)."""
    eps: Amount | None = None
    """Evaluation budget, such as 8/255. Default: 8 pixels of the data set; in L2 its usual budget, 0.5 on cifar10."""
    step_size: Amount | None = None
    """Step size of attacks with fixed steps. Default: a quarter of --eps."""
    seed: int = 0
    """Seed of the random starts."""
    weights: Path | None = None
    """Weights for a package.module:factory, timm:NAME or torchvision:NAME: a state_dict in a safetensors or
    torch.save file."""
    weights_key: str = ""
    """The state_dict in the file of --weights, where several fit: a key such as ema, or a prefix of its names."""
    logits_key: str = ""
    """The part of the models' output that holds the logits, such as logits or 0. Default: the only one that can be."""
    normalize: str | None = None
    """Normalisation of the images of models from elsewhere: mean/std, imagenet, cifar10, cifar100, svhn, mnist,
    half ([-1, 1]) or 255 ([0, 255]). Default: what the model's source says, else none."""
    precision: str = "float32"
    """Precision of the attack's search: float32, bfloat16 or auto. Verdicts always use float32."""
    batch_size: int | None = None
    """Images per batch and per shard. Default: 250, on GPUs 1,000, or as many as fit into the free memory."""
    despite_findings: bool = False
    """Attack a model even if it fails the inspection (outputs probabilities, expects another range ...)."""
    workers: int | None = None
    """Number of worker processes. Default: one per GPU, on a cluster as many as fit, otherwise this process only."""
    gpus_per_worker: float | None = None
    """GPUs per worker process. Default: 1 if there are GPUs."""
    address: str | None = None
    """Address of the Ray cluster to use. Default: RAY_ADDRESS, otherwise none."""
    output: Path | None = None
    """New folder for the results."""
    resume: str | None = None
    """Resume the job in this folder, at the shard where it stopped."""

    def check(self) -> None:
        """Raises InputError for invalid options, before anything is loaded."""
        if self.normalize is not None:
            from bat_core.adapter.normalize import parse_normalization

            parse_normalization(self.normalize)
        check_choice("--split", self.split, SPLITS)
        check_choice("--precision", self.precision, PRECISIONS)
        for name in ("eps", "step_size"):
            if getattr(self, name) is not None:
                check_budget(f"--{name.replace('_', '-')}", getattr(self, name), self.norm)
        check_finite("--seed", self.seed)
        for name in ("data_workers", "gpus_per_worker"):
            if getattr(self, name) is not None:
                check_finite(f"--{name.replace('_', '-')}", getattr(self, name))
        for name in ("n", "batch_size", "workers", "image_size"):
            if getattr(self, name) is not None:
                check_finite(f"--{name.replace('_', '-')}", getattr(self, name), low=1)
        self._check_gpus()

    def refuse_with_resume(self, models: Sequence[str], noun: str) -> None:
        """Raises InputError for models or options that cannot change when a `noun` is resumed."""
        allowed = {"resume", "data_dir", "data_workers", "workers", "gpus_per_worker", "address"}
        given = [self.flag(option) for option in self.given if option not in allowed] + list(models)
        if given:
            raise InputError(f"{given[0]} cannot be given with --resume: the {noun} keeps its original settings")
        self._check_gpus()

    def _check_gpus(self) -> None:
        if self.gpus_per_worker is None:
            return
        check_finite("--gpus-per-worker", self.gpus_per_worker)
        if self.gpus_per_worker and not gpu_count() and self._cluster() in (None, "local"):
            raise InputError(
                f"--gpus-per-worker={self.gpus_per_worker:g}: this machine has no GPU: leave it out, or name a cluster"
                " that has some with --address"
            )

    def gpus(self) -> float:
        """GPUs per worker process."""
        default = 1.0 if gpu_count() else 0.0
        return default if self.gpus_per_worker is None else self.gpus_per_worker

    def device(self) -> str:
        """The device of the models in this process, which inspects them.

        A driver whose workers do all the work needs no GPU and touches none, so it inspects models on the CPU.
        """
        return "cuda" if self.gpus() and self.alone() else "cpu"

    def measures_memory(self) -> bool:
        """Whether this process measures the memory for a batch. Workers with GPUs measure that of their own GPU."""
        return self.alone() or not self.gpus()

    def processes(self) -> int:
        """The maximum number of processes that share a device's memory."""
        if self.gpus():
            return max(round(1 / self.gpus()), 1)
        return 1 if self.alone() else self.workers or os.cpu_count() or 1

    def alone(self) -> bool:
        """Whether this process does all the work."""
        if self.gpus() and not gpu_count():
            return False
        several_gpus = bool(self.gpus()) and gpu_count() > 1
        return self.workers == 1 or (self.workers is None and not self._cluster() and not several_gpus)

    def _cluster(self) -> str | None:
        return self.address or os.environ.get("RAY_ADDRESS")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(JobOptions):
    """Attacks, checks and images. None means the default."""

    threat: Annotated[tuple[str, ...], Several] = ()
    """Several threats at once, in place of --norm and --eps: linf:8/255 l2:0.5. Each is evaluated, and their union."""
    suite: str = "paper+quick"
    """Attack suite: paper, curve, fast, quick or standard, or several joined by +, such as paper+standard."""
    n: int | None = None
    """Number of images to evaluate on. Default: all, or the size that the suite is defined for."""
    transfer_from: Annotated[tuple[str, ...], Several] = ()
    """Add a black-box attack: images crafted by CE20 on these models (named like MODEL)."""
    checks: str = "full"
    """Checks for gradient masking: full, cheap or none."""
    cycles: Annotated[bool, Parameter(negative="--no-cycles")] = True
    """Run every step of PGD. Default: an image leaves PGD once its search repeats itself, with the same verdicts."""
    survivors: int | None = None
    """Attack all images with the suite fast, and only this many of those that stand, drawn at random, with --suite. The
    result is an interval for what --suite would leave."""
    stop_below: Annotated[float | None, Parameter(converter=parse_share, n_tokens=1)] = None
    """Attack images in random order, and stop once robust accuracy is below this share, such as 45%, with 95 %
    confidence."""
    stop_above: Annotated[float | None, Parameter(converter=parse_share, n_tokens=1)] = None
    """Attack images in random order, and stop once robust accuracy is at least this share, with 95 % confidence."""
    find_best: bool = False
    """Find the most robust of several models: stop attacking a model once it cannot win any more. The winner and its
    number are those of the whole evaluation; the others get upper bounds."""
    audit: Annotated[float, Parameter(converter=parse_share, n_tokens=1)] = 0.0
    """Attack this share, such as 2%, of the images that stand far from the boundary with the suite quick too, to see
    whether the suite fast leaves them too early."""
    save_adversarial: bool = False
    """Save every adversarial image, as Parquet."""
    gallery: int = 0
    """Show this many images per model in report.html, clean and attacked: those that fall first, and those that stand
    longest. 0 shows none."""
    output: Path | None = None
    """New folder for verdicts, summaries and tables. Default: outputs/evaluate-<suite>-<time>."""
    resume: str | None = None
    """Resume the evaluation in this folder, at the attack and shard where it stopped."""

    def check(self) -> None:
        """Raises InputError for invalid options, before anything is loaded."""
        from bat_core.masking.flags import DEPTHS
        from bat_core.suites import get_suite

        super().check()
        check_choice("--checks", self.checks, (*DEPTHS, "none"))
        check_finite("--gallery", self.gallery, low=0)
        suite = get_suite(self.suite, eps=0.5)
        suite.check_available()
        if self.survivors is not None:
            check_finite("--survivors", self.survivors, low=1)
        if self.sampled:
            self._check_sampled(suite)
        if self.find_best and self.sampled:
            raise InputError("--find-best needs exact numbers: leave out --survivors, --stop-below and --stop-above")
        if self.audit and "fast" not in self.suite.split("+") and self.survivors is None:
            raise InputError(
                f"--audit tests the suite fast, and --suite {self.suite} lacks it: write fast+{self.suite}"
            )
        if self.audit and self.find_best:
            raise InputError("--audit needs all verdicts of a model: leave out --find-best")

    @property
    def sampled(self) -> bool:
        """Whether the suite attacks images that are drawn, and not all."""
        return any(one is not None for one in (self.survivors, self.stop_below, self.stop_above))

    def _check_sampled(self, suite: "Suite") -> None:
        flag = "--survivors" if self.survivors is not None else "--stop-below and --stop-above"
        if any(not entry.skip_broken for entry in suite.entries):
            raise InputError(
                f"{flag} count the images that stand, and --suite {self.suite} has attacks on all images: use fast,"
                " quick or standard"
            )
        if self.survivors is not None and "fast" in self.suite.split("+"):
            raise InputError(f"--survivors are those of the suite fast: leave it out of --suite {self.suite}")
        for option in ("save_adversarial", "gallery", "transfer_from"):
            if getattr(self, option):
                raise InputError(f"{self.flag(option)} needs all images: leave out {flag}")
        below, above = self.stop_below, self.stop_above
        if below is not None and above is not None and above < below:
            raise InputError(f"--stop-above {above:g} is less than --stop-below {below:g}: both would hold")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class TransferOptions(JobOptions):
    """Images, budget and machine. None means the default."""

    batch_size: int | None = None
    """Images per batch and per shard. Default: 250, on GPUs 1,000, or as many as fit into the free memory."""
    output: Path | None = None
    """New folder for verdicts, tables and plots. Default: outputs/transfer-<time>."""
    resume: str | None = None
    """Resume the transfer matrix in this folder, at the model and shard where it stopped."""
