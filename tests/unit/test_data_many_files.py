"""A folder with as many files as ImageNet has: what listing it keeps is an array of names."""

import hashlib
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from bat_core.data.files import ImageFiles
from bat_core.data.folders import list_split

CLASSES, FILES = 200, 1000  # 200,000 files, a sixth of ImageNet
MOST_BYTES = 500 * 2**20 // 6  # of memory


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Hard links to a few files: a file has a limited number of names."""
    for at in range(CLASSES):
        folder = tmp_path / "train" / f"n{at:08d}"
        folder.mkdir(parents=True)
        source = tmp_path / f"{at}.JPEG"
        source.write_bytes(b"")
        for number in range(FILES):
            os.link(source, folder / f"n{at:08d}_{number:05d}.JPEG")
    return tmp_path


@pytest.mark.slow
def test_a_large_folder_is_listed_and_ordered_within_little_memory(many: Path) -> None:
    tracemalloc.start()
    split, classes = list_split(many, "train", "{train,val}/<class>/<image>")
    order = split.images.canonical_order()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < MOST_BYTES
    assert len(split) == CLASSES * FILES
    assert len(classes) == CLASSES
    assert split.labels.bincount().tolist() == [FILES] * CLASSES
    assert sorted(order.tolist()) == list(range(len(split)))


def test_the_order_is_that_of_the_hashes_of_the_names() -> None:
    names = np.array([f"class/{number}".encode() for number in range(500)])
    keys = [hashlib.sha256(name).digest() for name in names.tolist()]
    expected = sorted(range(len(keys)), key=keys.__getitem__)
    assert ImageFiles(Path("/"), names, 8).canonical_order().tolist() == expected
    assert ImageFiles(Path("/"), names[:0], 8).canonical_order().dtype == torch.int64
