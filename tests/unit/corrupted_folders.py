"""Tiny folders of corrupted images in the published layouts."""

import numpy as np
from PIL import Image

from bat_core.corruption_names import SEVERITIES


def cifar_c(folder, images, labels, names, corrupt):
    """As CIFAR-10-C: `corrupt(images, severity)` of images uint8 (N, C, H, W) under each of `names`."""
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(np.asarray(labels), len(SEVERITIES)))
    whole = np.concatenate([corrupt(np.asarray(images), severity) for severity in SEVERITIES])
    for name in names:
        np.save(folder / f"{name}.npy", np.moveaxis(whole, 1, -1))
    return folder


def imagenet_c(folder, name, classes, *, size, each=2, group=None):
    """As ImageNet-C: one grey level for each class and severity, in <group>/<name>/<severity>/<class>/."""
    for severity in SEVERITIES:
        for number, wnid in enumerate(classes):
            place = folder / (group or "") / name / str(severity) / wnid
            place.mkdir(parents=True)
            for one in range(each):
                level = 40 * number + 4 * severity
                Image.new("RGB", (size, size), (level,) * 3).save(place / f"val_{one}.JPEG", quality=100)
    return folder
