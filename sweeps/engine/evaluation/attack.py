"""An evaluation of models: its description, its folder, and its resumable steps."""

import functools
import itertools
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from bat_core.attacks import PGD, Transfer
from bat_core.config import from_dict, to_dict
from bat_core.data import Split
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.jsontext import read_json
from bat_core.masking.checks import examine
from bat_core.masking.flags import Depth, Findings
from bat_core.norms import LINF
from bat_core.paths import Rooted, atomic_file, below, check_regular, make_folder, read_regular, write_atomically
from bat_core.stats import wilson
from bat_core.suites import Entry, Suite, get_suite
from bat_core.verdicts import Outcome, Verdicts
from sweeps.engine.evaluation.published import comparison, find_published
from sweeps.engine.evaluation.spec import EvaluationSpec, ModelRecord, read_spec, write_spec

NOUN, SPEC = "evaluation", "evaluation.json"
SUMMARY = "summary.json"
CHECKS = "checks.json"
SHARDS = "shards"
ADVERSARIAL = "adversarial"
CLEAN = "clean"
TRANSFERRED_STEPS = 20  # CE20, as in Table 7


@dataclass(frozen=True, kw_only=True)
class Evaluation(EvaluationSpec):
    """The description of an evaluation: fixed before the first attack, and stored as evaluation.json."""

    suite: str
    checks: str
    save_adversarial: bool
    transfer_from: tuple[ModelRecord, ...] = ()
    cycles: bool = True
    gallery: int = 0

    @property
    def name(self) -> str:
        """The name of its metrics: the suite, with "+transfer" if transfer attacks were added."""
        return f"{self.suite}+transfer" if self.transfer_from else self.suite

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


def attack_shard(evaluation: Evaluation, folder: Rooted, evaluator: Evaluator, part: Split, shard: slice) -> None:
    """Run every attack of the suite on one shard of one model. Each result is written as soon as it is complete.

    Args:
        folder: the folder of the model's results.  part: all images of the evaluation.
    """
    suite, images = evaluation.attacks(evaluator.device.type), part.take(shard)
    decoded = functools.cache(lambda: images.images[:])  # at most once, and not if all results are on disk
    place = below(folder, SHARDS, f"{shard.start:06d}")
    make_folder(place)
    verdicts = read_complete(place / f"{CLEAN}.parquet", images.rows)
    if verdicts is None:
        verdicts = evaluator.clean(decoded(), images.labels, images.rows)
        write_verdicts(verdicts, below(place, f"{CLEAN}.parquet"))
    for number, entry in enumerate(suite.entries):
        path = below(place, f"{number:02d}-{entry.name}.parquet")
        adversarial = below(place, f"{ADVERSARIAL}-{entry.name}.parquet") if evaluation.save_adversarial else None
        outcome = read_outcome(path, entry, images.rows)
        if outcome is None or (adversarial is not None and not is_complete(adversarial)):
            saver = AdversarialImages(adversarial) if adversarial is not None else None
            outcome = evaluator.attack(entry, decoded(), verdicts, save=saver.add if saver else None)
            if saver:
                saver.close()
            write_verdicts(verdicts.without_outcomes().with_outcome(entry.name, outcome), path)
        verdicts = verdicts.with_outcome(entry.name, outcome)


def check_model(evaluation: Evaluation, folder: Rooted, evaluator: Evaluator, part: Split) -> None:
    """Check one model for red flags of gradient masking after its attacks, unless the result is on disk."""
    path = below(folder, CHECKS)
    if path.exists():
        return
    verified = None
    if evaluation.attacks().verified_by:
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
    """The verdicts of all shards.

    Raises:
        InputError: a file is missing or damaged.
    """
    parts = []
    for shard in evaluation.shards():
        place = folder / SHARDS / f"{shard.start:06d}"
        verdicts = Verdicts.read(place / f"{CLEAN}.parquet")
        for number, entry in enumerate(evaluation.attacks().entries):
            path = place / f"{number:02d}-{entry.name}.parquet"
            if (outcome := Verdicts.read(path).outcomes.get(entry.name)) is None:
                raise InputError(
                    f"{str(path)!r} has no verdicts of {entry.name}: remove it, and --resume attacks again"
                )
            verdicts = verdicts.with_outcome(entry.name, outcome)
        parts.append(verdicts)
    return Verdicts.concat(parts)


def summarise(evaluation: Evaluation, model: ModelRecord, verdicts: Verdicts, folder: Rooted) -> dict[str, Any]:
    """Write and return summary.json of the model in `folder`. Accuracies are in [0, 1], intervals 95 % Wilson."""
    suite, checked = evaluation.attacks(), below(folder, CHECKS)
    checks = _read_checks(checked) if checked.exists() else None
    attacks = per_attack(suite, verdicts, evaluation.seed)
    robust = int(verdicts.robust_correct.sum())
    summary = {
        "model": model.source.name,
        "source": to_dict(model.source),
        "fingerprint": model.fingerprint,
        "dataset": evaluation.dataset,
        "split": evaluation.split,
        "n": len(verdicts),
        "eps": evaluation.eps,
        **({"eps_pixels": evaluation.eps_in_pixels} if evaluation.norm == LINF else {"norm": evaluation.norm}),
        "suite": suite.label_for(checks["verdict"] if checks else "not checked"),
        "verified_by": suite.verified_by,
        "clean_acc": verdicts.clean_acc,
        "clean_acc_interval": list(wilson(int(verdicts.clean_correct.sum()), len(verdicts))),
        "robust_acc": verdicts.robust_acc,
        "robust_acc_interval": list(wilson(robust, len(verdicts))),
        "per_attack": {attack["name"]: attack["acc"] for attack in attacks},
        "attacks": attacks,
        "verdict": checks["verdict"] if checks else "not checked",
        "flags": checks["flags"] if checks else [],
        "findings": list(model.findings),
        "seed": evaluation.seed,
        "evaluation": evaluation.id,
        "version": evaluation.version,
    }
    theirs = find_published(model.source.factory, evaluation.dataset, evaluation.norm, evaluation.eps)
    if theirs is not None and evaluation.split == "test":
        said = comparison(theirs, robust_acc=verdicts.robust_acc, n=len(verdicts), suite=str(summary["suite"]))
        summary |= {"published_acc": theirs.robust_acc, "published": said}
    write_atomically(below(folder, SUMMARY), json.dumps(summary, indent=1))
    return summary


def _read_checks(path: Path) -> dict[str, Any]:
    """The findings of the checks for gradient masking.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return to_dict(from_dict(Findings, read_json(read_regular(path))))
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} is damaged: {error}; remove it, and --resume checks again") from error


def per_attack(suite: Suite, verdicts: Verdicts, seed: int) -> list[dict[str, Any]]:
    """One entry per reported number: the attack, its settings, the accuracy and its interval.

    `alone` is True for an attack on all images, and False for an attack on the images that are still correct after
    the attacks before it. In the second case, the accuracy counts the images that are correct after this attack.
    """
    lines = []
    for number, entry in enumerate(suite.entries):
        outcome, settings = verdicts.outcomes[entry.name], entry.describe()
        for position, (name, step) in enumerate(entry.readings()):
            if entry.skip_broken:
                correct = verdicts.robust_after(number + 1)
            else:
                correct = outcome.robust if step is None else outcome.final[:, position]
            lines.append(
                {
                    "name": name,
                    "acc": float(correct.mean()),
                    "interval": list(wilson(int(correct.sum()), len(correct))),
                    "n": len(correct),
                    "alone": not entry.skip_broken,
                    "steps": step or settings.get("num_steps"),
                    "searches": entry.num_searches,
                    "step_size": settings.get("step_size"),
                    "restarts": settings["restarts"],
                    "loss": settings.get("loss"),
                    "target": settings["target"],
                    "seed": seed,
                }
            )
    return lines


def read_complete(path: Path, rows: Tensor) -> Verdicts | None:
    """The verdicts at `path`; None if the file is missing, incomplete or about other images."""
    if not path.exists():
        return None
    try:
        verdicts = Verdicts.read(path)
    except InputError:
        return None
    return verdicts if np.array_equal(verdicts.rows, rows.numpy()) else None


def read_outcome(path: Path, entry: Entry, rows: Tensor) -> Outcome | None:
    """The outcome of `entry` on the images at `rows`; None unless a complete file with the same steps is on disk."""
    verdicts = read_complete(path, rows)
    outcome = verdicts.outcomes.get(entry.name) if verdicts else None
    return outcome if outcome is not None and outcome.steps == entry.steps else None


def write_verdicts(verdicts: Verdicts, path: Rooted) -> None:
    """Write verdicts atomically: a reader sees the complete file or none."""
    verdicts.write(path)


def is_complete(path: Path) -> bool:
    """Whether a Parquet file is complete."""
    try:
        pq.ParquetFile(check_regular(path)).metadata  # noqa: B018 (reading it is the test)
    except (OSError, pa.ArrowException, InputError):
        return False
    return True


class AdversarialImages:
    """Writes adversarial images as a Parquet file, batch by batch: index and image (C * H * W float32, [0, 1])."""

    def __init__(self, path: Rooted) -> None:
        self.path, self._open = path, ExitStack()
        self.writer: pq.ParquetWriter | None = None

    def add(self, _: str, rows: Tensor, x_adv: Tensor) -> None:
        """Append images (M, C, H, W) of the examples `rows` (M,)."""
        flat = x_adv.float().flatten(1).contiguous()
        images = pa.FixedSizeListArray.from_arrays(pa.array(flat.flatten().numpy()), flat.shape[1])
        table = pa.table({"index": pa.array(rows.numpy()), "image": images}).replace_schema_metadata(
            {"shape": json.dumps(list(x_adv.shape[1:]))}
        )
        if self.writer is None:
            self.writer = pq.ParquetWriter(self._open.enter_context(atomic_file(self.path)), table.schema)
        self.writer.write_table(table)

    def close(self) -> None:
        """Complete the file. Without images, no file is written."""
        if self.writer is not None:
            self.writer.close()
            self._open.close()


def finished_attacks(evaluation: Evaluation, folder: EvaluationFolder) -> Iterator[tuple[str, str]]:
    """(model, attack) for each result on disk."""
    for model in evaluation.models:
        for path in (folder.model(model) / SHARDS).glob("*/[0-9]*-*.parquet"):
            yield model.source.name, path.stem.partition("-")[2]


def first_batch_seconds(evaluation: Evaluation, folder: EvaluationFolder, *, since: float) -> dict[str, float] | None:
    """Seconds that each attack took on a first batch that met them all after `since` (Unix time).

    By the times at which their results were written. None until there is such a batch.
    """
    entries = evaluation.attacks().entries
    names = [CLEAN, *(f"{number:02d}-{entry.name}" for number, entry in enumerate(entries))]
    for model in evaluation.models:
        for shard in evaluation.shards():
            place = folder.model(model) / SHARDS / f"{shard.start:06d}"
            files = [place / f"{name}.parquet" for name in names]
            if not all(file.exists() for file in files):
                continue
            written = [file.stat().st_mtime for file in files]
            if written[0] >= since:
                spent = (end - begin for begin, end in itertools.pairwise(written))
                return {entry.name.upper(): seconds for entry, seconds in zip(entries, spent, strict=True)}
    return None
