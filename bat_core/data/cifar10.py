"""CIFAR-10, from Parquet files as on the Hugging Face hub or from the authors' binary version."""

from bat_core.data.augment import CROP_AND_FLIP
from bat_core.data.base import DATASETS, Source
from bat_core.data.parquet import read_published
from bat_core.data.records import BinaryFormat
from bat_core.data.request import Request
from bat_core.data.shards import find_shards

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
ARCHIVE, MD5 = "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
BINARY = "cifar-10-batches-bin"
FORMAT = BinaryFormat(
    title="CIFAR-10",
    folder=BINARY,
    pickled="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test=("test_batch.bin",),
    labels=1,
    url=URL,
    archive=ARCHIVE,
)


@DATASETS.register("cifar10")
def cifar10(request: Request) -> Source:
    """50,000 train and 10,000 test images, 3x32x32.

    The authors' version for Python is rejected: it consists of pickles, which can run code.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    folder = request.require_dir()
    if shards := find_shards(folder, request.name):
        train, test = read_published(shards, request)
    else:
        request.refuse_columns()
        train, test = FORMAT.read(request, folder, label=0, md5=MD5)
    return Source(train=train, test=test, class_names=CLASS_NAMES, augmentation=CROP_AND_FLIP)
