"""Street View House Numbers, cropped digits, from Parquet files or torchvision's .mat files."""

from pathlib import Path

import torch
from torchvision.datasets import SVHN

from bat_core.data.augment import CROP
from bat_core.data.base import DATASETS, Request, Source, Split
from bat_core.data.parquet import has_parquet, read_split
from bat_core.errors import InputError


@DATASETS.register("svhn")
def svhn(request: Request) -> Source:
    """73,257 train and 26,032 test images, 3x32x32; the extra training images are not used (section 5.3).

    Source: Netzer et al., Reading Digits in Natural Images, NIPS workshop 2011.
    """
    folder = request.require_dir()
    if folder.is_dir() and has_parquet(folder):
        train, test = read_split(folder, "train"), read_split(folder, "test")
    else:
        train, test = (_matlab_file(folder, split, download=request.download) for split in ("train", "test"))
    return Source(train=train, test=test, class_names=tuple("0123456789"), augmentation=CROP)


def _matlab_file(folder: Path, split: str, *, download: bool) -> Split:
    try:
        published = SVHN(str(folder), split=split, download=download)
    except (RuntimeError, OSError) as error:
        raise InputError(
            f"{folder} has neither train-*.parquet nor a valid {split}_32x32.mat:"
            " give a folder that contains SVHN, or add --download"
        ) from error
    return Split.of(torch.from_numpy(published.data), torch.from_numpy(published.labels).long())
