"""The life cycle of an evaluation or a transfer matrix: begin or resume, attack by shard, conclude, log."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

from rich.console import Console

from bat_core.data import Split
from bat_core.errors import InputError
from bat_core.paths import below, remove_partial_files, write_atomically
from sweeps.engine.cli.app import resume_command
from sweeps.engine.cli.config_file import FILE as CONFIG
from sweeps.engine.cli.config_file import repeating_config
from sweeps.engine.cli.options import timestamped
from sweeps.engine.cli.text import progress, say
from sweeps.engine.evaluation.options import JobOptions
from sweeps.engine.evaluation.setup import reload_images
from sweeps.engine.evaluation.spec import EvaluationSpec
from sweeps.engine.storage.files import refuse_if_used, relative
from sweeps.engine.storage.locks import sole_driver
from sweeps.engine.storage.undo import undone_if_not_started
from sweeps.engine.tracking.background import failure_of, quiet_mlflow, time_limit
from sweeps.engine.tracking.location import how_to_open, prepare, restored_experiments, tracking_uri

Run: TypeAlias = Callable[[Callable[..., None], Sequence[tuple[Any, ...]]], None]
S = TypeVar("S", bound=EvaluationSpec)


class JobFolder(Protocol[S]):
    """The folder of a job's description and results."""

    @property
    def path(self) -> Path:
        """Its path."""

    def create(self, spec: S, /) -> None:
        """Write the description into a new folder."""

    def load(self) -> S:
        """Read the description."""


class Job(ABC, Generic[S]):
    """An evaluation or a transfer matrix, from its options to its results.

    `run` is the same for every job. Subclasses implement its steps.
    """

    noun: ClassVar[str]
    spec_file: ClassVar[str]
    article: ClassVar[str] = "a"

    spec: S
    part: Split

    def __init__(self, models: Sequence[str], options: JobOptions, *, part_of: Path | None = None) -> None:
        """`part_of` is the folder of the search that this job belongs to, and that is resumed in its place."""
        self.models, self.options, self.console, self.part_of = models, options, Console(), part_of
        self.folder = self.folder_at(Path(options.resume or options.output or timestamped(self.stem)).resolve())

    def run(self) -> int:
        """Begin or resume, attack, conclude, log to MLflow.

        Returns:
            The exit code, 0.
        Raises:
            InputError: the input is invalid; nothing was attacked.
        """
        self._resume() if self.options.resume else self._begin()
        undone = undone_if_not_started(
            self.folder.path, new=not self.options.resume, started=lambda: self.done() > 0, undo=lambda: None
        )
        with undone, sole_driver(self.folder.path, self.noun):
            remove_partial_files(self.folder.path)
            with self._told_how_to_resume():
                with progress(self.console, total=self.total(), done=self.done, doing=self.doing):
                    self.attack()
                results = self.conclude()
            self.say(f"Results: {relative(self.folder.path)} ({results})")
            self._log()
        return 0

    @contextmanager
    def _told_how_to_resume(self) -> Iterator[None]:
        """If Ctrl-C ends the body, say what is kept, and the whole command that goes on."""
        try:
            yield
        except KeyboardInterrupt:
            again = resume_command(self.part_of or self.folder.path)
            self.say(
                f"stopped: {self.done() / self.total():.0%} of the attacks are done and kept; resume with {again}",
                "yellow",
            )
            raise

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        say(self.console, text, style)

    @property
    @abstractmethod
    def stem(self) -> str:
        """Prefix of the default output folder's name."""

    @property
    @abstractmethod
    def required_models(self) -> str:
        """The models that a new job requires, in words."""

    @abstractmethod
    def folder_at(self, path: Path) -> JobFolder[S]:
        """The folder at `path`."""

    @abstractmethod
    def make(self) -> tuple[S, Split]:
        """Load and inspect every model and the images, and fix the job's description.

        Raises:
            InputError: a model or the images cannot be used.
        """

    @abstractmethod
    def total(self) -> float:
        """The total work, in any unit."""

    @abstractmethod
    def done(self) -> float:
        """The part of `total` whose results are on disk."""

    @abstractmethod
    def doing(self) -> str:
        """The current step, for the progress bar."""

    @abstractmethod
    def attack(self) -> None:
        """Compute all results that are not on disk."""

    @abstractmethod
    def conclude(self) -> str:
        """Write and print the results. Returns the names of their files."""

    @abstractmethod
    def log(self, uri: str) -> None:
        """Log the results to MLflow."""

    @property
    def experiment(self) -> str:
        """Suffix that names the MLflow experiment, for the line on how to open MLflow."""
        return ""

    def _begin(self) -> None:
        self.options.check()
        if not self.models:
            raise InputError(
                f"no model is given: name at least {self.required_models}, or --resume {self.article} {self.noun}"
            )
        refuse_if_used(self.folder.path, self.spec_file, f"{self.article} {self.noun}")
        self.spec, self.part = self.make()
        self.folder.create(self.spec)
        config = repeating_config(self.options, self.models, command=self.spec.command)
        write_atomically(below(self.folder.path, CONFIG), config)

    def _resume(self) -> None:
        if not self.models:
            self.options.refuse_with_resume((), self.noun)
        self.spec = self.folder.load()
        others = [name for name in self.models if name not in self.spec.factories]
        self.options.refuse_with_resume(others, self.noun)
        self.spec.check_code(self.folder.path, self.models, self.noun)
        self.part = reload_images(self.spec, self.options, self.noun)

    def _log(self) -> None:
        uri = tracking_uri()

        def log() -> None:
            prepare(uri)
            quiet_mlflow()
            self.log(uri)

        if trouble := failure_of(log, patience=time_limit(len(self.spec.models))):
            later = f"try again with {resume_command(self.part_of or self.folder.path)}"
            self.say(f"MLflow did not take everything ({trouble}); {later}", "yellow")
        else:
            self.say(f"MLflow: {how_to_open(uri)}{self.experiment}")
        if restored := restored_experiments():
            self.say(restored, "yellow")


@contextmanager
def spread(options: JobOptions, shared: tuple[Any, ...]) -> Iterator[Run]:
    """Yields run(function, calls), which runs `function(*shared, *call)` for each call, here or on workers."""
    if options.alone():

        def run(function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
            for call in calls:
                function(*shared, *call)

        yield run
        return
    from sweeps.engine.ray_backend import cluster, tasks

    with cluster.cluster(address=cluster.existing_cluster(options.address)):

        def run_there(function: Callable[..., None], calls: Sequence[tuple[Any, ...]]) -> None:
            list(tasks.run_tasks(function, calls, shared, gpus=options.gpus(), most=options.workers))

        yield run_there
