"""The command `search`: run or resume a search, train its finalists, write its report."""

from pathlib import Path
from typing import TYPE_CHECKING

from bat_core.config import check_storable
from bat_core.data import Dataset
from bat_core.norms import LINF, Unit
from bat_core.paths import below, write_atomically
from search_spaces.base import Parameter, Space, Value, show_value
from sweeps.engine.cli.app import FAILED, INTERRUPTED, resume_command
from sweeps.engine.cli.options import load_images
from sweeps.engine.driver.on_ray import on_ray, tune_run
from sweeps.engine.driver.preflight import check_machine
from sweeps.engine.driver.run import print_summary
from sweeps.engine.driver.session import Plan, SweepSession, begin, resume
from sweeps.engine.pages.sweep_page import write_sweep_page
from sweeps.engine.ray_backend.rungs import FrontRung, expected_whole
from sweeps.engine.search.finalists import check_finalists, run_finalists
from sweeps.engine.search.objectives import get_objective
from sweeps.engine.search.options import RESIZABLE, SearchOptions, resized
from sweeps.engine.search.pace import Budget, Pace
from sweeps.engine.search.page import story
from sweeps.engine.search.plots.static import save_pictures
from sweeps.engine.search.report import report_md, sentence
from sweeps.engine.search.snapshot import Snapshot
from sweeps.engine.search.spec import Search
from sweeps.engine.search.study import STUDY, SearchStudy
from sweeps.engine.search.text import is_amount
from sweeps.engine.search.threats import compared_by
from sweeps.engine.search.trial_config import trial_config
from sweeps.engine.search.warm_start import add_warm_starts, read_warm_start
from sweeps.engine.storage.files import pasted, relative
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Report

if TYPE_CHECKING:
    from sweeps.engine.ray_backend.search import Rungs

NAME = "search"
REPORT = "report.md"


def run_search(options: SearchOptions) -> int:
    """Run or resume a search, and report it.

    Returns:
        The exit code: 0, or 1 if no trial finished, or 130 if it was interrupted.
    Raises:
        InputError: the input is invalid; nothing was started or written.
    """
    options.check()
    options = options.at_first_threat()
    if options.show_space and not options.resume:
        return _print_space(options)
    opened, search = _resume(options) if options.resume else _begin(options)
    with opened.undone_if_not_started(), opened.driving() as session:
        folder = session.folder
        search.write(folder)
        study = SearchStudy(search, session.sweep, folder)
        for said in add_warm_starts(study, session.sweep.pixel):
            session.console.print(said, highlight=False)
        with session.tracker.running():
            over = _run_trials(session, search, study)
            finalists, champion = run_finalists(session, search) if over else ([], None)
        snapshot = Snapshot.of(session.sweep, search, folder, finalists=finalists, champion=champion)
        return _conclude(session, snapshot, study)


def _print_space(options: SearchOptions) -> int:
    dataset = load_images(
        options.data_config(), options.data_dir, download=options.download, data_workers=options.data_workers
    )
    unit = Unit(dataset.unit(options.norm), options.norm)
    print(show_space(options.narrowed_space(unit.size), unit))
    return 0


def _begin(options: SearchOptions) -> tuple[SweepSession, Search]:
    searches: list[Search] = []

    def plan(dataset: Dataset) -> Plan:
        search = options.search(dataset)
        for source in search.warm_start:
            read_warm_start(Path(source), search, dataset.pixel)  # refused before anything is written
        check_storable(search)
        check_finalists(search, dataset)
        searches.append(search)
        example = trial_config(search.space, search.space.default_point(), search.base)
        return Plan(examples=[example], open=True, threats=compared_by(search))

    session = begin(options, NAME, plan)
    return session, searches[0]


def _resume(options: SearchOptions) -> tuple[SweepSession, Search]:
    session = resume(options, base=lambda _, folder: Search.read(folder).base, also_allowed=RESIZABLE)
    check_machine(session.sweep.resources, options.address, options.max_concurrent)
    search = resized(Search.read(session.folder), options)
    check_storable(search)
    check_finalists(search, session.dataset)
    return session, search


def show_space(space: Space, amounts: Unit) -> str:
    """Describe a space, two lines per parameter. Amounts of pixel change are also shown in the data set's pixels."""
    lines = [f"space {space.name}: {space.description}"]
    for parameter in space.parameters:
        unit = amounts if is_amount(parameter) else None
        default = f"(paper: {_value(parameter.default, unit)})"
        lines += [
            "",
            f"  {parameter.name:<15}{_range(parameter, unit):<32} {default}",
            f"  {'':<15}{parameter.description}",
        ]
        if parameter.when:
            lines[-1] += f"; only if {parameter.condition()}"
    return "\n".join(lines)


def _range(parameter: Parameter, unit: Unit | None) -> str:
    if (only := parameter.fixed_value()) is not None:
        return f"{_value(only, unit)}, fixed"
    log = ", log" if parameter.log else ""
    if unit is None:
        return parameter.bounds() + log
    return f"{unit.amount(parameter.low, 4).removesuffix(' px')} to {_value(parameter.high, unit)}{log}"


def _value(value: Value, unit: Unit | None) -> str:
    """A value as the user types it. An amount of pixel change is also shown in the data set's pixels."""
    if unit is None:
        return show_value(value)
    shown = unit.amount(float(value), 4)
    return f"{shown} = {float(value) * 255:.4g}/255" if unit.norm == LINF else shown


def _run_trials(session: SweepSession, search: Search, study: SearchStudy) -> bool:
    """Run trials until the search budget is spent. Returns False if the search was interrupted before."""
    folder, aims = session.folder, get_objective(search.objective).aims
    budget = Budget(search, study, Pace(session.sweep, folder, aims))
    waiting = study.unfinished()
    over = len(study.trials()) - len(waiting)
    session.console.print(f"{over} of {search.num_trials} trials have ended, in {relative(folder.path)}")
    if not waiting and not _has_next(session, search, study, budget):
        return True
    if search.halving and search.halving.by == "front":
        expected = expected_whole(search.num_trials, search.halving.factor, search.halving.always)
        continued = ", and some that were stopped continue" if search.halving.continues else ""
        said = f"successive halving: about {expected} of {search.num_trials} trials will be whole{continued}"
        session.console.print(said)
    with on_ray(session, expected=search.num_trials) as concurrent:
        from sweeps.engine.ray_backend.search import search_trials

        search_trials(tune_run(session, concurrent), study, rungs=search_rungs(search), budget=budget)
    return not study.unfinished() and not _has_next(session, search, study, budget)


def _has_next(session: SweepSession, search: Search, study: SearchStudy, budget: Budget) -> bool:
    """Whether a new trial may begin, or a stopped one continue."""
    halving = search.halving
    if not budget.is_open():
        return False
    if budget.proposes() or halving is None or not halving.continues:
        return budget.proposes()
    rung = FrontRung(halving.grace, halving.factor, halving.always)
    rung.replay((trial.id, read_status(session.folder.trial(trial))) for trial in study.trials())
    return rung.next_stopped(any_rank=budget.has_room()) is not None


def search_rungs(search: Search) -> "Rungs | None":
    """The rungs of a search; None without halving."""
    from sweeps.engine.ray_backend.search import Rungs

    halving = search.halving
    if halving is None:
        return None
    return Rungs(
        grace=halving.grace,
        factor=halving.factor,
        longest=search.longest,
        by=halving.by,
        always=halving.always,
        continues=halving.continues,
    )


def _conclude(session: SweepSession, snapshot: Snapshot, study: SearchStudy) -> int:
    folder = session.folder
    pictures = save_pictures(snapshot, study.study, folder.path)
    write_atomically(below(folder.path, REPORT), report_md(snapshot))
    unfinished = sum(not status.done for _, status in folder.statuses(session.sweep))
    page = write_sweep_page(session.sweep, folder, story(snapshot))
    report = Report(files=(REPORT, *pictures, page), sentence=sentence(snapshot))
    if not unfinished:
        folder.write_report(report)
    print_summary(session, report, f"Study:  optuna-dashboard {pasted(folder.path / STUDY)}")
    if unfinished:
        session.say(f"{unfinished} trials have not ended; resume with {resume_command(folder.path)}", "yellow")
    return INTERRUPTED if unfinished else 0 if snapshot.finished else FAILED
