"""How a search is put into words, the same in report, pictures and terminal."""

from collections.abc import Iterable

from bat_core.suites import suite_of
from search_spaces.base import Parameter, Point, Value, show_value
from sweeps.engine.cli.text import count_of, percent, with_interval
from sweeps.engine.search.objectives import FLOOR, Objective, get_objective
from sweeps.engine.search.results import Score
from sweeps.engine.search.snapshot import Finalist, Snapshot
from sweeps.engine.sweep.spec import Trial

SAMPLERS = {"tpe": "TPE", "gp": "a Gaussian process", "random": "chance"}
SPLITS = {"val": "validation", "test": "test"}
FEWEST = 4  # trials that importances and parallel coordinates are drawn of
UNVERIFIED = ", not verified: masked"  # what masking adds to a suite's name
AMOUNTS = ".eps"  # how a field that is an amount of pixel change ends


def robust(score: Score) -> str:
    """The robust accuracy with its 95 % interval: 45.5% (38.8-52.4)."""
    return with_interval(score.robust_acc, score.interval)


def span(hours: float) -> str:
    """A time, in the unit that suits it."""
    if hours >= 1:
        return f"{hours:.1f} h"
    return f"{60 * hours:.1f} min" if hours >= 1 / 60 else f"{3600 * hours:.0f} s"


def is_amount(parameter: Parameter) -> bool:
    """Whether it is an amount of pixel change."""
    return parameter.field_path.endswith(AMOUNTS)


def amount(value: float, pixel: float) -> str:
    """40/255 (8 px)."""
    return f"{255 * value:.4g}/255 ({value / pixel:.3g} px)"


def value_of(parameter: Parameter, value: Value, pixel: float) -> str:
    """A parameter's value, for people."""
    if is_amount(parameter):
        return amount(float(value), pixel)
    return f"{value:.3g}" if isinstance(value, float) else show_value(value)


def settings(snapshot: Snapshot, point: Point) -> list[str]:
    """What a point sets of that which varies: name=value each."""
    free = [parameter for parameter in snapshot.search.space.parameters if parameter.fixed_value() is None]
    pixel = snapshot.sweep.pixel
    return [f"{p.name}={value_of(p, point[p.name], pixel)}" for p in free if p.name in point]


def setting(snapshot: Snapshot) -> str:
    """Data set, network if it does not vary, and budget: what all numbers share."""
    base = snapshot.search.base
    varied = any(p.field_path == "model" and p.fixed_value() is None for p in snapshot.search.space.parameters)
    model = next((str(trial.config.model) for trial, _ in snapshot.rows), base.model)
    parts = [base.data.name, *([] if varied else [model])]
    return f"{', '.join(parts)}, L-inf budget {base.attack.eps / snapshot.sweep.pixel:.4g} px"


def judged(snapshot: Snapshot) -> str:
    """On which images all trials were judged, how many, and against what."""
    split = SPLITS[snapshot.search.base.attack.split]
    if not snapshot.finished:
        return f"Judged on {split} images."
    clean, attacked = counts(one.n for one in snapshot.finished), counts(one.robust_n for one in snapshot.finished)
    verified = suite_of(snapshot.search.base.attack).verified_by
    by = f" ({verified})" if verified else ""
    return (
        f"Judged on {split} images: clean n = {clean}; robust n = {attacked}, image by image the worst of"
        f" {suites(snapshot.finished)}{by}."
    )


def suites(scored: Iterable[Score]) -> str:
    """What robustness stands for, without what masking does to the name."""
    return " / ".join(sorted({one.suite.removesuffix(UNVERIFIED) for one in scored}))


def states(snapshot: Snapshot) -> str:
    """How many trials there are, and what became of them."""
    masked = sum(one.masked for one in snapshot.finished)
    finished = f"{len(snapshot.finished)} finished" + (f" ({masked} masked)" if masked else "")
    rest = len(snapshot.rows) - len(snapshot.finished) - snapshot.count("stopped") - snapshot.count("failed")
    counted = ((snapshot.count("stopped"), "stopped early"), (snapshot.count("failed"), "failed"), (rest, "not over"))
    parts = [finished, *[f"{count} {word}" for count, word in counted if count]]
    return f"{count_of(len(snapshot.rows), 'trial')} drawn by {SAMPLERS[snapshot.search.sampler]}: {', '.join(parts)}"


def aim(objective: Objective) -> str:
    """What a search aims at."""
    words = {"maximize": "high", "minimize": "low"}
    said = " and ".join(f"{words[measure.direction]} {measure.description}" for measure in objective.measures)
    return said + (f", with clean accuracy of at least {percent(objective.floor)}" if objective.floor else "")


def rule(name: str) -> str:
    """By what the champion is chosen among the finalists."""
    if match := FLOOR.fullmatch(name):
        return f"the most robust of those with clean accuracy of at least {match['floor']}"
    if name == "robust-per-hour":
        return "the most verified robust accuracy for an hour of training"
    return "farthest above the straight line from the most robust finalist to the cleanest"


def believed(snapshot: Snapshot) -> list[Score]:
    """What one may learn from: finished, counting, and as clean as the objective asks."""
    objective = get_objective(snapshot.search.objective)
    feasible = (one for one in snapshot.finished if all(value <= 0 for value in objective.constraints(one).values()))
    return [one for one in feasible if one.counts]


def too_little(snapshot: Snapshot) -> str | None:
    """Why importances and parallel coordinates are left out; None if they can be drawn."""
    found = believed(snapshot)
    if len(found) < FEWEST:
        floor = " and are as clean as asked" if get_objective(snapshot.search.objective).floor else ""
        return f"they need {FEWEST} trials that finished unmasked{floor}, and there are {len(found) or 'none'}"
    if not any(len({one.point.get(name) for one in found}) > 1 for name in snapshot.search.space.names):
        return "no parameter takes more than one value among the trials that finished unmasked"
    return None


def papers(snapshot: Snapshot) -> Trial | None:
    """The trial at the paper's own point, if it was drawn."""
    default = snapshot.search.space.default_point()
    return next((trial for trial, _ in snapshot.rows if dict(trial.point) == default), None)


def papers_name(snapshot: Snapshot) -> str:
    """What that point may be called: a narrowed space may not admit all of it."""
    whole = all(parameter.admits(parameter.default) for parameter in snapshot.search.space.parameters)
    return "the paper's point" if whole else "the point nearest to the paper's"


def champion_of(snapshot: Snapshot) -> Finalist | None:
    """The finalist that the rule picked."""
    chosen = (one for one in snapshot.finalists if snapshot.champion in {member.id for member in one.members})
    return next(chosen, None)


def counts(values: Iterable[int]) -> str:
    """300, or 200 to 300."""
    known = sorted(set(values))
    return f"{known[0]}" if len(known) == 1 else f"{known[0]} to {known[-1]}"
