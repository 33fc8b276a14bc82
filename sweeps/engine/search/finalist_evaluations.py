"""The evaluations of finalists: in one norm, or in each of two, and what they found of a model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bat_core.errors import InputError
from bat_core.norms import THREAT_TITLES, UNION
from bat_core.paths import below
from bat_core.verdicts import Verdicts, robust_in_all
from sweeps.engine.driver.session import SweepSession
from sweeps.engine.evaluation.attack import SUMMARY
from sweeps.engine.evaluation.options import EvaluateOptions
from sweeps.engine.evaluation.run import run_evaluation
from sweeps.engine.evaluation.summaries import Summary, read_summary
from sweeps.engine.search.results import Robustness, Score
from sweeps.engine.search.spec import Search
from sweeps.engine.search.threats import aims_beyond_own_norm
from sweeps.engine.sweep.records import VERDICTS
from sweeps.engine.sweep.trial_threats import flags_by_norm, worst_status


def evaluated_in_norms(
    session: SweepSession, search: Search, scored: Sequence[Score], *, split: str, suite: str
) -> dict[str, Path]:
    """The folders of the evaluations by norm: in the trials' own, and in the second if the objective aims at it."""
    attack = search.base.attack
    options = EvaluateOptions(
        suite=suite,
        split=split,
        n=attack.verify if split == "val" else search.base.data.test_size,
        norm=attack.norm,
        eps=attack.eps,
        step_size=attack.step_size,
    )
    places: dict[str, Path] = {attack.norm: _evaluate(session, scored, options)}
    if attack.second is not None and aims_beyond_own_norm(search):
        second = options.changed(norm=attack.second.norm, eps=attack.second.eps, step_size=None)
        places[attack.second.norm] = _evaluate(session, scored, second, name=f"-{attack.second.norm}")
    return places


def _evaluate(session: SweepSession, scored: Sequence[Score], attack: EvaluateOptions, *, name: str = "") -> Path:
    """Run, resume or reuse the evaluation of models. Returns its folder."""
    folder, options = session.folder, session.options
    members = [one.trial for one in scored]
    ids = "\n".join(sorted(trial.id for trial in members))
    place = folder.file(f"{attack.split}{name}-{hashlib.sha256(ids.encode()).hexdigest()[:8]}")
    if all(below(place, trial.id, SUMMARY).exists() for trial in members):
        return place
    if place.exists():
        again = EvaluateOptions(resume=str(place), address=options.address)
        run_evaluation((), again, part_of=folder.path)
        folder.copy_to_store(place.name)
        return place
    run_evaluation(
        [str(folder.results(trial.id)) for trial in members],
        attack.changed(
            data_dir=options.data_dir,
            output=place,
            gpus_per_worker=options.gpus_per_worker,
            address=options.address,
        ),
        part_of=folder.path,
    )
    folder.copy_to_store(place.name)
    return place


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A model's accuracies in [0, 1] and the worse result of its checks for masked gradients.

    `own` is its robustness in the norm of the search's trials; `threats` has each norm and the UNION, if it was
    evaluated in two.
    """

    clean_acc: float
    own: Robustness
    threats: Mapping[str, Robustness]
    masking_status: str
    flags: tuple[str, ...]

    def under(self, threat: str | None) -> Robustness:
        """Its worst case under a threat; in its own norm if it was evaluated there alone."""
        return self.threats.get(threat or "", self.own)


def read_reached(places: Mapping[str, Path], trial_id: str) -> Reached:
    """Read a model's evaluations: their folders by norm, that of the search's trials first.

    Raises:
        InputError: a file is missing or damaged, or the evaluations are on different images.
    """
    summaries = {norm: read_summary(below(place, trial_id, SUMMARY)) for norm, place in places.items()}
    first = next(iter(summaries.values()))
    threats = {norm: _robustness(one) for norm, one in summaries.items()}
    own = next(iter(threats.values()))
    if len(places) > 1:
        threats[UNION] = _union(places, trial_id, threats)
    return Reached(
        clean_acc=first.clean_acc,
        own=own,
        threats=threats if len(places) > 1 else {},
        masking_status=worst_status([one.verdict for one in summaries.values()]),
        flags=tuple(flags_by_norm({norm: [flag.name for flag in one.flags] for norm, one in summaries.items()})),
    )


def _robustness(summary: Summary) -> Robustness:
    return Robustness(acc=summary.robust_acc, n=summary.n, suite=summary.suite)


def _union(places: Mapping[str, Path], trial_id: str, threats: Mapping[str, Robustness]) -> Robustness:
    verdicts = [Verdicts.read(below(place, trial_id, VERDICTS)) for place in places.values()]
    try:
        robust = robust_in_all(verdicts)
    except ValueError as error:
        raise InputError(
            f"{trial_id} was evaluated on different images in each norm: remove {list(places.values())}"
        ) from error
    suites = [f"{one.suite} ({THREAT_TITLES[norm]})" for norm, one in threats.items()]
    return Robustness(acc=float(robust.mean()), n=len(robust), suite=" and ".join(suites))
