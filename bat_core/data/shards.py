"""Finds the Parquet files of each split in a folder, in the layouts of the Hugging Face hub."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bat_core.errors import InputError

SUFFIX = ".parquet"
DEPTH = 4  # folders between the data folder and a file, as in the hub's cache: snapshots/<commit>/data/
SHARD = re.compile(r"(?P<split>\w+)-(?P<shard>\d+)-of-(?P<count>\d+)(-[0-9a-f]+)?\.parquet")  # older ones have a hash
PLAIN = re.compile(r"((?P<split>[A-Za-z]+)[-_.]?)?(?P<number>\d*)\.parquet")  # train.parquet, train/0000.parquet
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
}


@dataclass(frozen=True)
class Shards:
    """The files of each split, in order. `splits` has the keys "train", "test" and "val" where there are such files."""

    folder: Path
    splits: Mapping[str, Sequence[Path]]

    def of(self, split: str) -> Sequence[Path]:
        """The files of one split.

        Raises:
            InputError: there are none.
        """
        if split not in self.splits:
            raise InputError(
                f"{self.folder} has no file {split}-00000-of-NNNNN.parquet: give a folder that contains it"
            )
        return self.splits[split]

    def held_out(self) -> str:
        """The split that serves as test: "test", else the published validation split.

        Raises:
            InputError: there is neither.
        """
        return "val" if "test" not in self.splits and "val" in self.splits else "test"


def find_shards(folder: Path, name: str = "") -> Shards | None:
    """The Parquet files in `folder`, or in a folder below it (data/, plain_text/ ...); None if there are none.

    Args:
        name: the data set; where several folders have files, the one of this name is taken.
    Raises:
        InputError: several folders or several sets of files fit, a shard is missing, or no file names its split.
    """
    found: dict[Path, list[Path]] = defaultdict(list)
    for path in _walk(folder):
        split_folder = path.parent != folder and path.parent.name.lower() in SPLIT_WORDS
        found[path.parent.parent if split_folder else path.parent].append(path)
    if not found:
        return None
    base = _base(folder, found, name)
    by_word: dict[str, list[Path]] = defaultdict(list)
    for path in found[base]:
        if word := _split_word(path, base):
            by_word[word].append(path)
    splits: dict[str, Sequence[Path]] = {}
    for word, paths in sorted(by_word.items()):
        split = SPLIT_WORDS[word]
        if split in splits:
            raise _ambiguous(base, split, splits[split][0], paths[0])
        splits[split] = _in_order(base, word, paths)
    if not splits:
        raise InputError(
            f"{base} has Parquet files, such as {found[base][0].name}, whose names say no split: name them"
            " train-00000-of-00001.parquet and test-00000-of-00001.parquet"
        )
    return Shards(base, splits)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        place = Path(parent)
        deep = len(place.relative_to(folder).parts) >= DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        yield from (place / name for name in sorted(files) if name.endswith(SUFFIX) and not name.startswith("."))


def _base(folder: Path, found: Mapping[Path, Sequence[Path]], name: str) -> Path:
    if folder in found:
        return folder
    bases = list(found)
    named = [base for base in bases if name and name in base.relative_to(folder).parts]
    if len(chosen := named or bases) > 1:
        raise InputError(
            f"{folder} has Parquet files in {chosen[0].relative_to(folder)}/ and {chosen[1].relative_to(folder)}/:"
            " give one of these folders with --data-dir"
        )
    return chosen[0]


def _split_word(path: Path, base: Path) -> str | None:
    match = SHARD.fullmatch(path.name) or PLAIN.fullmatch(path.name)
    word = (match["split"] or "").lower() if match else ""
    if word in SPLIT_WORDS:
        return word
    own_folder = path.parent.name.lower()
    return own_folder if path.parent != base and own_folder in SPLIT_WORDS else None


def _in_order(base: Path, word: str, paths: Sequence[Path]) -> Sequence[Path]:
    """All shards of one split in order: one complete set of numbered shards, or files that no count is written on."""
    matches = [(path, SHARD.fullmatch(path.name)) for path in paths]
    counted = [(path, match) for path, match in matches if match]
    if not counted:
        return sorted(paths, key=lambda path: (_number(path), path.name))
    if odd := next((path for path, match in matches if not match), None):
        raise _ambiguous(base, word, counted[0][0], odd)
    first, count = counted[0][0], int(counted[0][1]["count"])
    shards: dict[int, Path] = {}
    for path, match in counted:
        shard = int(match["shard"])
        if int(match["count"]) != count:
            raise _ambiguous(base, word, first, path)
        if shard in shards:
            raise _ambiguous(base, word, shards[shard], path)
        shards[shard] = path
    if count > len(shards) or max(shards) >= count:
        missing = next((shard for shard in range(count) if shard not in shards), None)
        if missing is None:
            raise InputError(f"{base}: {shards[max(shards)].name} has a number beyond its count of {count}: rename it")
        raise InputError(f"{base}: shard {missing} of the {count} of split {word!r} is missing")
    return [shards[shard] for shard in range(count)]


def _number(path: Path) -> int:
    match = PLAIN.fullmatch(path.name)
    return int(match["number"] or 0) if match else 0


def _ambiguous(base: Path, split: str, one: Path, other: Path) -> InputError:
    names = " and ".join(str(path.relative_to(base)) for path in (one, other))
    return InputError(
        f"{base} has several sets of files for split {split!r}, among them {names}: only one of them can be read, so"
        " move the others away"
    )
