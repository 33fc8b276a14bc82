"""scikit-learn's embedded handwritten digits: real images that need no download."""

import hashlib

import numpy as np
import torch

from bat_core.data.base import DATASETS, Request, Source, Split
from bat_core.errors import InputError

TEST_SIZE = 397
PIXEL = 5 / 255


@DATASETS.register("digits")
def digits(_: Request) -> Source:
    """1,797 digits of 8x8 with 17 levels of ink; 397 of them, picked by a hash of their content, are test.

    One "pixel" of budget is 5/255 here. On strokes as coarse as these a budget of 8/255 hardly moves
    an undefended network; 8 pixels of 5/255 break it while a trained one holds, as 8/255 does on CIFAR-10.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 (the core runs without it)
    except ImportError as error:
        raise InputError("data set 'digits' comes with scikit-learn: pip install scikit-learn") from error
    bunch = load_digits()
    images = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    keys = [hashlib.sha256(b"test" + image.numpy().tobytes()).digest() for image in images]
    order = torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))
    everything = Split.of(images, labels)
    return Source(
        train=everything.take(order[TEST_SIZE:]),
        test=everything.take(order[:TEST_SIZE]),
        class_names=tuple("0123456789"),
        pixel=PIXEL,
    )
