"""Street View House Numbers, cropped digits, from Parquet files or torchvision's .mat files."""

from pathlib import Path

import torch

from bat_core.data.augment import CROP
from bat_core.data.base import DATASETS, Source, Split
from bat_core.data.parquet import read_published
from bat_core.data.records import download_failed
from bat_core.data.request import Request, locate
from bat_core.data.shards import find_shards
from bat_core.errors import InputError


@DATASETS.register("svhn")
def svhn(request: Request) -> Source:
    """73,257 train and 26,032 test images, 3x32x32; the extra training images are not used (section 5.3).

    Source: Netzer et al., Reading Digits in Natural Images, NIPS workshop 2011.
    """
    folder = request.require_dir()
    if shards := find_shards(folder, request.name):
        train, test = read_published(shards, request)
    else:
        request.refuse_columns()
        folder = locate(folder, _has_matlab_files, name=request.name) or folder
        only_test = not request.download and _file(folder, "test").exists() and not _file(folder, "train").exists()
        train = None if only_test else _matlab_file(folder, "train", download=request.download)
        test = _matlab_file(folder, "test", download=request.download)
    return Source(train=train, test=test, class_names=tuple("0123456789"), augmentation=CROP)


def _file(folder: Path, split: str) -> Path:
    return folder / f"{split}_32x32.mat"


def _has_matlab_files(folder: Path) -> bool:
    return any(_file(folder, split).is_file() for split in ("train", "test"))


def _matlab_file(folder: Path, split: str, *, download: bool) -> Split:
    from torchvision.datasets import SVHN

    try:
        published = SVHN(str(folder), split=split, download=download)
    except ImportError as error:
        raise InputError("SVHN's .mat files need SciPy: pip install scipy, or use Parquet files") from error
    except Exception as error:  # the reader of .mat files raises many different exceptions on damaged files
        if download:
            raise download_failed("SVHN", folder, error) from error
        raise InputError(
            f"{folder} has neither train-*.parquet nor a valid {split}_32x32.mat:"
            " give a folder that contains SVHN, or add --download"
        ) from error
    return Split.of(torch.from_numpy(published.data), torch.from_numpy(published.labels).long())
