"""Text about a search that the report, the plots and the terminal share."""

from collections.abc import Iterable

from bat_core.few_classes import classes_in
from bat_core.norms import TITLES, Unit
from bat_core.suites import Suite, evaluation_suite
from search_spaces.base import Parameter, Point, Value, show_value
from sweeps.engine.cli.text import budget, count_of, percent, with_interval
from sweeps.engine.search.objectives import FLOOR, Objective, get_objective
from sweeps.engine.search.results import Score
from sweeps.engine.search.snapshot import Finalist, Snapshot
from sweeps.engine.search.spec import Search
from sweeps.engine.search.threats import budget_in_words, shown_in_words
from sweeps.engine.sweep.spec import Trial

SAMPLERS = {
    "auto": "expected improvement of the front",
    "tpe": "TPE",
    "gp": "a Gaussian process",
    "random": "random sampling",
}
SPLITS = {"val": "validation", "test": "test"}
FEWEST = 4  # trials needed to draw importances and parallel coordinates
UNVERIFIED = ", not verified: masked"  # the suffix that masking adds to a suite's name
AMOUNTS = ".eps"  # suffix of config fields that are amounts of pixel change


def sampler_in_words(search: Search) -> str:
    """What draws the trials. With more than two objectives, `auto` is Optuna's Gaussian process."""
    several = search.sampler == "auto" and len(get_objective(search.objective).measures) > 2
    return SAMPLERS["gp" if several else search.sampler]


def robust(score: Score) -> str:
    """The robust accuracy with its 95 % interval: 45.5% (38.8-52.4)."""
    return with_interval(score.robust_acc, score.interval)


def is_amount(parameter: Parameter) -> bool:
    """Whether the parameter is an amount of pixel change."""
    return parameter.field_path.endswith(AMOUNTS)


def value_of(parameter: Parameter, value: Value, unit: Unit) -> str:
    """A parameter's value as text."""
    if is_amount(parameter):
        return budget(float(value), unit)
    return f"{value:.3g}" if isinstance(value, float) else show_value(value)


def settings(snapshot: Snapshot, point: Point) -> list[str]:
    """The values of the free parameters at a point, as name=value."""
    free = [parameter for parameter in snapshot.search.space.parameters if parameter.fixed_value() is None]
    unit = snapshot.sweep.unit
    return [f"{p.name}={value_of(p, point[p.name], unit)}" for p in free if p.name in point]


def setting(snapshot: Snapshot) -> str:
    """Data set, network (unless it varies) and evaluation budget, which all numbers share."""
    base = snapshot.search.base
    varied = any(p.field_path == "model" and p.fixed_value() is None for p in snapshot.search.space.parameters)
    model = next((str(trial.config.model) for trial, _ in snapshot.rows), base.model)
    parts = [base.data.name, *([] if varied else [model])]
    unit, second = snapshot.sweep.unit, base.attack.second
    also = f" and {budget_in_words(second.norm, second.eps)}" if second else ""
    return f"{', '.join(parts)}, {TITLES[unit.norm]} budget {unit.amount(base.attack.eps, 4)}{also}"


def evaluated_on(snapshot: Snapshot) -> str:
    """The images and the attacks that all trials were evaluated on."""
    split = SPLITS[snapshot.search.base.attack.split]
    if not snapshot.finished:
        return f"Evaluated on {split} images."
    clean, attacked = counts(one.n for one in snapshot.finished), counts(one.robust_n for one in snapshot.finished)
    verified = attacks_of(snapshot).verified_by
    by = f" ({verified})" if verified else ""
    return (
        f"Evaluated on {split} images: clean n = {clean};"
        f" robust{shown_in_words(snapshot.objective)} n = {attacked}, the per-example worst case over"
        f" {suites(snapshot.finished)}{by}."
    )


def attacks_of(snapshot: Snapshot) -> Suite:
    """The attacks that the finished trials were evaluated with."""
    classes = next((classes_in(one.suite) for one in snapshot.finished), None)
    return evaluation_suite(snapshot.search.base.attack).for_classes(classes)


def suites(scored: Iterable[Score]) -> str:
    """The names of the suites, without the suffix for masked trials."""
    return " / ".join(sorted({one.suite.removesuffix(UNVERIFIED) for one in scored}))


def states(snapshot: Snapshot) -> str:
    """The number of trials, and how many finished, stopped early or failed."""
    masked = sum(one.masked for one in snapshot.finished)
    finished = f"{len(snapshot.finished)} finished" + (f" ({masked} masked)" if masked else "")
    rest = len(snapshot.rows) - len(snapshot.finished) - snapshot.count("stopped") - snapshot.count("failed")
    beaten = len(snapshot.bounded)
    counted = (
        (snapshot.count("stopped") - beaten, "stopped early"),
        (beaten, "off the front by PGD and not verified"),
        (snapshot.count("failed"), "failed"),
        (rest, "not ended"),
    )
    parts = [finished, *[f"{count} {word}" for count, word in counted if count]]
    return f"{count_of(len(snapshot.rows), 'trial')} drawn by {sampler_in_words(snapshot.search)}: {', '.join(parts)}"


def describe_objective(objective: Objective) -> str:
    """The objective in words."""
    words = {"maximize": "high", "minimize": "low"}
    said = " and ".join(f"{words[measure.direction]} {measure.description}" for measure in objective.measures)
    return said + (f", with clean accuracy of at least {percent(objective.floor)}" if objective.floor else "")


def describe_rule(name: str) -> str:
    """The rule that chooses the champion, in words."""
    if match := FLOOR.fullmatch(name):
        return f"the most robust finalist with clean accuracy of at least {match['floor']}"
    if name == "robust-per-hour":
        return "the highest verified robust accuracy per hour of training"
    return "the finalist farthest above the straight line from the most robust finalist to the most accurate one"


def conditions(search: Search) -> str:
    """What a champion must satisfy: the rule, and the clean accuracy that the objective requires, if any."""
    floor = get_objective(search.objective).floor
    required = f" and the objective's clean accuracy of at least {percent(floor)}" if floor else ""
    return f"the rule{f' {search.final.rule}' if search.final else ''}{required}"


def trusted(snapshot: Snapshot) -> list[Score]:
    """The trials to draw conclusions from: finished, comparable and feasible for the objective."""
    return snapshot.feasible


def none_feasible(snapshot: Snapshot) -> str | None:
    """That no trial on the front meets the objective's constraint, and how near the cleanest came; None if one does."""
    floor = get_objective(snapshot.search.objective).floor
    if floor is None or snapshot.feasible or not snapshot.front:
        return None
    cleanest = max(snapshot.front, key=lambda one: one.clean_acc)
    which = "trial" if all(one.counts for one in snapshot.finished) else "unmasked trial"
    return (
        f"No {which} has the clean accuracy of at least {percent(floor)} that the objective requires: the cleanest has"
        f" {percent(cleanest.clean_acc)} and is {percent(cleanest.robust_acc)} robust ({cleanest.id})."
    )


def nothing_to_retrain(snapshot: Snapshot) -> str | None:
    """Why no finished trial can become a finalist, as a sentence; None if one can, or none has finished."""
    if not snapshot.finished or snapshot.feasible:
        return None
    return none_feasible(snapshot) or "No trial has a robust accuracy that can be compared: the front is empty."


def why_not_enough(snapshot: Snapshot) -> str | None:
    """Why importances and parallel coordinates are omitted; None if they can be drawn."""
    found = trusted(snapshot)
    if len(found) < FEWEST:
        floor = " with the required clean accuracy" if get_objective(snapshot.search.objective).floor else ""
        return f"they need {FEWEST} trials that finished unmasked{floor}, and the search has {len(found) or 'none'}"
    if not any(len({one.point.get(name) for one in found}) > 1 for name in snapshot.search.space.names):
        return "no parameter takes more than one value among the trials that finished unmasked"
    return None


def paper_trial(snapshot: Snapshot) -> Trial | None:
    """The trial at the paper's point; None if the search did not draw it."""
    default = snapshot.search.space.default_point()
    return next((trial for trial, _ in snapshot.rows if dict(trial.point) == default), None)


def paper_point_name(snapshot: Snapshot) -> str:
    """The name of that point. A narrowed space may not contain the paper's point itself."""
    whole = all(parameter.admits(parameter.default) for parameter in snapshot.search.space.parameters)
    return "the paper's point" if whole else "the point closest to the paper's"


def champion_of(snapshot: Snapshot) -> Finalist | None:
    """The finalist that the rule picked."""
    chosen = (one for one in snapshot.finalists if snapshot.champion in {member.id for member in one.members})
    return next(chosen, None)


def seeds_each(finalists: Iterable[Finalist]) -> str:
    """How many seeds the finalists have, as text: 3 seeds each, or 3 to 5 seeds each."""
    words = counts(len(one.members) for one in finalists)
    return f"{words} {'seed' if words == '1' else 'seeds'} each"


def counts(values: Iterable[int]) -> str:
    """The range of the values as text: 300, or 200 to 300."""
    known = sorted(set(values))
    return f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
