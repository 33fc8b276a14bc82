"""An evaluation of models: its description, its folder, and its resumable steps."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bat_core.attacks import PGD, Transfer
from bat_core.config import to_dict
from bat_core.data import Split
from bat_core.evaluate import Evaluator
from bat_core.masking.checks import examine
from bat_core.masking.flags import Depth
from bat_core.paths import Rooted, below, write_atomically
from bat_core.suites import Entry, Suite, get_suite
from bat_core.verdicts import Verdicts
from sweeps.engine.evaluation.shard_files import SHARDS, ShardWork, attack_images, read_verdicts
from sweeps.engine.evaluation.spec import EvaluationSpec, ModelRecord, read_spec, write_spec

NOUN, SPEC = "evaluation", "evaluation.json"
SUMMARY = "summary.json"
CHECKS = "checks.json"
FIRST = "fast"  # the suite whose survivors are drawn
TRANSFERRED_STEPS = 20  # CE20, as in Table 7


@dataclass(frozen=True, kw_only=True)
class Evaluation(EvaluationSpec):
    """The description of an evaluation: fixed before the first attack, and stored as evaluation.json.

    With `survivors`, all images meet the suite `fast`, and that many of those that stand are drawn to meet `suite`.
    With `stop_below` or `stop_above` alone, images that are correct when clean are drawn to meet `suite` until it is
    decided. `candidates` are the numbers of what the models belong to, among which the best is searched (empty: all
    models are attacked to the end). `audit` is the share of the images far from the boundary that meet `quick` too.
    """

    suite: str
    checks: str
    save_adversarial: bool
    transfer_from: tuple[ModelRecord, ...] = ()
    cycles: bool = True
    gallery: int = 0
    survivors: int | None = None
    stop_below: float | None = None
    stop_above: float | None = None
    candidates: tuple[int, ...] = ()
    audit: float = 0.0

    @property
    def name(self) -> str:
        """The name of its metrics: the suite, with "+transfer" if transfer attacks were added."""
        if self.sampled:
            return f"{self.suite}+sampled"
        return f"{self.suite}+transfer" if self.transfer_from else self.suite

    @property
    def sampled(self) -> bool:
        """Whether the suite attacks images that are drawn, and not all."""
        return self.survivors is not None or self.stops

    @property
    def stops(self) -> bool:
        """Whether the evaluation stops once it is decided."""
        return self.stop_below is not None or self.stop_above is not None

    def all_models(self) -> tuple[ModelRecord, ...]:
        return (*self.models, *self.transfer_from)

    def own_suite(self) -> Suite:
        """The suite at this budget, step size and number of classes, without transfer attacks."""
        return get_suite(self.suite, eps=self.eps, step_size=self.step_size, norm=self.norm).for_classes(
            self.num_classes
        )

    def attacks(self, device: str = "cpu") -> Suite:
        """The suite at this budget and step size, followed by the transfer attack, if any."""
        return _attacks(self, device)

    def shard_groups(self, together: int) -> list[list[slice]]:
        """The shards in groups of at most `together`, whose images are attacked side by side."""
        shards = self.shards()
        return [shards[first : first + together] for first in range(0, len(shards), together)]

    def entries(self, device: str = "cpu") -> tuple[Entry, ...]:
        """The attacks on all images: the suite's, or those before images are drawn."""
        if not self.sampled:
            return self.attacks(device).entries
        first = get_suite(FIRST, eps=self.eps, norm=self.norm).for_classes(self.num_classes)
        return first.entries if self.survivors is not None else ()


@functools.lru_cache(maxsize=2)
def _attacks(evaluation: Evaluation, device: str) -> Suite:
    suite = evaluation.own_suite()
    if not evaluation.transfer_from:
        return suite
    transfer = Transfer(
        eps=evaluation.eps,
        norm=evaluation.norm,
        sources=tuple(model.load(device, NOUN) for model in evaluation.transfer_from),
        crafted_by=PGD(
            eps=evaluation.eps,
            norm=evaluation.norm,
            step_size=evaluation.step_size,
            num_steps=TRANSFERRED_STEPS,
        ),
    )
    entry = Entry(name="transfer", attack=transfer, skip_broken=True)
    return replace(suite, name=evaluation.name, entries=(*suite.entries, entry))


@dataclass(frozen=True)
class EvaluationFolder:
    """The folder of an evaluation's verdicts and summaries."""

    path: Path

    def model(self, model: ModelRecord) -> Rooted:
        """The folder of one model's results."""
        return below(self.path, model.source.name)

    def create(self, evaluation: Evaluation) -> None:
        """Write the evaluation's description into a new folder.

        Raises:
            InputError: the folder cannot be written, or is not empty.
        """
        write_spec(self.path, SPEC, f"an {NOUN}", evaluation)

    def load(self) -> Evaluation:
        """Read the evaluation in this folder.

        Raises:
            InputError: there is none, or its description is invalid.
        """
        return read_spec(Evaluation, self.path, SPEC, NOUN)


def attack_shards(
    evaluation: Evaluation,
    folder: Rooted,
    evaluator: Evaluator,
    part: Split,
    shards: Sequence[slice],
    *,
    first: int | None = None,
) -> None:
    """Run every attack on some shards of one model. Each result is written as soon as it is complete.

    Args:
        folder: the folder of the model's results.  part: all images of the evaluation.
        first: run only that many attacks.
    """
    places = [below(folder, SHARDS, f"{shard.start:06d}") for shard in shards]
    work = [ShardWork(place, part.take(shard), evaluator) for place, shard in zip(places, shards, strict=True)]
    attack_images(evaluation.entries(evaluator.device.type)[:first], work, save=evaluation.save_adversarial)


def check_model(evaluation: Evaluation, folder: Rooted, evaluator: Evaluator, part: Split) -> None:
    """Check one model for red flags of gradient masking after its attacks, unless the result is on disk."""
    path = below(folder, CHECKS)
    if path.exists():
        return
    verified = None
    if evaluation.attacks().verified_by and evaluation.entries():
        verdicts = joined(evaluation, folder)
        robust = dict(zip(verdicts.rows.tolist(), verdicts.robust_correct.tolist(), strict=True))
        verified = torch.tensor([robust[row] for row in part.rows.tolist()])
    depth: Depth = "cheap" if evaluation.checks == "cheap" else "full"
    findings = examine(
        evaluator.model,
        part.images,
        part.labels,
        eps=evaluation.eps,
        norm=evaluation.norm,
        depth=depth,
        seed=evaluation.seed,
        verified=verified,
    )
    write_atomically(path, json.dumps(to_dict(findings), indent=1))


def joined(evaluation: Evaluation, folder: Path) -> Verdicts:
    """The verdicts of all shards under the attacks on all images.

    Raises:
        InputError: a file is missing or damaged.
    """
    places = [folder / SHARDS / f"{shard.start:06d}" for shard in evaluation.shards()]
    return Verdicts.concat([read_verdicts(place, evaluation.entries()) for place in places])
