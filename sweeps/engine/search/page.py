"""What a search's page says: its front, every finished trial, and the finalists."""

from collections.abc import Sequence

from bat_core.suites import is_verified
from sweeps.engine.cli.text import percent, percent_range, with_interval
from sweeps.engine.pages.charts import Chart, Mark, Series, percent_axis
from sweeps.engine.pages.document import Cell, Section, Table, verdict_cell
from sweeps.engine.pages.sweep_page import Story
from sweeps.engine.search.objectives import get_objective
from sweeps.engine.search.report import sentence
from sweeps.engine.search.report_expected import COLUMNS, expected_rows, volumes_in_words
from sweeps.engine.search.report_threats import SAID, threat_accuracies, threat_columns, threats_of
from sweeps.engine.search.results import Score
from sweeps.engine.search.snapshot import Snapshot
from sweeps.engine.search.text import describe_objective, evaluated_on, setting, settings, states
from sweeps.engine.search.threats import shown_in_words
from sweeps.engine.sweep.spec import Trial


def story(snapshot: Snapshot) -> Story:
    """The page's own parts."""
    search = snapshot.search

    def point(trial: Trial) -> str:
        return ", ".join(settings(snapshot, dict(trial.point))) or trial.config.recipe.name

    return Story(
        title=f"Search on {setting(snapshot)}",
        question=(
            f"Which settings of the space {search.space.name} give"
            f" {describe_objective(get_objective(search.objective))}? {states(snapshot)}. {evaluated_on(snapshot)}"
        ),
        answer=sentence(snapshot),
        subcommand="search",
        charts=[_chart(snapshot)] if snapshot.finished else [],
        sections=[*_threats(snapshot), *_expected(snapshot), *_finalists(snapshot)],
        setting=point,
    )


def _chart(snapshot: Snapshot) -> Chart:
    front = {one.id for one in snapshot.front}
    kinds: dict[str, list[Score]] = {"on the front": [], "clear": [], "suspect": [], "masked, not verified": []}
    for one in snapshot.finished:
        name = "masked, not verified" if not is_verified(one.suite) else one.masking_status
        kinds.setdefault("on the front" if one.id in front else name, []).append(one)
    bounds = [
        Mark(bound["clean_acc"], bound["robust_bound"], f"{trial.id} {bound['reason']}")
        for trial, status in snapshot.bounded
        if (bound := status.bound) is not None
    ]
    series = [
        Series(
            name=f"{name} ({len(found)})",
            marks=[_mark(snapshot, one) for one in sorted(found, key=lambda one: one.clean_acc)],
            line=name == "on the front" and len(snapshot.objective.aims) == 2,
            hollow="not verified" in name,
        )
        for name, found in kinds.items()
        if found
    ]
    series += [Series(name=f"at most, not verified ({len(bounds)})", marks=bounds, hollow=True)] if bounds else []
    marks = [mark for one in series for mark in one.marks]
    heights = [value for mark in marks for value in (mark.y, mark.low, mark.high) if value is not None]
    return Chart(
        heading=f"Clean and robust accuracy{shown_in_words(snapshot.objective)} of every finished trial",
        x=percent_axis("clean accuracy", [mark.x for mark in marks]),
        y=percent_axis(f"robust accuracy{shown_in_words(snapshot.objective)}", heights),
        series=series,
        note="On validation images, with 95 % Wilson intervals. Filled marks are verified, hollow ones are not."
        + _plotted(snapshot),
    )


def _mark(snapshot: Snapshot, one: Score) -> Mark:
    words = [f"clean {percent(one.clean_acc)}", f"robust {with_interval(one.robust_acc, one.interval)}"]
    tip = f"{one.id}: {', '.join([*words, one.verdict, *settings(snapshot, one.point)])}"
    return Mark(one.clean_acc, one.robust_acc, tip, *one.interval)


def _plotted(snapshot: Snapshot) -> str:
    """What the figure leaves out of the accuracies that the search aims at."""
    aims = snapshot.objective.aims
    if len(aims) == 2:
        return ""
    return f" The search aims at {len(aims)} accuracies: trials on their front have no line here."


def _threats(snapshot: Snapshot) -> Sequence[Section]:
    """The front in each norm and under both."""
    if not threats_of(snapshot) or not snapshot.front:
        return []
    rows: list[list[Cell | str]] = [
        [
            Cell(one.id, look="name"),
            Cell(percent(one.clean_acc), one.clean_acc),
            *(
                Cell(text, one.under(name).acc)
                for name, text in zip(threats_of(snapshot), threat_accuracies(snapshot, one), strict=True)
            ),
        ]
        for one in snapshot.front[::-1]
    ]
    columns = ["trial", "clean", *threat_columns(snapshot)]
    return [
        Table(heading="The front in each norm", columns=columns, rows=rows, note=f"{SAID} So is the leaderboard above.")
    ]


def _expected(snapshot: Snapshot) -> Sequence[Section]:
    """The front as it was seen, and as other seeds and images are expected to show it."""
    if (found := snapshot.expected) is None:
        return []
    rows: list[list[Cell | str]] = [[Cell(name, look="name"), *rest] for name, *rest in expected_rows(found)]
    note = f"{volumes_in_words(snapshot)} Expected by a Gaussian process over all trials, with 95 % intervals."
    return [Table(heading="The front, seen and expected", columns=list(COLUMNS), rows=rows, note=note)]


def _finalists(snapshot: Snapshot) -> Sequence[Section]:
    rows: list[list[Cell | str]] = [
        [
            Cell(one.trial, look="clear" if one.trial == snapshot.champion else ""),
            Cell(percent(one.clean_acc), one.clean_acc),
            Cell(percent(one.robust_acc) if is_verified(one.suite) else "-", one.robust_acc),
            Cell(percent_range(*one.robust_interval) if is_verified(one.suite) else "-", one.robust_interval[0]),
            "" if is_verified(one.suite) else f"{percent(one.robust_acc)} not verified",
            verdict_cell(one.masking_status, one.robust_acc),
            f"{one.suite}, n = {one.n}",
        ]
        for finalist in snapshot.finalists
        for one in finalist.tested
    ]
    if not rows:
        return []
    chosen = f"The champion is {snapshot.champion}." if snapshot.champion else "No finalist satisfies the rule."
    robust = f"robust{shown_in_words(snapshot.objective)}, verified"
    columns = ["model", "clean", robust, "95 %", "not verified", "checks", "suite"]
    note = f"On test images, evaluated once. {chosen}"
    return [Table(heading="Finalists on test images", columns=columns, rows=rows, note=note)]
