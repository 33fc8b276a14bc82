"""Runs, tracks and reports one sweep."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import sweeps
from bat_core.data import Dataset
from sweeps.engine.cli.app import FAILED, INTERRUPTED, resume_command
from sweeps.engine.cli.options import SweepOptions
from sweeps.engine.cli.text import counted
from sweeps.engine.driver.on_ray import answer_on_ray, run_on_ray
from sweeps.engine.driver.query_spec import ModelQuery
from sweeps.engine.driver.reuse import reuse_finished
from sweeps.engine.driver.session import Plan, SweepSession, begin, resume
from sweeps.engine.storage.files import pasted, relative
from sweeps.engine.storage.retry import retry_storage
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import unread_lines
from sweeps.engine.sweep.spec import Report, Sweep, Trial
from sweeps.engine.tracking.location import how_to_open, restored_experiments

MakeTrials = Callable[[Dataset], Sequence[Trial]]
Draw = Callable[[Sweep, SweepFolder], Report]
FindQueries = Callable[[Sweep, SweepFolder], Sequence[ModelQuery]]

MIRROR = Path(sweeps.__file__).with_name("mirror.py")


def run_sweep(
    options: SweepOptions,
    *,
    name: str,
    make_trials: MakeTrials,
    draw: Draw,
    queries: FindQueries = lambda sweep, folder: (),  # noqa: ARG005
    reuse: bool = False,
) -> int:
    """Run a sweep, or resume one, and report it.

    Args:
        name: the sweep's name, in its folder and in MLflow.
        make_trials: returns the trials for the loaded data set.
        draw: creates the report; a pure function of the sweep's records and query answers.
        queries: returns the measurements on finished models that are still missing.
        reuse: whether to reuse finished trials of sweeps in the same parent folder.
    Returns:
        The exit code: 0; 1 if a trial failed or a query has no answer; 130 if interrupted.
    Raises:
        InputError: the input cannot be used; nothing was started or written.
    """
    opened = resume(options) if options.resume else begin(options, name, lambda dataset: Plan(make_trials(dataset)))
    with opened.undone_if_not_started(), opened.driving() as session:
        if reuse:
            _reuse(session)
        sweep, folder = session.sweep, session.folder
        waiting = [trial for trial, status in folder.statuses(sweep) if status.phase != "finished"]
        session.console.print(f"{len(waiting)} of {len(sweep.trials)} trials to run, in {relative(folder.path)}")
        with session.tracker.running():
            unrecorded = run_on_ray(session, waiting) if waiting else {}
            over = all(status.done for _, status in folder.statuses(sweep))
            open_queries = queries(sweep, folder) if over else ()
            answered = not open_queries or answer_on_ray(session, open_queries)
        code = _conclude(session, draw, unrecorded)
        return code or (0 if answered else FAILED)


def _reuse(session: SweepSession) -> None:
    folder = session.folder
    if taken := reuse_finished(session.sweep, folder, session.dataset, [folder.path.parent]):
        sources = ", ".join(dict.fromkeys(relative(one.folder.parents[1]) for one in taken))
        session.say(f"{counted(len(taken), 'trial')} reused from finished sweeps: {sources}")


def _conclude(session: SweepSession, draw: Draw, unrecorded: Mapping[str, str]) -> int:
    sweep, folder = session.sweep, session.folder
    statuses = {trial.id: status for trial, status in folder.statuses(sweep)}
    failed = {trial: status.reason for trial, status in statuses.items() if status.phase == "failed"} | dict(unrecorded)
    finished = sum(status.phase == "finished" for status in statuses.values())
    unfinished = len(statuses) - finished - len(failed)
    for trial, reason in failed.items():
        session.say(f"failed {trial}: {reason}", "red")

    def write_report() -> Report:
        report = draw(sweep, folder) if finished else Report(files=(), sentence="No trial finished.")
        if not unfinished:
            folder.write_report(report)
        return report

    report = retry_storage(write_report, "the report cannot be written", folder.path)
    print_summary(session, report)
    if unfinished or failed:
        left = unfinished + len(failed)
        session.say(f"{left} trials are not finished; resume with {resume_command(folder.path)}", "yellow")
    return INTERRUPTED if unfinished else FAILED if failed else 0


def print_summary(session: SweepSession, report: Report, *others: str) -> None:
    """Sync MLflow, and print the files, then `others`, then the result."""
    sweep, folder, tracker = session.sweep, session.folder, session.tracker
    trouble = tracker.once()
    statuses = {trial.id: status for trial, status in folder.statuses(sweep)}
    for trial_id, status in statuses.items():
        for checkpoint, reason in status.passed_over.items():
            session.say(f"{trial_id} skipped checkpoint {checkpoint} and used an earlier one: {reason}", "yellow")
    if damage := unread_lines(statuses):
        session.say(damage, "yellow")
    for file in report.files:
        session.say(f"{Path(file).suffix[1:].upper() + ':':<8}{relative(folder.path / file)}")
    for line in others:
        session.say(line)
    session.say(f"MLflow: {how_to_open(tracker.uri, tracker.link)}, experiment {folder.title(sweep)}")
    if restored := restored_experiments():
        session.say(restored, "yellow")
    if trouble:
        later = f"later: {pasted(Path(sys.executable))} {pasted(MIRROR)} {pasted(folder.path)}"
        session.say(f"MLflow did not take everything ({trouble}); {later}", "yellow")
    session.say(report.sentence, "bold")
