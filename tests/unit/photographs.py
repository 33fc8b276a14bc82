"""Small folders of JPEGs in ImageNet's layout."""

import numpy as np
from PIL import Image

CLASSES = ("n01", "n02", "n03")


def photograph(seed: int) -> Image.Image:
    """A smooth picture, which JPEG hardly changes, of a size of its own."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(20, 40, 2)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    return coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC)


def write_part(folder, count, *, seed=0, classes=CLASSES):
    """`count` images a class below `folder`."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for image in range(count):
            drawn = photograph(seed + 1000 * number + image)
            drawn.save(folder / name / f"{name}_{image}.JPEG", quality=95)


def write_dataset(folder, *, train=8, val=4, classes=CLASSES):
    """A sound data set; returns its folder."""
    write_part(folder / "train", train, classes=classes)
    write_part(folder / "val", val, seed=500, classes=classes)
    return folder
