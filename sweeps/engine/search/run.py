"""From options to a champion: checks, searches, resumes, retrains, reports."""

from pathlib import Path

from rich.console import Console

from bat_core.config import flatten, to_dict
from bat_core.data import Dataset
from bat_core.errors import InputError
from bat_core.workers import Workers
from search_spaces.base import Parameter, Space, Value, show_value
from sweeps.engine.cli.app import FAILED, INTERRUPTED, command_line
from sweeps.engine.cli.options import load_images
from sweeps.engine.cli.text import relative, say
from sweeps.engine.driver.on_ray import on_ray
from sweeps.engine.driver.preflight import check_machine, check_trial
from sweeps.engine.driver.run import name_versions, print_summary
from sweeps.engine.search.finalists import run_finalists
from sweeps.engine.search.options import RESIZABLE, SearchOptions, resized
from sweeps.engine.search.plots.static import save_pictures
from sweeps.engine.search.report import report_md, sentence
from sweeps.engine.search.results import Score, scores
from sweeps.engine.search.snapshot import Snapshot, flat_for
from sweeps.engine.search.spec import Search, differences, read_search
from sweeps.engine.search.study import STUDY, SearchStudy
from sweeps.engine.search.text import is_amount
from sweeps.engine.search.trial_config import trial_config
from sweeps.engine.storage.files import write_atomically
from sweeps.engine.storage.locks import sole_driver
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.remote import hold_lease, open_sweep
from sweeps.engine.sweep.spec import Report, Sweep
from sweeps.engine.tracking.background import Mirroring

NAME = "search"
REPORT = "report.md"


def run_search(options: SearchOptions) -> int:
    """Run a search, or go on with one, and say what came out.

    Returns:
        The exit code: 0, or 1 if no trial finished, or 130 if it was interrupted.
    Raises:
        InputError: the input cannot be used; nothing has been started or written.
    """
    console = Console()
    options.check()
    if options.resume:
        options.refuse_beside_resume(also_allowed=RESIZABLE)
        sweep, search, folder, dataset = _resumed(options, options.resume)
        name_versions(sweep, console)
    else:
        dataset = load_images(
            options.data_config(), options.data_dir, download=options.download, data_workers=options.data_workers
        )
        if options.show_space:
            print(show_space(options.narrowed_space(dataset.pixel), dataset.pixel))
            return 0
        sweep, search, folder = _begun(options, dataset)
    with sole_driver(folder.path, "search"), hold_lease(folder, console) as folder:
        search.write(folder)
        study = SearchStudy(search, sweep, folder)
        for source in sorted(set(search.warm_start) - study.sources()):
            study.add(teacher(Path(source), search), source)
        mirroring = Mirroring(sweep, folder)
        with mirroring.running():
            over = _search(search, sweep, dataset, folder, study, console, options)
            finalists, champion = (
                run_finalists(search, sweep, dataset, folder, console, options, mirroring) if over else ([], None)
            )
        snapshot = Snapshot.of(sweep, search, folder, finalists=finalists, champion=champion)
        return _conclude(snapshot, study, folder, mirroring, console)


def show_space(space: Space, pixel: float) -> str:
    """A space as people read it, two lines a parameter; amounts of pixel change also in the data set's pixels."""
    lines = [f"space {space.name}: {space.description}"]
    for parameter in space.parameters:
        unit = pixel if is_amount(parameter) else None
        default = f"(paper: {_value(parameter.default, unit)})"
        lines += [
            "",
            f"  {parameter.name:<15}{_range(parameter, unit):<32} {default}",
            f"  {'':<15}{parameter.description}",
        ]
        if parameter.when:
            lines[-1] += f"; only if {parameter.condition()}"
    return "\n".join(lines)


def _range(parameter: Parameter, pixel: float | None) -> str:
    if (only := parameter.fixed_value()) is not None:
        return f"{_value(only, pixel)}, set"
    log = ", log" if parameter.log else ""
    if pixel is None:
        return parameter.bounds() + log
    return f"{parameter.low / pixel:.4g} to {_value(parameter.high, pixel)}{log}"


def _value(value: Value, pixel: float | None) -> str:
    """As it is typed; an amount of pixel change in the data set's pixels too."""
    if pixel is None:
        return show_value(value)
    return f"{float(value) / pixel:.4g} px = {float(value) * 255:.4g}/255"


def _begun(options: SearchOptions, dataset: Dataset) -> tuple[Sweep, Search, SweepFolder]:
    folder = options.new_folder(NAME)
    resources = options.resources()
    check_machine(resources, options.address, options.max_concurrent)
    search = options.search(dataset)
    default = trial_config(search.space, search.space.default_point(), search.base)
    check_trial(default, dataset, Workers(size=resources.num_workers))
    for source in search.warm_start:
        teacher(Path(source), search)  # refused before anything is written
    sweep = Sweep.new(
        NAME,
        command=command_line(),
        data_dir=str(options.data_dir.resolve()) if options.data_dir else None,
        pixel=dataset.pixel,
        resources=resources,
        trials=(),
        open=True,
        storage=folder.store.uri if folder.store else None,
    )
    folder.create(sweep)
    return sweep, search, folder


def teacher(path: Path, search: Search) -> list[Score]:
    """The finished trials of another search, if they mean the same as this one's.

    Raises:
        InputError: it searched another space, or judged otherwise; or nothing finished.
    """
    try:
        other = read_search(path)
    except InputError as error:
        raise InputError(f"--warm-start: {error}; only a search's trials are judged on validation images") from error
    folder = SweepFolder(path)
    said = differences(search.space, other.space)
    mine, theirs = (_not_searched(one) for one in (search, other))
    for name in mine:
        if said is None and mine[name] != theirs.get(name):
            said = f"{name} is {theirs.get(name)} there and {mine[name]} here"
    if said:
        raise InputError(f"--warm-start {str(path)!r} is of another data set or space: {said}")
    if not (found := scores(folder.load(), folder)):
        raise InputError(f"--warm-start {str(path)!r} has no finished trial")
    return found


def _not_searched(search: Search) -> dict[str, object]:
    """What all trials of a search have in common, by name, the data set first."""
    searched = {parameter.field_path for parameter in search.space.parameters} | set(search.space.fixed)
    searched |= {"train.milestones"} if any(where.startswith("train.milestones") for where in searched) else set()
    return {
        name: value
        for name, value in flatten(to_dict(search.base)).items()
        if name not in searched and not (name.startswith("recipe.") and "recipe.name" in search.space.fixed)
    }


def _resumed(options: SearchOptions, place: str) -> tuple[Sweep, Search, SweepFolder, Dataset]:
    folder = open_sweep(place, options.output)
    sweep = folder.load()
    search = resized(Search.read(folder), options)
    check_machine(sweep.resources, options.address, options.max_concurrent)
    dataset = load_images(
        search.base.data,
        options.data_dir or sweep.data_dir,
        download=options.download,
        data_workers=options.data_workers,
    )
    return sweep, search, folder, dataset


def _search(
    search: Search,
    sweep: Sweep,
    dataset: Dataset,
    folder: SweepFolder,
    study: SearchStudy,
    console: Console,
    options: SearchOptions,
) -> bool:
    """Run trials until the budget is spent. Returns whether it is: an interrupted search is not over."""

    def go_on() -> bool:
        if len(study.trials()) >= search.num_trials:
            return False
        if search.max_hours is None and search.flat is None:
            return True
        snapshot = Snapshot.of(sweep, search, folder)
        out_of_time = search.max_hours is not None and snapshot.hours >= search.max_hours
        return not out_of_time and (search.flat is None or flat_for(snapshot) < search.flat)

    begun = study.unfinished()
    console.print(
        f"{len(study.trials()) - len(begun)} of {search.num_trials} trials are over, in {relative(folder.path)}"
    )
    if not begun and not go_on():
        return True
    with on_ray(sweep, folder, console, options, expected=search.num_trials) as concurrent:
        from sweeps.engine.search import tune  # noqa: PLC0415 (slow to import, and not needed to redraw)

        tune.search_trials(
            search, sweep, dataset, folder, study, concurrent=concurrent, stall=options.stall(), go_on=go_on
        )
    return not study.unfinished() and not go_on()


def _conclude(
    snapshot: Snapshot, study: SearchStudy, folder: SweepFolder, mirroring: Mirroring, console: Console
) -> int:
    pictures = save_pictures(snapshot, study.study, folder.path)
    write_atomically(folder.path / REPORT, report_md(snapshot))
    unfinished = sum(not read_status(folder.trial(trial)).done for trial in folder.trials(snapshot.sweep))
    report = Report(files=(REPORT, *pictures), sentence=sentence(snapshot))
    if not unfinished:
        folder.write_report(report)
    dashboard = f"Study:  optuna-dashboard {relative(folder.path / STUDY)}"
    print_summary(report, snapshot.sweep, folder, mirroring, console, dashboard)
    if unfinished:
        say(console, f"{unfinished} trials are not over; go on with --resume {relative(folder.path)}", "yellow")
    return INTERRUPTED if unfinished else 0 if snapshot.finished else FAILED
