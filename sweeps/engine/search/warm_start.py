"""Earlier searches that a search starts from: as observations if they are comparable, else as a prior mean."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bat_core.config import flatten, to_dict
from bat_core.errors import InputError
from search_spaces.base import Point, Space
from sweeps.engine.search.objectives import get_objective
from sweeps.engine.search.results import Score, scores
from sweeps.engine.search.samplers import free
from sweeps.engine.search.spec import Search, differences, read_search
from sweeps.engine.search.study import SearchStudy
from sweeps.engine.search.text import is_amount
from sweeps.engine.sweep.folder import SweepFolder

LEARNS_FROM_PRIOR = "auto"
SHARES = {"clean", "robust"}  # objectives whose values mean the same on other images


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The finished trials of an earlier search.

    `difference` says why their scores are not comparable to this search's; None if they are. `scale` is how many
    times larger this data set's pixel is than theirs.
    """

    trials: tuple[Score, ...]
    difference: str | None
    scale: float


def read_warm_start(path: Path, search: Search, pixel: float) -> WarmStart:
    """The finished trials of another search; `pixel` is that of this search's images.

    Raises:
        InputError: it searched another space; it evaluated differently, and the sampler takes no prior; or it has no
            finished trial.
    """
    try:
        other = read_search(path)
    except InputError as error:
        raise InputError(
            f"--warm-start: {error}; name the folder of a search, whose trials were evaluated on validation images"
        ) from error
    folder = SweepFolder(path)
    if said := differences(search.space, other.space):
        raise InputError(f"--warm-start {str(path)!r} searched another data set or space: {said}")
    mine, theirs = (_unsearched_fields(one) for one in (search, other))
    unlike = next((name for name in mine if mine[name] != theirs.get(name)), None)
    said = f"its {unlike} is {theirs.get(unlike)}, and this search's is {mine[unlike]}" if unlike is not None else None
    takes_prior = search.sampler == LEARNS_FROM_PRIOR and set(search.objective.split("+")) <= SHARES
    if said and not takes_prior:
        raise InputError(
            f"--warm-start {str(path)!r} searched another data set or space: {said}; --sampler auto, with the"
            " objectives clean and robust, can take such a search as a prior"
        )
    sweep = folder.load()
    if not (found := scores(sweep, folder)):
        raise InputError(f"--warm-start {str(path)!r} has no finished trial: name another search")
    return WarmStart(trials=tuple(found), difference=said, scale=pixel / sweep.pixel)


def add_warm_starts(study: SearchStudy, pixel: float) -> list[str]:
    """Enter the earlier searches that a study lacks: as observations, or as a prior if they are not comparable.

    Returns:
        A sentence for each that is not comparable, with the reason.
    Raises:
        InputError: see `read_warm_start`.
    """
    said = []
    for source in sorted(set(study.search.warm_start) - study.sources()):
        start = read_warm_start(Path(source), study.search, pixel)
        if start.difference is None:
            study.add(start.trials, source)
            continue
        rows = prior_rows(start, study.search)
        study.expect(rows, source)
        reason = f"{source} is not comparable ({start.difference})"
        said.append(f"{reason}: {len(rows)} of its trials are a prior of the sampler")
    return said


def prior_rows(start: WarmStart, search: Search) -> list[dict[str, Any]]:
    """What the sampler's prior is fitted to: trials that count and lie in this space, budgets in its own pixels."""
    objective, rows = get_objective(search.objective), []
    for one in start.trials:
        known = {name: one.point[name] for name in search.space.names if name in one.point}
        point = _scaled(known, search.space, start.scale)
        if one.counts and all(search.space[name].admits(value) for name, value in point.items()):
            rows.append({
                "point": free(search.space, point),
                "values": objective.values(one),
                "noise": objective.variances(one),
            })  # fmt: skip
    return rows


def _scaled(point: Point, space: Space, scale: float) -> Point:
    return {name: float(value) * scale if is_amount(space[name]) else value for name, value in point.items()}


def _unsearched_fields(search: Search) -> dict[str, object]:
    """The config fields that all trials of a search share, by name, the data set first."""
    searched = {parameter.field_path for parameter in search.space.parameters} | set(search.space.fixed)
    searched |= {"train.milestones"} if any(where.startswith("train.milestones") for where in searched) else set()
    return {
        name: value
        for name, value in flatten(to_dict(search.base)).items()
        if name not in searched and not (name.startswith("recipe.") and "recipe.name" in search.space.fixed)
    }
