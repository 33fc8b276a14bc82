"""From options to results: checks, runs, mirrors and reports one sweep."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

import bat_core
from bat_core.data import Dataset
from bat_core.workers import Workers
from sweeps.engine.cli.app import FAILED, INTERRUPTED, command_line
from sweeps.engine.cli.options import SweepOptions, load_images
from sweeps.engine.cli.text import counted, relative, say
from sweeps.engine.driver.model_queries import ModelQuery
from sweeps.engine.driver.on_ray import _ask_on_ray, run_on_ray
from sweeps.engine.driver.preflight import check_machine, check_trial
from sweeps.engine.driver.reuse import reuse_finished
from sweeps.engine.storage.locks import sole_driver
from sweeps.engine.storage.retry import retry_storage
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import TrialStatus, read_status, unread_lines
from sweeps.engine.sweep.remote import hold_lease, open_sweep
from sweeps.engine.sweep.spec import Report, Sweep, Trial
from sweeps.engine.tracking.background import Mirroring, how_to_open

MakeTrials = Callable[[Dataset], Sequence[Trial]]
Draw = Callable[[Sweep, SweepFolder], Report]
FindProbes = Callable[[Sweep, SweepFolder], Sequence[ModelQuery]]


def run_sweep(
    options: SweepOptions,
    *,
    name: str,
    make_trials: MakeTrials,
    draw: Draw,
    queries: FindProbes = lambda sweep, folder: (),  # noqa: ARG005
    reuse: bool = False,
) -> int:
    """Run a sweep, or go on with one, and say what came out.

    Args:
        name: the sweep's name, in its folder and in MLflow.
        make_trials: what varies and what is fixed, once the data set is known.
        draw: a pure function of the sweep's records and probes.
        probes: what is still to be asked of finished models.
        reuse: whether trials that sweeps in the same folder have finished are used again.
    Returns:
        The exit code: 0, or 1 if a trial failed or a question has no answer, or 130 if it was interrupted.
    Raises:
        InputError: the input cannot be used; nothing has been started or written.
    """
    console = Console()
    if options.resume:
        options.refuse_beside_resume()
        sweep, folder, dataset = _resumed(options, options.resume)
        name_versions(sweep, console)
    else:
        sweep, folder, dataset = _begun(options, name, make_trials)
    with sole_driver(folder.path, "sweep"), hold_lease(folder, console) as folder:
        if taken := reuse_finished(sweep, folder, dataset, [folder.path.parent]) if reuse else []:
            sources = ", ".join(dict.fromkeys(relative(one.folder.parents[1]) for one in taken))
            say(console, f"{counted(len(taken), 'trial')} of a finished sweep used again: {sources}")
        waiting = _unfinished(sweep, folder)
        console.print(f"{len(waiting)} of {len(sweep.trials)} trials to run, in {relative(folder.path)}")
        mirroring = Mirroring(sweep, folder)
        with mirroring.running():
            unrecorded = run_on_ray(waiting, sweep, dataset, folder, console, options) if waiting else {}
            asked = () if any(not status.done for _, status in _statuses(sweep, folder)) else queries(sweep, folder)
            answered = not asked or _ask_on_ray(asked, sweep, dataset, folder, console, options)
        code = _conclude(sweep, folder, draw, mirroring, console, unrecorded)
        return code or (0 if answered else FAILED)


def _statuses(sweep: Sweep, folder: SweepFolder) -> list[tuple[Trial, TrialStatus]]:
    return [(trial, read_status(folder.trial(trial))) for trial in sweep.trials]


def _unfinished(sweep: Sweep, folder: SweepFolder) -> list[Trial]:
    return [trial for trial, status in _statuses(sweep, folder) if status.phase != "finished"]


def _begun(options: SweepOptions, name: str, make_trials: MakeTrials) -> tuple[Sweep, SweepFolder, Dataset]:
    folder = options.new_folder(name)
    resources = options.resources()
    check_machine(resources, options.address, options.max_concurrent)
    dataset = load_images(
        options.data_config(), options.data_dir, download=options.download, data_workers=options.data_workers
    )
    trials = make_trials(dataset)
    for trial in trials:
        check_trial(trial.config, dataset, Workers(size=resources.num_workers))
    sweep = Sweep.new(
        name,
        command=command_line(),
        data_dir=str(options.data_dir.resolve()) if options.data_dir else None,
        pixel=dataset.pixel,
        resources=resources,
        trials=trials,
        storage=folder.store.uri if folder.store else None,
    )
    folder.create(sweep)
    return sweep, folder, dataset


def _resumed(options: SweepOptions, place: str) -> tuple[Sweep, SweepFolder, Dataset]:
    folder = open_sweep(place, options.output)
    sweep = folder.load()
    dataset = load_images(
        sweep.trials[0].config.data,
        options.data_dir or sweep.data_dir,
        download=options.download,
        data_workers=options.data_workers,
    )
    return sweep, folder, dataset


def name_versions(sweep: Sweep, console: Console) -> None:
    """Say so where a sweep goes on with another version of this package than it began with."""
    if sweep.version != bat_core.__version__:
        said = f"begun with bat-sweeps {sweep.version}, going on with {bat_core.__version__}: trials may differ by that"
        say(console, said, "yellow")


def _conclude(
    sweep: Sweep,
    folder: SweepFolder,
    draw: Draw,
    mirroring: Mirroring,
    console: Console,
    unrecorded: Mapping[str, str],
) -> int:
    statuses = {trial.id: read_status(folder.trial(trial)) for trial in sweep.trials}
    failed = {trial: status.reason for trial, status in statuses.items() if status.phase == "failed"} | dict(unrecorded)
    finished = sum(status.phase == "finished" for status in statuses.values())
    unfinished = len(statuses) - finished - len(failed)
    for trial, reason in failed.items():
        say(console, f"failed {trial}: {reason}", "red")

    def write_report() -> Report:
        report = draw(sweep, folder) if finished else Report(files=(), sentence="No trial finished.")
        if not unfinished:
            folder.write_report(report)
        return report

    report = retry_storage(write_report, "the report cannot be written", folder.path)
    print_summary(report, sweep, folder, mirroring, console)
    if unfinished or failed:
        left = unfinished + len(failed)
        say(console, f"{left} trials are not finished; go on with --resume {relative(folder.path)}", "yellow")
    return INTERRUPTED if unfinished else FAILED if failed else 0


def print_summary(
    report: Report, sweep: Sweep, folder: SweepFolder, mirroring: Mirroring, console: Console, *others: str
) -> None:
    """Mirror what there is, and say where everything lies and what it comes to; `others` follow the files."""
    trouble = mirroring.once()
    statuses = {trial.id: read_status(folder.trial(trial)) for trial in folder.trials(sweep)}
    for trial_id, status in statuses.items():
        for checkpoint, reason in status.passed_over.items():
            say(console, f"{trial_id} passed over {checkpoint} for the one before: {reason}", "yellow")
    if damage := unread_lines(statuses):
        say(console, damage, "yellow")
    for file in report.files:
        say(console, f"{Path(file).suffix[1:].upper() + ':':<8}{relative(folder.path / file)}")
    for line in others:
        say(console, line)
    say(console, f"MLflow: {how_to_open(mirroring.uri)}, experiment {sweep.title(folder)}")
    if trouble:
        later = f"later: python sweeps/mirror.py {relative(folder.path)}"
        say(console, f"MLflow did not take everything ({trouble}); {later}", "yellow")
    say(console, report.sentence, "bold")
