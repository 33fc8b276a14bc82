"""The shards of an evaluation: their attacks, and their files, which are read only if they are complete."""

import functools
import itertools
import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from bat_core.data import Split
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.paths import Rooted, atomic_file, below, check_regular, make_folder
from bat_core.suites import Entry
from bat_core.verdicts import Outcome, Verdicts

SHARDS = "shards"
ADVERSARIAL = "adversarial"
CLEAN = "clean"


class ShardWork:
    """The images of one shard, and the verdicts on them so far."""

    def __init__(self, place: Rooted, images: Split, evaluator: Evaluator) -> None:
        self.place, self.evaluator, self._images = place, evaluator, images
        self.decoded = functools.cache(lambda: images.images[:])  # at most once, and not if all results are on disk
        make_folder(place)
        known = read_complete(place / f"{CLEAN}.parquet", images.rows)
        self.verdicts = evaluator.clean(self.decoded(), images.labels, images.rows) if known is None else known
        if known is None:
            self.verdicts.write(below(place, f"{CLEAN}.parquet"))

    def attack(self, number: int, entry: Entry, *, save: bool) -> None:
        """Attack the images, unless the result is on disk."""
        adversarial = below(self.place, f"{ADVERSARIAL}-{entry.name}.parquet") if save else None
        if self.known(number, entry) and (adversarial is None or is_complete(adversarial)):
            return self.keep(number, entry, None)
        saver = AdversarialImages(adversarial) if adversarial is not None else None
        outcome = self.evaluator.attack(entry, self.decoded(), self.verdicts, save=saver.add if saver else None)
        if saver:
            saver.close()
        return self.keep(number, entry, outcome)

    def known(self, number: int, entry: Entry) -> bool:
        """Whether the attack's result is on disk."""
        return self._read(number, entry) is not None

    def keep(self, number: int, entry: Entry, outcome: Outcome | None) -> None:
        """Add an attack's outcome to the verdicts and write it; with None, add the one that is on disk."""
        if outcome is None:
            outcome = self._read(number, entry)
        else:
            self.verdicts.without_outcomes().with_outcome(entry.name, outcome).write(self._path(number, entry))
        assert outcome is not None
        self.verdicts = self.verdicts.with_outcome(entry.name, outcome)

    def _read(self, number: int, entry: Entry) -> Outcome | None:
        return read_outcome(self._path(number, entry), entry, self._images.rows)

    def _path(self, number: int, entry: Entry) -> Rooted:
        return below(self.place, outcome_file(number, entry))


def attack_images(entries: Sequence[Entry], shards: Sequence[ShardWork], *, save: bool = False) -> None:
    """Run attacks on some shards. Attacks that pool their images attack those of all shards side by side."""
    numbered = enumerate(entries)
    for pools, group in itertools.groupby(numbered, key=lambda one: one[1].attack.pools and not save):
        if pools:
            for number, entry in group:
                _attack_pooled(number, entry, shards)
            continue
        mine = list(group)
        for shard in shards:
            for number, entry in mine:
                shard.attack(number, entry, save=save)


def _attack_pooled(number: int, entry: Entry, shards: Sequence[ShardWork]) -> None:
    known = [shard for shard in shards if shard.known(number, entry)]
    for shard in known:
        shard.keep(number, entry, None)
    if not (missing := [shard for shard in shards if shard not in known]):
        return
    whole = Verdicts.chain([shard.verdicts for shard in missing])
    images = torch.cat([shard.decoded() for shard in missing])
    outcome = missing[0].evaluator.attack(entry, images, whole)
    ends = np.cumsum([len(shard.verdicts) for shard in missing])
    for shard, positions in zip(missing, np.split(np.arange(len(whole)), ends[:-1]), strict=True):
        shard.keep(number, entry, outcome.take(positions))


def outcome_file(number: int, entry: Entry) -> str:
    """The name of the file of an attack's outcome on a shard."""
    return f"{number:02d}-{entry.name}.parquet"


def read_verdicts(place: Path, entries: Sequence[Entry]) -> Verdicts:
    """The verdicts of a shard under some attacks.

    Raises:
        InputError: a file is missing or damaged.
    """
    verdicts = Verdicts.read(place / f"{CLEAN}.parquet")
    for number, entry in enumerate(entries):
        path = place / outcome_file(number, entry)
        if (outcome := Verdicts.read(path).outcomes.get(entry.name)) is None:
            raise InputError(f"{str(path)!r} has no verdicts of {entry.name}: remove it, and --resume attacks again")
        verdicts = verdicts.with_outcome(entry.name, outcome)
    return verdicts


def known_verdicts(place: Path, entries: Sequence[Entry]) -> Verdicts | None:
    """The verdicts of a shard under the attacks, from the first, that are finished; None before any verdict."""
    try:
        verdicts = Verdicts.read(place / f"{CLEAN}.parquet")
    except InputError:
        return None
    for number, entry in enumerate(entries):
        outcome = read_outcome(place / outcome_file(number, entry), entry, torch.tensor(verdicts.rows))
        if outcome is None:
            break
        verdicts = verdicts.with_outcome(entry.name, outcome)
    return verdicts


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
