"""Which columns of a Parquet file are the images and the labels, and which classes the labels mean."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from bat_core.errors import InputError

IMAGE_NAMES = ("img", "image")
LABEL_NAMES = ("label", "labels", "class", "target")
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Columns:
    """The columns to read. `class_names` are those in the file's Hugging Face metadata, if it has any."""

    image: str
    label: str
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Wanted:
    """What to look for: names from the user, or a data set's own names.

    `images` are the names of image columns in order of preference; an empty tuple takes any column of that type, and
    so does an empty `labels`. What the user typed has exactly one name.
    """

    images: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def typed(self, image: str | None, label: str | None) -> "Wanted":
        """The same with the names that the user typed, if any."""
        return Wanted((image,) if image else self.images, (label,) if label else self.labels)


def choose(schema: pa.Schema, wanted: Wanted, path: Path) -> Columns:
    """Choose the image and the label column.

    Raises:
        InputError: none fits, or several do.
    """
    if twice := next((name for name in schema.names if schema.names.count(name) > 1), None):
        raise InputError(f"{path} has two columns named {twice!r}: rename one")
    features = _features(schema)
    image = _choose_image(schema, wanted, path)
    label = _choose_label(schema, wanted, features, image, path)
    return Columns(image, label, features.get(label))


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, perhaps as a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_whole(kind: pa.DataType) -> bool:
    """Whether a column holds integers or booleans, perhaps as a dictionary."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def is_image(kind: pa.DataType) -> bool:
    """Whether a column holds encoded images: binary, or the hub's struct with a field "bytes"."""
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _is_binary(field.type) for field in kind)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _choose_image(schema: pa.Schema, wanted: Wanted, path: Path) -> str:
    named = next((name for name in wanted.images if name in schema.names), None)
    if named is not None:
        return named
    found = [] if wanted.images else [field.name for field in schema if is_image(field.type)]
    if len(found) > 1:
        structs = [name for name in found if pa.types.is_struct(schema.field(name).type)]
        usual = [name for name in IMAGE_NAMES if name in found]
        found = usual[:1] or (structs if len(structs) == 1 else found)
    if len(found) > 1:
        raise InputError(f"{path} has several columns of images, {', '.join(found)}: choose one with --image-column")
    if not found:
        raise _lacks(schema, path, wanted)
    return found[0]


def _choose_label(
    schema: pa.Schema, wanted: Wanted, features: Mapping[str, tuple[str, ...]], image: str, path: Path
) -> str:
    named = next((name for name in wanted.labels if name in schema.names), None)
    if named is not None:
        return named
    if wanted.labels:
        raise _lacks(schema, path, wanted)
    others = [field for field in schema if field.name != image]
    whole = [field.name for field in others if is_whole(field.type)]
    candidates = whole + [field.name for field in others if is_text(field.type)]
    # the first of these groups that has a member decides, if it has one only
    groups = (
        [name for name in features if name in candidates],
        [name for name in LABEL_NAMES if name in candidates][:1],
        whole,
        candidates,
    )
    found = next((group for group in groups if group), [])
    if len(found) > 1:
        raise InputError(
            f"{path} has several columns that may be labels, {', '.join(found)}: choose one with --label-column"
        )
    if not found:
        raise _lacks(schema, path, wanted)
    return found[0]


def _lacks(schema: pa.Schema, path: Path, wanted: Wanted) -> InputError:
    if wanted.images or wanted.labels:
        needs = f"it needs {' or '.join(wanted.images) or 'images'}, and {' or '.join(wanted.labels) or 'labels'}"
        return InputError(
            f"{path} has columns {', '.join(schema.names)}: {needs}, or name others with --image-column and"
            " --label-column"
        )
    said = ", ".join(f"{field.name} ({str(field.type)[:60]})" for field in schema)
    return InputError(
        f"{path} has columns {said[:500]}: it needs one of encoded images (binary, or a struct with bytes) and one of"
        " integer or text labels; name them with --image-column and --label-column"
    )


def _features(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """The class names of each ClassLabel column in the metadata that the library `datasets` writes."""
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {
            name: tuple(feature["names"])
            for name, feature in described.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and _are_names(feature.get("names"))
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _are_names(names: object) -> bool:
    return isinstance(names, list) and len(names) > 0 and all(isinstance(name, str) for name in names)


def class_indices(
    parts: Sequence[Sequence[int | str]], named: tuple[str, ...] | None, where: str
) -> tuple[list[list[int]], tuple[str, ...]]:
    """Turn the labels of all splits into class indices.

    Text becomes its place among the sorted texts. Integers stay as they are; if they are 1..K without a gap, they
    become 0..K-1.

    Args:
        parts: the labels of train and test, or of test alone.
        named: the names of the classes, if the file says them.
        where: the subject of an error.
    Raises:
        InputError: the labels are of two kinds, or are integers from which the classes cannot be told.
    """
    values = {label for part in parts for label in part}
    texts = {isinstance(label, str) for label in values}
    if len(texts) > 1:
        raise InputError(f"{where}: labels are integers in some files and text in others: write them all in one way")
    if not values:
        return [list[int]() for _ in parts], named or ()
    if texts == {True}:
        names = sorted(str(label) for label in values)
        if named is not None and set(names) <= set(named):
            names = list(named)
        places = {name: place for place, name in enumerate(names)}
        return [[places[str(label)] for label in part] for part in parts], tuple(names)
    numbers = [[int(label) for label in part] for part in parts]
    if named is not None:
        return numbers, named
    low, high = min(map(int, values)), max(map(int, values))
    if low == 1 and len(values) == high:
        return [[label - 1 for label in part] for part in numbers], tuple(str(label) for label in range(1, high + 1))
    if low != 0 or high >= MAX_CLASSES:
        raise InputError(
            f"{where}: labels span {low}..{high}, but classes must be numbered from 0, or from 1 without a gap: number"
            " them anew, or choose another column with --label-column"
        )
    return numbers, tuple(str(label) for label in range(high + 1))
