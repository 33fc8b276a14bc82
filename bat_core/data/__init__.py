"""Data sets by name. A new file that registers a loader here adds a data set."""

from bat_core.data.augment import Augmentation, to_unit
from bat_core.data.base import DATASETS, Dataset, Images, Source, Split, dataset_names, load_dataset
from bat_core.data.files import Crops, ImageFiles
from bat_core.data.request import Request

__all__ = [
    "DATASETS",
    "Augmentation",
    "Crops",
    "Dataset",
    "ImageFiles",
    "Images",
    "Request",
    "Source",
    "Split",
    "dataset_names",
    "load_dataset",
    "to_unit",
]
