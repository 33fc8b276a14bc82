"""ImageNet, or any folder in its layout, {train,val}/<class>/*.JPEG. Images are streamed, never all in memory."""

import os
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import ImageFolder

from bat_core.data.base import DATASETS, Request, Source, Split
from bat_core.data.files import ImageFiles
from bat_core.errors import InputError

LAYOUT = "{train,val}/<class>/*.JPEG"
DEFAULT_SIZE = 224


@DATASETS.register("imagenet")
def imagenet(request: Request) -> Source:
    """Photographs, 3x224x224 or of the requested size; the test split is the published val.

    Training uses random crops (8 % to 100 % of an image) and flips; testing uses the central 7/8.
    Source: J. Deng et al., ImageNet: a large-scale hierarchical image database, CVPR 2009.
    """
    folder = request.require_dir(downloadable=False)
    size = request.image_size or DEFAULT_SIZE
    (train, class_names), (test, others) = (
        _list_split(folder, part, size=size, workers=request.workers) for part in ("train", "val")
    )
    if odd := set(class_names) ^ set(others):
        raise InputError(f"{folder}: train/ and val/ must have the same classes, but only one has {min(odd)!r}")
    return Source(train=train, test=test, class_names=class_names)


def _list_split(folder: Path, part: str, *, size: int, workers: int | None) -> tuple[Split, tuple[str, ...]]:
    root = folder / part
    if not root.is_dir():
        raise InputError(f"data folder {str(folder)!r} has no {part}/: give one with the layout {LAYOUT}")
    try:
        found = ImageFolder(str(root))
    except OSError as error:
        raise InputError(f"data folder {str(folder)!r} must have the layout {LAYOUT}: {error}") from error
    names = [path[len(str(root)) + 1 :] for path, _ in found.samples]
    if nested := next((name for name in names if name.count(os.sep) != 1), None):
        raise InputError(
            f"data folder {str(folder)!r} must have the layout {LAYOUT}: {part}/{nested} is nested too deeply"
        )
    files = ImageFiles(root.absolute(), np.array([os.fsencode(name) for name in names]), size, workers)
    return Split.of(files, torch.tensor(found.targets)), tuple(found.classes)
