"""The audit of a ladder: does a longer attack break images that it left after its first stage?"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bat_core.attacks.ladder import Ladder, left_after_first_stage
from bat_core.config import from_dict, to_dict
from bat_core.data import Split, to_unit
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.forward import eval_without_tf32
from bat_core.jsontext import read_json
from bat_core.paths import Rooted, below, read_regular, write_atomically
from bat_core.rng import PerExampleRNG
from bat_core.sequential import draw_order
from bat_core.stats import wilson
from bat_core.suites import Entry, get_suite
from bat_core.unit_box import in_unit_box
from sweeps.engine.evaluation.attack import Evaluation, joined

AUDIT = "audit.json"
AUDITING = "quick"  # the suite that attacks them


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Of `standing` images, `drawn` were drawn; the ladder had left `far` of these after its first stage.

    The suite `suite` broke `fallen` of the far ones, at `rows`. `high` is the upper end of the 95 % Wilson interval of
    their share among all far images.
    """

    suite: str
    standing: int
    drawn: int
    far: int
    fallen: int
    rows: tuple[int, ...]
    high: float


def ladder_of(evaluation: Evaluation) -> Entry | None:
    """The evaluation's ladder; None if it has none."""
    return next((entry for entry in evaluation.entries() if isinstance(entry.attack, Ladder)), None)


def audit_model(evaluation: Evaluation, folder: Rooted, evaluator: Evaluator, part: Split) -> None:
    """Draw a share of the images that stand, and attack those of them that are far, unless the result is on disk."""
    path, entry = below(folder, AUDIT), ladder_of(evaluation)
    if entry is None or path.exists():
        return
    verdicts = joined(evaluation, folder)
    standing = verdicts.rows[verdicts.robust_correct].tolist()
    count = math.ceil(evaluation.audit * len(standing))
    at = {row: position for position, row in enumerate(part.rows.tolist())}
    chosen = torch.tensor([at[standing[one]] for one in draw_order(len(standing), evaluation.seed, "audit")[:count]])
    far = _far(entry, evaluator, [part.take(some) for some in chosen.split(evaluation.shard_size)])
    suite, fallen = get_suite(AUDITING, eps=evaluation.eps, norm=evaluation.norm), []
    for images in far:
        clean = evaluator.clean(images.images, images.labels, images.rows)
        found = evaluator.extend(clean, images.images, suite)
        fallen += found.rows[~found.robust_correct].tolist()
    number = sum(len(images) for images in far)
    audit = Audit(
        suite=suite.title,
        standing=len(standing),
        drawn=count,
        far=number,
        fallen=len(fallen),
        rows=tuple(sorted(fallen)),
        high=wilson(len(fallen), number).high if number else 1.0,
    )
    write_atomically(path, json.dumps(to_dict(audit), indent=1))


def _far(entry: Entry, evaluator: Evaluator, batches: list[Split]) -> list[Split]:
    """The images of each batch that the ladder leaves after its first stage."""
    assert isinstance(entry.attack, Ladder)
    found = []
    for batch in batches:
        images = batch.in_memory()
        x = to_unit(in_unit_box(batch.images[:].to(evaluator.device)))
        rng = PerExampleRNG(seed=evaluator.seed, names=("evaluate", entry.name), indices=images.rows.tolist())
        with eval_without_tf32(evaluator.model):
            left = left_after_first_stage(
                entry.attack, evaluator.search_logits, x, images.labels.to(evaluator.device), generator=rng
            )
        if bool(left.any()):
            found.append(images.take(left.cpu().nonzero().squeeze(1)))
    return found


def read_audit(folder: Rooted) -> Audit | None:
    """The audit of the model in `folder`; None if there was none.

    Raises:
        InputError: its file is damaged.
    """
    path: Path = below(folder, AUDIT)
    if not path.exists():
        return None
    try:
        return from_dict(Audit, read_json(read_regular(path)))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is damaged: {error}; remove it, and --resume audits again") from error


def audit_in_words(audit: Mapping[str, Any]) -> str:
    """An `Audit`, as summaries keep it, in one sentence for tables and pages."""
    if not audit["far"]:
        return f"of {audit['drawn']} images drawn from those that stand, none is far from the boundary"
    return (
        f"{audit['suite']} broke {audit['fallen']} of {audit['far']} drawn images that the ladder had left after"
        f" its first stage (at most {audit['high']:.1%} of all such images, 95 %)"
    )
