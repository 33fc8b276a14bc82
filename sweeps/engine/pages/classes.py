"""Robust accuracy by class, and the confusion matrix under attack, from the verdicts that a model left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bat_core.correctness import NO_ANSWER
from bat_core.gallery import class_name
from bat_core.verdicts import Verdicts
from sweeps.engine.cli.text import UNVERIFIED_MARK
from sweeps.engine.pages.document import Heat, Notes, Section

MOST_CLASSES = 20
MOST_MODELS = 40


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A model's verdicts behind its headline, and whether a verifying suite is among the attacks."""

    name: str
    verdicts: Verdicts
    verified: bool


def class_sections(models: Sequence[Judged], best: str | None, class_names: Sequence[str] | None) -> list[Section]:
    """Two sections: robust accuracy by class of all models, and the confusion matrix of the model `best`."""
    if not models:
        return []
    labels = models[0].verdicts.labels
    classes = sorted(set(labels.tolist()))
    names = {one: class_name(one, class_names) for one in classes}
    shown = classes if len(classes) <= MOST_CLASSES else _weakest(models[0].verdicts, classes)
    only = "" if len(shown) == len(classes) else f" Of {len(classes)} classes, the {len(shown)} weakest are shown."
    listed = models[:MOST_MODELS]
    marked = f" A model with {UNVERIFIED_MARK} was attacked by no verifying suite."
    by_class = Heat(
        heading="Robust accuracy by class",
        corner="model",
        columns=[names[one] for one in shown],
        rows=[(_row_name(one), _by_class(one.verdicts, shown)) for one in listed],
        note=(
            "In %, of the images of each class: the worst case over the attacks behind the model's headline."
            f"{'' if all(one.verified for one in listed) else marked}{only}"
        ),
    )
    chosen = next((one for one in models if one.name == best), models[0])
    return [by_class, _confusion(chosen, shown, names, class_names)]


def _row_name(model: Judged) -> str:
    return model.name if model.verified else f"{UNVERIFIED_MARK}{model.name}"


def _weakest(verdicts: Verdicts, classes: Sequence[int]) -> list[int]:
    return sorted(sorted(classes, key=lambda one: _share(verdicts, one))[:MOST_CLASSES])


def _share(verdicts: Verdicts, label: int) -> float:
    of_class = verdicts.labels == label
    return float(verdicts.robust_correct[of_class].mean()) if of_class.any() else 0.0


def _by_class(verdicts: Verdicts, classes: Sequence[int]) -> list[tuple[float, str] | None]:
    present = set(verdicts.labels.tolist())
    return [(share := _share(verdicts, one), f"{100 * share:.0f}") if one in present else None for one in classes]


def _confusion(
    model: Judged, classes: Sequence[int], names: dict[int, str], class_names: Sequence[str] | None
) -> Section:
    heading = f"Confusion under attack: {model.name}"
    predicted = model.verdicts.worst_predicted()
    if predicted is None:
        return Notes(heading=heading, note="Not kept: an earlier version evaluated this model without its predictions.")
    answers = sorted({*classes, *(set(predicted.tolist()) if len(names) <= MOST_CLASSES else ())} - {NO_ANSWER})
    columns = [names.get(one) or class_name(one, class_names) for one in answers]
    rows = [(names[one], _answers(model.verdicts.labels, predicted, one, answers)) for one in classes]
    return Heat(
        heading=heading,
        corner="true ↓ predicted →",
        columns=columns,
        rows=rows,
        note=(
            "Numbers of images. Each is predicted as the model answers in the worst case: its class where it stands"
            " against every attack, else the answer to the clean image or to the first attack that breaks it."
        ),
    )


def _answers(
    labels: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], label: int, answers: Sequence[int]
) -> list[tuple[float, str] | None]:
    of_class = predicted[labels == label]
    counts = [int((of_class == answer).sum()) for answer in answers]
    return [(count / max(len(of_class), 1), str(count)) if count else None for count in counts]
