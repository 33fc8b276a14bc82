"""MNIST and Fashion-MNIST, from Parquet files as on the Hugging Face hub or from their own IDX files."""

import gzip
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from bat_core.data.augment import NO_AUGMENTATION, Augmentation
from bat_core.data.base import DATASETS, Source, Split
from bat_core.data.parquet import read_published
from bat_core.data.records import download_failed
from bat_core.data.request import Request, locate
from bat_core.data.shards import find_shards
from bat_core.errors import InputError

if TYPE_CHECKING:
    from torchvision.datasets import MNIST

STEMS = {"train": "train", "test": "t10k"}
KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
FILES = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
MAX_BYTES = 2**30  # of an unpacked file; the largest published one has 47 MB


@DATASETS.register("mnist")
def mnist(request: Request) -> Source:
    """60,000 train and 10,000 test handwritten digits, 1x28x28. The usual budget is --eps 0.3.

    Source: Y. LeCun, C. Cortes and C. Burges, The MNIST database of handwritten digits, 1998.
    """
    from torchvision.datasets import MNIST

    return _load(request, MNIST, tuple("0123456789"), NO_AUGMENTATION)


@DATASETS.register("fashion_mnist")
def fashion_mnist(request: Request) -> Source:
    """60,000 train and 10,000 test pictures of clothes, 1x28x28.

    Source: H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017.
    """
    from torchvision.datasets import FashionMNIST

    return _load(request, FashionMNIST, tuple(FashionMNIST.classes), Augmentation(pad=2, flip=True))


def _load(
    request: Request, published: "type[MNIST]", class_names: tuple[str, ...], augmentation: Augmentation
) -> Source:
    folder = request.require_dir()
    if shards := find_shards(folder, request.name):
        train, test = read_published(shards, request, channels=1)
        return Source(train=train, test=test, class_names=class_names, augmentation=augmentation)
    request.refuse_columns()
    raw = _raw_folder(folder, request.name, published)
    if raw is None and request.download:
        raw = _download(folder, published)
    if raw is None:
        raise InputError(
            f"{folder} has neither train-*.parquet nor the files {FILES} (or .gz): give a folder with them, or add"
            " --download"
        )
    train = _split(raw, "train") if any(_find(raw, "train", kind) for kind in KINDS) else None
    return Source(train=train, test=_split(raw, "test"), class_names=class_names, augmentation=augmentation)


def _raw_folder(folder: Path, name: str, published: "type[MNIST]") -> Path | None:
    """The folder of the IDX files: the one given, one in it, or torchvision's <name>/raw in it."""

    def fits(place: Path) -> bool:
        return any(_find(place, split, kind) for split in STEMS for kind in KINDS)

    torchvisions = folder / published.__name__ / "raw"
    if torchvisions.is_dir():
        return torchvisions
    return locate(folder, fits, name=name) or locate(folder / name, fits)


def _find(folder: Path, split: str, kind: str) -> Path | None:
    """One IDX file; some archives write a dot for the last dash but one."""
    stem = f"{STEMS[split]}-{kind}"
    names = (stem, stem.replace("-idx", ".idx"))
    places = (folder / f"{name}{suffix}" for suffix in ("", ".gz") for name in names)
    return next((place for place in places if place.is_file()), None)


def _split(folder: Path, split: str) -> Split:
    images, labels = (_read(folder, split, kind) for kind in KINDS)
    if len(images) != len(labels) or tuple(images.shape[1:]) != (28, 28):
        raise InputError(
            f"{folder}: the {split} files hold {len(labels)} labels and images of shape {tuple(images.shape)}:"
            " they must be as many, of 28x28 pixels"
        )
    return Split.of(images[:, None], labels)


def _read(folder: Path, split: str, kind: str) -> Tensor:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    reader = read_image_file if kind == KINDS[0] else read_label_file
    path = _find(folder, split, kind)
    if path is None:
        raise InputError(f"{folder} has no {STEMS[split]}-{kind} (or .gz): give a folder that contains it")
    try:
        if path.suffix != ".gz":
            return reader(str(path))
        with gzip.open(path) as packed, tempfile.NamedTemporaryFile() as unpacked:
            unpacked.write(packed.read(MAX_BYTES))
            unpacked.flush()
            return reader(unpacked.name)
    except Exception as error:  # the reader raises many different exceptions on damaged files
        raise InputError(f"cannot read {path}, it is truncated or damaged: replace it") from error


def _download(folder: Path, published: "type[MNIST]") -> Path:
    from torchvision.datasets.utils import download_and_extract_archive

    raw = folder / published.__name__ / "raw"
    for name, md5 in published.resources:
        failed: Exception | None = None
        for mirror in published.mirrors:
            try:
                download_and_extract_archive(f"{mirror}{name}", str(raw), filename=name, md5=md5)
            except (OSError, RuntimeError) as error:
                failed = failed or error
            else:
                failed = None
                break
        if failed is not None:
            raise download_failed(published.__name__, folder, failed) from failed
    return raw
