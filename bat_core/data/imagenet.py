"""ImageNet, or any folder in its layout, {train,val}/<class>/*.JPEG. Images are streamed, never all in memory."""

from pathlib import Path

from bat_core.data.base import DATASETS, Source
from bat_core.data.folders import DEFAULT_SIZE, list_split, same_classes
from bat_core.data.request import Request, locate

LAYOUT = "{train,val}/<class>/*.JPEG"


@DATASETS.register("imagenet")
def imagenet(request: Request) -> Source:
    """Photographs, 3x224x224 or of the requested size; the test split is the published val.

    Training uses random crops (8 % to 100 % of an image) and flips; testing uses the central 7/8.
    Source: J. Deng et al., ImageNet: a large-scale hierarchical image database, CVPR 2009.
    """
    request.refuse_columns()
    given = request.require_dir(downloadable=False)
    folder = locate(given, _has_splits, name=request.name) or given
    size = request.image_size or DEFAULT_SIZE
    train = classes = None
    if (folder / "train").is_dir() or not (folder / "val").is_dir():
        train, classes = list_split(folder, "train", LAYOUT, size=size, workers=request.workers)
    test, others = list_split(folder, "val", LAYOUT, size=size, workers=request.workers)
    if classes is not None:
        same_classes(folder, (classes, "train"), (others, "val"))
    return Source(train=train, test=test, class_names=others)


def _has_splits(folder: Path) -> bool:
    return any((folder / part).is_dir() for part in ("train", "val"))
