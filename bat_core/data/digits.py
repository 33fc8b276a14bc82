"""scikit-learn's embedded handwritten digits: real images without a download."""

import hashlib

import numpy as np
import torch

from bat_core.data.base import DATASETS, Source, Split
from bat_core.data.request import Request
from bat_core.errors import InputError

TEST_SIZE = 397
PIXEL = 5 / 255


@DATASETS.register("digits")
def digits(request: Request) -> Source:
    """1,797 digits of 8x8 pixels with 17 grey levels; 397 of them, selected by a hash of their content, are test.

    One "pixel" of budget is 5/255 here. On images this coarse a budget of 8/255 hardly affects an undefended
    network. A budget of 8 pixels of 5/255 breaks it, while an adversarially trained one stays robust, as with 8/255
    on CIFAR-10.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    request.refuse_columns()
    try:
        from sklearn.datasets import load_digits  # noqa: PLC0415 (optional dependency)
    except ImportError as error:
        raise InputError(
            "data set 'digits' needs scikit-learn: pip install 'bat-sweeps[platform]', or scikit-learn alone"
        ) from error
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
