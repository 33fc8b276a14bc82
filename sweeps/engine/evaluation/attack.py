"""What an evaluation of models is, the folder it lives in, and how it goes on where it stopped."""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from bat_core.attacks import PGD, Transfer
from bat_core.config import to_dict
from bat_core.data import Split
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.masking.checks import examine
from bat_core.masking.flags import Depth
from bat_core.stats import wilson
from bat_core.suites import Entry, Suite, get_suite
from bat_core.verdicts import Outcome, Verdicts
from sweeps.engine.evaluation.spec import EvaluationSpec, ModelRecord, read_spec, write_spec
from sweeps.engine.storage.files import write_atomically

NOUN, SPEC = "evaluation", "evaluation.json"
SUMMARY = "summary.json"
CHECKS = "checks.json"
SHARDS = "shards"
ADVERSARIAL = "adversarial"
CLEAN = "clean"
TRANSFERRED_STEPS = 20  # CE20, as in Table 7


@dataclass(frozen=True, kw_only=True)
class Evaluation(EvaluationSpec):
    """All that was decided before the first attack; written once, as evaluation.json."""

    suite: str
    checks: str
    save_adversarial: bool
    transfer_from: tuple[ModelRecord, ...] = ()

    @property
    def name(self) -> str:
        """What its numbers are called after: the suite, and whether black boxes were added."""
        return f"{self.suite}+transfer" if self.transfer_from else self.suite

    def attacks(self, device: str = "cpu") -> Suite:
        """The suite, at this budget and step size, and then what other models know."""
        return _attacks(self, device)


@functools.lru_cache(maxsize=2)
def _attacks(evaluation: Evaluation, device: str) -> Suite:
    suite = get_suite(evaluation.suite, eps=evaluation.eps, step_size=evaluation.step_size)
    if not evaluation.transfer_from:
        return suite
    transfer = Transfer(
        eps=evaluation.eps,
        sources=tuple(model.load(device, NOUN) for model in evaluation.transfer_from),
        crafted_by=PGD(eps=evaluation.eps, step_size=evaluation.step_size, num_steps=TRANSFERRED_STEPS),
    )
    entry = Entry(name="transfer", attack=transfer, drop=True)
    return replace(suite, name=evaluation.name, entries=(*suite.entries, entry))


@dataclass(frozen=True)
class EvaluationFolder:
    """Where an evaluation's verdicts and summaries lie."""

    path: Path

    def model(self, model: ModelRecord) -> Path:
        """The folder of one model."""
        return self.path / model.source.name

    def create(self, evaluation: Evaluation) -> None:
        """Write the evaluation's description into a new folder.

        Raises:
            InputError: it cannot be written, or holds something already.
        """
        write_spec(self.path, SPEC, f"an {NOUN}", evaluation)

    def load(self) -> Evaluation:
        """The evaluation that lives here.

        Raises:
            InputError: none does.
        """
        return read_spec(Evaluation, self.path, SPEC, NOUN)


def attack_shard(evaluation: Evaluation, folder: Path, evaluator: Evaluator, part: Split, shard: slice) -> None:
    """Every attack of the suite on one shard of one model, each kept on disk as soon as it is through.

    Args:
        folder: the model's.  part: all images of the evaluation.
    """
    suite, images = evaluation.attacks(evaluator.device.type), part.take(shard)
    decoded = functools.cache(lambda: images.images[:])  # once, and not at all where everything is on disk
    place = folder / SHARDS / f"{shard.start:06d}"
    place.mkdir(parents=True, exist_ok=True)
    verdicts = read_whole(place / f"{CLEAN}.parquet", images.rows)
    if verdicts is None:
        verdicts = evaluator.clean(decoded(), images.labels, images.rows)
        write_verdicts(verdicts, place / f"{CLEAN}.parquet")
    for number, entry in enumerate(suite.entries):
        path = place / f"{number:02d}-{entry.name}.parquet"
        adversarial = place / f"{ADVERSARIAL}-{entry.name}.parquet" if evaluation.save_adversarial else None
        outcome = read_outcome(path, entry, images.rows)
        if outcome is None or (adversarial is not None and not is_whole(adversarial)):
            saver = AdversarialImages(adversarial) if adversarial is not None else None
            outcome = evaluator.attack(entry, decoded(), verdicts, save=saver.add if saver else None)
            if saver:
                saver.close()
            write_verdicts(verdicts.bare().attacked(entry.name, outcome), path)
        verdicts = verdicts.attacked(entry.name, outcome)


def check_model(evaluation: Evaluation, folder: Path, evaluator: Evaluator, part: Split) -> None:
    """Look for the red flags of one model whose attacks are through, unless they are known."""
    path = folder / CHECKS
    if path.exists():
        return
    verified = None
    if evaluation.attacks().verified_by:
        verdicts = joined(evaluation, folder)
        stands = dict(zip(verdicts.rows.tolist(), verdicts.robust_correct.tolist(), strict=True))
        verified = torch.tensor([stands[row] for row in part.rows.tolist()])
    depth: Depth = "cheap" if evaluation.checks == "cheap" else "full"
    findings = examine(
        evaluator.model,
        part.images,
        part.labels,
        eps=evaluation.eps,
        depth=depth,
        seed=evaluation.seed,
        verified=verified,
    )
    write_atomically(path, json.dumps(to_dict(findings), indent=1))


def joined(evaluation: Evaluation, folder: Path) -> Verdicts:
    """The verdicts of all shards.

    Raises:
        InputError: one is missing or damaged.
    """
    parts = []
    for shard in evaluation.shards():
        place = folder / SHARDS / f"{shard.start:06d}"
        verdicts = Verdicts.read(place / f"{CLEAN}.parquet")
        for number, entry in enumerate(evaluation.attacks().entries):
            outcome = Verdicts.read(place / f"{number:02d}-{entry.name}.parquet").outcomes[entry.name]
            verdicts = verdicts.attacked(entry.name, outcome)
        parts.append(verdicts)
    return Verdicts.concat(parts)


def summarise(evaluation: Evaluation, model: ModelRecord, verdicts: Verdicts, folder: Path) -> dict[str, Any]:
    """Write and return summary.json of the model in `folder`. Accuracies are in [0, 1], intervals 95 % Wilson."""
    suite, checked = evaluation.attacks(), folder / CHECKS
    checks = json.loads(checked.read_text()) if checked.exists() else None
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
        "eps_pixels": evaluation.eps_in_pixels,
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
    write_atomically(folder / SUMMARY, json.dumps(summary, indent=1))
    return summary


def per_attack(suite: Suite, verdicts: Verdicts, seed: int) -> list[dict[str, Any]]:
    """A line for each number a table shows: the attack, its settings, the accuracy and its interval.

    `alone` tells an attack on all images from one on what the attacks before it left standing; the
    accuracy of the latter is what stands after it.
    """
    lines = []
    for number, entry in enumerate(suite.entries):
        outcome, settings = verdicts.outcomes[entry.name], entry.describe()
        for position, (name, step) in enumerate(entry.readings()):
            if entry.drop:
                stands = verdicts.robust_after(number + 1)
            else:
                stands = outcome.holds if step is None else outcome.final[:, position]
            lines.append(
                {
                    "name": name,
                    "acc": float(stands.mean()),
                    "interval": list(wilson(int(stands.sum()), len(stands))),
                    "n": len(stands),
                    "alone": not entry.drop,
                    "steps": step or settings.get("num_steps"),
                    "searches": entry.searches,
                    "step_size": settings.get("step_size"),
                    "restarts": settings["restarts"],
                    "loss": settings.get("loss"),
                    "target": settings["target"],
                    "seed": seed,
                }
            )
    return lines


def read_whole(path: Path, rows: Tensor) -> Verdicts | None:
    """The verdicts at `path`; None where there are none, or a kill cut them short, or of other images."""
    if not path.exists():
        return None
    try:
        verdicts = Verdicts.read(path)
    except InputError:
        return None
    return verdicts if np.array_equal(verdicts.rows, rows.numpy()) else None


def read_outcome(path: Path, entry: Entry, rows: Tensor) -> Outcome | None:
    """What `entry` did to the images at `rows`, if it is on disk, whole and of these steps."""
    verdicts = read_whole(path, rows)
    outcome = verdicts.outcomes.get(entry.name) if verdicts else None
    return outcome if outcome is not None and outcome.steps == entry.steps else None


def write_verdicts(verdicts: Verdicts, path: Path) -> None:
    """Write verdicts so that a reader finds the whole file or none."""
    partial = path.with_name(f".{path.name}.partial")
    verdicts.write(partial)
    partial.replace(path)


def is_whole(path: Path) -> bool:
    """Whether a Parquet file can be read to its end."""
    try:
        pq.ParquetFile(path).metadata  # noqa: B018 (reading it is the test)
    except (OSError, pa.ArrowException):
        return False
    return True


class AdversarialImages:
    """Writes adversarial images as they come: index and image (C * H * W float32, [0, 1])."""

    def __init__(self, path: Path) -> None:
        self.path, self.partial = path, path.with_name(f".{path.name}.partial")
        self.writer: pq.ParquetWriter | None = None

    def add(self, _: str, rows: Tensor, x_adv: Tensor) -> None:
        """Append images (M, C, H, W) of the examples `rows` (M,)."""
        flat = x_adv.float().flatten(1).contiguous()
        images = pa.FixedSizeListArray.from_arrays(pa.array(flat.flatten().numpy()), flat.shape[1])
        table = pa.table({"index": pa.array(rows.numpy()), "image": images}).replace_schema_metadata(
            {"shape": json.dumps(list(x_adv.shape[1:]))}
        )
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.partial, table.schema)
        self.writer.write_table(table)

    def close(self) -> None:
        """The file is whole from here on. Without images there is none."""
        if self.writer is not None:
            self.writer.close()
            self.partial.replace(self.path)


def finished_attacks(evaluation: Evaluation, folder: EvaluationFolder) -> Iterator[tuple[str, int, str]]:
    """(model, first image of the shard, attack) of what is on disk."""
    for model in evaluation.models:
        for path in (folder.model(model) / SHARDS).glob("*/[0-9]*-*.parquet"):
            yield model.source.name, int(path.parent.name), path.stem.partition("-")[2]
