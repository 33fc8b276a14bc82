"""Any folder of images, {train,val,test}/<class>/*. Images are streamed, never all in memory."""

from dataclasses import replace
from pathlib import Path

from bat_core.data.augment import NO_AUGMENTATION, shifts
from bat_core.data.base import DATASETS, Source, Split
from bat_core.data.files import ImageFiles
from bat_core.data.folders import list_split, native_form, same_classes
from bat_core.data.request import Request, is_hidden, locate
from bat_core.errors import InputError

LAYOUT = "{train,val,test}/<class>/<image>"
WORDS = {"train": ("train", "training"), "test": ("test", "testing"), "val": ("val", "valid", "validation", "dev")}


@DATASETS.register("imagefolder")
def imagefolder(request: Request) -> Source:
    """Images of any size, in colour or grey, in one folder per class.

    The test split is test/, or val/ if there is no test/ with classes. Images that all have one size are kept as they
    are, and shifted by up to 1/8 in training; others are cropped as for `imagenet`. Images that are all grey have one
    channel.
    """
    request.refuse_columns()
    folder = _folder(request, request.require_dir(downloadable=False))
    names = {split: name for split in WORDS if (name := _split_folder(folder, split)) is not None}
    held_out = "test" if "test" in names and (_has_classes(folder / names["test"]) or "val" not in names) else "val"
    if held_out not in names:
        raise InputError(f"data folder {str(folder)!r} has neither test/ nor val/: give one with the layout {LAYOUT}")
    listed = {
        split: list_split(folder, names[split], LAYOUT, workers=request.workers)
        for split in ("train", held_out)
        if split in names
    }
    if "train" in listed:
        same_classes(folder, *((listed[split][1], names[split]) for split in ("train", held_out)))
    splits = {split: part for split, (part, _) in listed.items()}
    files = [part.images for part in splits.values() if isinstance(part.images, ImageFiles)]
    size, channels = native_form(files, request)
    train, test = (_formed(splits.get(split), size, channels) for split in ("train", held_out))
    assert test is not None
    augmentation = NO_AUGMENTATION if isinstance(size, int) else shifts(*size)
    return Source(train=train, test=test, class_names=listed[held_out][1], augmentation=augmentation)


def _formed(split: Split | None, size: int | tuple[int, int], channels: int) -> Split | None:
    if split is None:
        return None
    assert isinstance(split.images, ImageFiles)
    return replace(split, images=replace(split.images, size=size, channels=channels))


def _folder(request: Request, given: Path) -> Path:
    """The folder that contains the splits: the one given, one in it, or its parent if it is a split itself."""

    def has_splits(folder: Path) -> bool:
        return any(_split_folder(folder, split) is not None for split in WORDS)

    if found := locate(given, has_splits, name=request.name):
        return found
    is_split = given.resolve().name.lower() in {word for words in WORDS.values() for word in words}
    if is_split and _has_classes(given):
        return given.resolve().parent
    raise InputError(f"data folder {str(given)!r} has no train/, val/ or test/: give one with the layout {LAYOUT}")


def _split_folder(folder: Path, split: str) -> str | None:
    """The name of the split's folder.

    Raises:
        InputError: there are two, such as val/ and validation/.
    """
    found = sorted(child.name for child in folder.iterdir() if child.name.lower() in WORDS[split] and child.is_dir())
    if len(found) > 1:
        raise InputError(f"{folder} has {found[0]}/ and {found[1]}/ for the same split: move one of them away")
    return found[0] if found else None


def _has_classes(folder: Path) -> bool:
    return any(child.is_dir() and not is_hidden(child.name) for child in folder.iterdir())
