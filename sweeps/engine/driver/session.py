"""Starts, resumes and drives a sweep or search."""

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console

import bat_core
from bat_core.adapter.importing import allow, references
from bat_core.config import TrialConfig, check_storable
from bat_core.data import Dataset
from bat_core.paths import remove_partial_files
from bat_core.user_modules import changed_modules, source_digests
from bat_core.workers import Workers
from sweeps.engine.cli.app import command_line
from sweeps.engine.cli.config_file import FILE as CONFIG
from sweeps.engine.cli.config_file import repeating_config
from sweeps.engine.cli.options import SweepOptions, load_images
from sweeps.engine.cli.text import say
from sweeps.engine.driver.preflight import check_machine, check_trial, check_user_code
from sweeps.engine.storage.locks import sole_driver
from sweeps.engine.storage.marks import mark_code, marked_code
from sweeps.engine.storage.undo import undone_if_not_started
from sweeps.engine.sweep.folder import TRIALS, SweepFolder
from sweeps.engine.sweep.remote import hold_lease, open_sweep
from sweeps.engine.sweep.spec import Sweep, Trial
from sweeps.engine.tracking.background import BackgroundSync


@dataclass(frozen=True)
class Plan:
    """What a new sweep runs.

    `trials` are the predefined trials. `examples` are sample configs of trials to be proposed; they pass the same
    checks. A search is `open`: it proposes trials while it runs. `threats` are those of `Sweep.threats`.
    """

    trials: Sequence[Trial] = ()
    examples: Sequence[TrialConfig] = ()
    open: bool = False
    threats: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepSession:
    """A sweep with its folder, data set, options, console and tracker."""

    sweep: Sweep
    folder: SweepFolder
    dataset: Dataset
    options: SweepOptions
    console: Console
    tracker: BackgroundSync

    @classmethod
    def new(cls, sweep: Sweep, folder: SweepFolder, dataset: Dataset, options: SweepOptions) -> "SweepSession":
        """A session on this terminal, tracked in the MLflow that MLFLOW_TRACKING_URI names."""
        return cls(sweep, folder, dataset, options, Console(), BackgroundSync(sweep, folder))

    def say(self, text: str, style: str | None = None) -> None:
        """Print a line."""
        say(self.console, text, style)

    @contextmanager
    def undone_if_not_started(self) -> Iterator[None]:
        """If Ray does not start in the body, and none of a new sweep's trials has begun, remove the sweep again."""
        folder, store = self.folder, self.folder.store

        def started() -> bool:
            return any(status.started is not None and not status.reused for _, status in folder.statuses(self.sweep))

        def undo() -> None:
            if store is not None:
                for stored in store.files():
                    store.drop(stored.key)

        with undone_if_not_started(folder.path, new=self.options.resume is None, started=started, undo=undo):
            yield

    @contextmanager
    def driving(self) -> Iterator["SweepSession"]:
        """Make this process the only driver of the sweep while the body runs.

        Raises:
            InputError: another process drives the sweep, in this folder or in the store.
        """
        noun = "search" if self.sweep.open else "sweep"
        with sole_driver(self.folder.path, noun), hold_lease(self.folder, self.console) as folder:
            remove_partial_files(folder.path, but=TRIALS)  # where trials of a killed driver may still write
            yield replace(self, folder=folder, tracker=BackgroundSync(self.sweep, folder))


def begin(options: SweepOptions, name: str, plan: Callable[[Dataset], Plan]) -> SweepSession:
    """Check everything, then write the spec of a new sweep.

    Args:
        name: the sweep's name, in its folder and in MLflow.
        plan: returns what to run on the loaded data set.
    Raises:
        InputError: the input cannot be used; nothing was started or written.
    """
    folder = options.new_folder(name)
    resources = options.resources()
    check_machine(resources, options.address, options.max_concurrent)
    dataset = load_images(
        options.data_config(), options.data_dir, download=options.download, data_workers=options.data_workers
    )
    planned = plan(dataset)
    configs = [*(trial.config for trial in planned.trials), *planned.examples]
    workers = Workers(size=resources.num_workers)
    for config in configs:
        check_trial(config, dataset, workers)
    check_user_code(configs, dataset, workers, options.address)
    sweep = Sweep(
        name=name,
        command=command_line(),
        data_dir=str(options.data_dir.resolve()) if options.data_dir else None,
        pixel=dataset.unit(options.norm),
        norm=options.norm,
        resources=resources,
        trials=tuple(planned.trials),
        open=planned.open,
        threats=planned.threats,
        storage=folder.store.uri if folder.store else None,
    )
    check_storable(sweep)
    folder.create(sweep)
    folder.write(CONFIG, repeating_config(options, command=sweep.command))
    folder.write_user_code(source_digests())
    mark_code(folder.path, sweep.id, references)
    return SweepSession.new(sweep, folder, dataset, options)


def resume(
    options: SweepOptions,
    *,
    base: Callable[[Sweep, SweepFolder], TrialConfig] = lambda sweep, _: sweep.trials[0].config,
    also_allowed: AbstractSet[str] = frozenset(),
) -> SweepSession:
    """Open the sweep in the folder or store that --resume names.

    Args:
        base: returns the config that its trials share, or one of them.
        also_allowed: options that are allowed with --resume.
    Raises:
        InputError: there is no such sweep, or an option would change it.
    """
    assert options.resume is not None
    options.refuse_with_resume(also_allowed=also_allowed)
    folder = open_sweep(options.resume, options.output, options.storage_path)
    sweep = folder.load()
    allow(marked_code(folder.path, sweep.id))
    shared = base(sweep, folder)
    options.refuse_download_into(sweep.data_dir)
    dataset = load_images(
        shared.data,
        options.data_dir or sweep.data_dir,
        download=options.download,
        data_workers=options.data_workers,
    )
    left = [trial.config for trial, status in folder.statuses(sweep) if status.phase != "finished"]
    if left or sweep.open:
        workers = Workers(size=sweep.resources.num_workers)
        check_user_code([shared, *left], dataset, workers, options.address)
    session = SweepSession.new(sweep, folder, dataset, options)
    warn_of_other_version(sweep, session.console)
    if changed := changed_modules(folder.user_code(), source_digests()):
        session.say(f"{', '.join(changed)} changed since the sweep was started: results may differ", "yellow")
    return session


def warn_of_other_version(sweep: Sweep, console: Console) -> None:
    """Warn if the sweep was started with another version of this package."""
    mine = bat_core.__version__
    if sweep.version != mine:
        say(
            console,
            f"started with bat-sweeps {sweep.version}, resuming with {mine}: results may differ",
            "yellow",
        )
