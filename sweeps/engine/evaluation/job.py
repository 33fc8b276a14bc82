"""The life of an evaluation or a transfer matrix: begun or resumed, run shard by shard, concluded, logged."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from rich.console import Console

from bat_core.data import Split
from bat_core.errors import InputError
from sweeps.engine.cli.options import timestamped
from sweeps.engine.cli.text import progress, relative, say
from sweeps.engine.evaluation.options import JobOptions
from sweeps.engine.evaluation.setup import found_again
from sweeps.engine.evaluation.spec import EvaluationSpec
from sweeps.engine.storage.files import refuse_if_used
from sweeps.engine.storage.locks import sole_driver
from sweeps.engine.tracking.background import failure_of, how_to_open, quiet_mlflow, time_limit, tracking_uri

Run: TypeAlias = Callable[[Callable[..., None], Sequence[tuple[Any, ...]]], None]
S = TypeVar("S", bound=EvaluationSpec)


class JobFolder(Protocol[S]):
    """Where a job's description and results are."""

    @property
    def path(self) -> Path:
        """The folder."""

    def create(self, spec: S, /) -> None:
        """Write the description into a new folder."""

    def load(self) -> S:
        """Read the description."""


class Job(ABC, Generic[S]):
    """An evaluation or a transfer matrix, from its options to its results.

    `run` is the life of every job. Subclasses say what it consists of.
    """

    noun: ClassVar[str]
    spec_file: ClassVar[str]
    article: ClassVar[str] = "a"

    spec: S
    part: Split

    def __init__(self, models: Sequence[str], options: JobOptions) -> None:
        self.models, self.options, self.console = models, options, Console()
        self.folder = self.folder_at(Path(options.resume or options.output or timestamped(self.stem)).resolve())

    def run(self) -> int:
        """Begin or resume, attack, conclude, log to MLflow.

        Returns:
            The exit code, 0.
        Raises:
            InputError: the input cannot be used; nothing was attacked.
        """
        self._resume() if self.options.resume else self._begin()
        with sole_driver(self.folder.path, self.noun):
            with progress(self.console, total=self.total(), done=self.done, doing=self.doing):
                self.attack()
            results = self.conclude()
            self.say(f"Results: {relative(self.folder.path)} ({results})")
            self._log()
        return 0

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        say(self.console, text, style)

    @property
    @abstractmethod
    def stem(self) -> str:
        """What a folder for its results is named after."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """What must be named to begin one."""

    @abstractmethod
    def folder_at(self, path: Path) -> JobFolder[S]:
        """The folder at `path`."""

    @abstractmethod
    def make(self) -> tuple[S, Split]:
        """Decide everything, with every model and image looked at.

        Raises:
            InputError: one cannot be used.
        """

    @abstractmethod
    def total(self) -> float:
        """How much there is to do."""

    @abstractmethod
    def done(self) -> float:
        """How much of `total` is on disk."""

    @abstractmethod
    def doing(self) -> str:
        """What is being done now, for people."""

    @abstractmethod
    def attack(self) -> None:
        """Do all that is not on disk yet."""

    @abstractmethod
    def conclude(self) -> str:
        """Write and print what came out. Returns which files hold it."""

    @abstractmethod
    def log(self, uri: str) -> None:
        """Bring the results into MLflow."""

    @property
    def experiment(self) -> str:
        """Where MLflow shows them, for the line that says how to open it."""
        return ""

    def _begin(self) -> None:
        self.options.check()
        if not self.models:
            raise InputError(f"name at least {self.wanted}, or {self.article} {self.noun} to --resume")
        refuse_if_used(self.folder.path, self.spec_file, f"{self.article} {self.noun}")
        self.spec, self.part = self.make()
        self.folder.create(self.spec)

    def _resume(self) -> None:
        self.options.refuse_beside_resume(self.models, self.noun)
        self.spec = self.folder.load()
        self.part = found_again(self.spec, self.options, self.noun)

    def _log(self) -> None:
        uri = tracking_uri()

        def log() -> None:
            quiet_mlflow()
            self.log(uri)

        if trouble := failure_of(log, patience=time_limit(len(self.spec.models))):
            later = f"later: --resume {relative(self.folder.path)}"
            self.say(f"MLflow did not take everything ({trouble}); {later}", "yellow")
        else:
            self.say(f"MLflow: {how_to_open(uri)}{self.experiment}")


@contextmanager
def spread(options: JobOptions, shared: tuple[Any, ...]) -> Iterator[Run]:
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
