"""The best of several models by branch and bound: a model is left once it cannot win any more."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from bat_core.errors import InputError
from bat_core.paths import Rooted
from bat_core.verdicts import Verdicts
from sweeps.engine.evaluation.attack import Evaluation, EvaluationFolder
from sweeps.engine.evaluation.shard_files import SHARDS, known_verdicts

LEFT = "left, cannot win"  # ends the label of a model that was not attacked to the end


class Contender(Protocol):
    """What may win."""

    @property
    def bound(self) -> Any:
        """What it can reach at most; once it is `done`, what it has reached. It never rises."""

    @property
    def done(self) -> bool:
        """Whether nothing is left to be found out about it."""


C = TypeVar("C", bound=Contender)


def find_best(contenders: Sequence[C], advance: Callable[[C], None]) -> C:
    """The contender with the greatest value, found with as little work on the others as their bounds allow.

    The one with the greatest bound is advanced until it is done and no other's bound is greater. So the result is that
    of `max(contenders, key=bound)` once all are done, the first of equals included.

    Args:
        advance: finds out more about a contender, so that its bound falls or it comes nearer to being done.
    Raises:
        ValueError: there is no contender.
    Source: best-first branch and bound.
    """
    if not contenders:
        raise ValueError("there is no contender: give at least one")
    while not (first := max(contenders, key=lambda one: one.bound)).done:
        advance(first)
    return first


@dataclass(frozen=True)
class Progress:
    """What is known of one model on one shard: images that stand so far, those correct when clean, attacks left."""

    standing: int
    clean: int
    left: int


class Candidate:
    """Models that win or lose together, such as one recipe's seeds, by their mean robust accuracy.

    Its bound is (images that stand so far, images correct when clean), summed over its models: no attack can raise
    either. Candidates should have the same number of models, as means are compared by sums.
    """

    def __init__(self, evaluation: Evaluation, folder: EvaluationFolder, numbers: Sequence[int]) -> None:
        self.numbers = tuple(numbers)
        self._evaluation, self._folder = evaluation, folder
        self._known = {(one, shard.start): self._read(one, shard) for one in numbers for shard in evaluation.shards()}

    @property
    def bound(self) -> tuple[float, float]:
        """Mean robust and clean accuracy, times the number of images, at most."""
        models = len(self.numbers)
        found = self._known.values()
        return sum(one.standing for one in found) / models, sum(one.clean for one in found) / models

    @property
    def done(self) -> bool:
        """Whether all attacks on all images are finished."""
        return not any(one.left for one in self._known.values())

    def unfinished(self, most: int) -> list[tuple[int, slice]]:
        """(model, shard) that are left, at most `most`."""
        shards = [(one, shard) for one in self.numbers for shard in self._evaluation.shards()]
        return [(one, shard) for one, shard in shards if self._known[one, shard.start].left][:most]

    def refresh(self, finished: Sequence[tuple[int, slice]]) -> None:
        """Read again what is known of these shards."""
        for number, shard in finished:
            self._known[number, shard.start] = self._read(number, shard)

    def _read(self, number: int, shard: slice) -> Progress:
        place = self._folder.model(self._evaluation.models[number]) / SHARDS / f"{shard.start:06d}"
        entries, count = self._evaluation.entries(), shard.stop - shard.start
        known = known_verdicts(place, entries)
        if known is None:
            return Progress(count, count, len(entries))
        left = len(entries) - len(known.outcomes)
        return Progress(int(known.robust_correct.sum()), int(known.clean_correct.sum()), left)


def candidates(evaluation: Evaluation, folder: EvaluationFolder) -> list[Candidate]:
    """The evaluation's candidates, in the order of their numbers."""
    groups: dict[int, list[int]] = {}
    for number, group in enumerate(evaluation.candidates):
        groups.setdefault(group, []).append(number)
    return [Candidate(evaluation, folder, groups[group]) for group in sorted(groups)]


def verdicts_so_far(evaluation: Evaluation, folder: Rooted) -> tuple[Verdicts, int]:
    """The verdicts under the attacks that all images of a model met, and how many images stand after all so far.

    Raises:
        InputError: a file is missing or damaged.
    """
    places = [folder / SHARDS / f"{shard.start:06d}" for shard in evaluation.shards()]
    found = [known_verdicts(place, evaluation.entries()) for place in places]
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        raise InputError(f"{str(folder)!r} lacks verdicts: --resume attacks again")
    met = min(len(one.outcomes) for one in known)
    shared = [replace(one, outcomes=dict(list(one.outcomes.items())[:met])) for one in known]
    return Verdicts.concat(shared), sum(int(one.robust_correct.sum()) for one in known)


def winner_of(evaluation: Evaluation, summaries: Sequence[Mapping[str, Any]]) -> tuple[list[str], int]:
    """The names of the winner's models, and how many models were left before all attacks were over."""
    groups: dict[int, list[Mapping[str, Any]]] = {}
    for group, one in zip(evaluation.candidates, summaries, strict=True):
        groups.setdefault(group, []).append(one)

    def value(group: int) -> list[float]:
        members = groups[group]
        return [sum(round(one[name] * one["n"]) for one in members) for name in ("robust_acc", "clean_acc")]

    whole = [group for group in sorted(groups) if all(not was_left(one) for one in groups[group])]
    left = sum(was_left(one) for one in summaries)
    return [str(one["model"]) for one in groups[max(whole, key=value)]], left


def was_left(summary: Mapping[str, Any]) -> bool:
    """Whether a model, by its summary, was left before all attacks were over."""
    return str(summary["suite"]).endswith(LEFT)
