"""CIFAR-100, from Parquet files as on the Hugging Face hub or from the authors' binary version."""

from bat_core.data.augment import CROP_AND_FLIP
from bat_core.data.base import DATASETS, Source
from bat_core.data.columns import IMAGE_NAMES, Wanted
from bat_core.data.parquet import read_published
from bat_core.data.records import BinaryFormat
from bat_core.data.request import Request
from bat_core.data.shards import find_shards
from bat_core.errors import InputError

FINE = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl", "boy",
    "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair", "chimpanzee", "clock",
    "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin", "elephant", "flatfish",
    "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp", "lawn_mower", "leopard", "lion",
    "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain", "mouse", "mushroom", "oak_tree", "orange",
    "orchid", "otter", "palm_tree", "pear", "pickup_truck", "pine_tree", "plain", "plate", "poppy", "porcupine",
    "possum", "rabbit", "raccoon", "ray", "road", "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk",
    "skyscraper", "snail", "snake", "spider", "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank",
    "telephone", "television", "tiger", "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale",
    "willow_tree", "wolf", "woman", "worm",
)  # fmt: skip
COARSE = (
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices",
    "household_furniture", "insects", "large_carnivores", "large_man-made_outdoor_things",
    "large_natural_outdoor_scenes", "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates",
    "people", "reptiles", "small_mammals", "trees", "vehicles_1", "vehicles_2",
)  # fmt: skip
LABELS = {"coarse_label": COARSE, "fine_label": FINE}  # in the order of a record's label bytes
DEFAULT_LABEL = "fine_label"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"
FORMAT = BinaryFormat(
    title="CIFAR-100",
    folder="cifar-100-binary",
    pickled="cifar-100-python",
    train=("train.bin",),
    test=("test.bin",),
    labels=len(LABELS),
    url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
    archive="cifar-100-binary.tar.gz",
)


@DATASETS.register("cifar100")
def cifar100(request: Request) -> Source:
    """50,000 train and 10,000 test images, 3x32x32, in 100 classes; 20 with --label-column coarse_label.

    The authors' version for Python is rejected: it consists of pickles, which can run code.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    folder = request.require_dir()
    label = request.label_column or DEFAULT_LABEL
    if shards := find_shards(folder, request.name):
        train, test = read_published(shards, request, wanted=Wanted(IMAGE_NAMES, (DEFAULT_LABEL, "label")))
    elif label in LABELS and request.image_column is None:
        train, test = FORMAT.read(request, folder, label=list(LABELS).index(label), md5=MD5)
    else:
        raise InputError(
            f"--label-column={label!r}: CIFAR-100's binary version has {' and '.join(LABELS)}: give one of them, and"
            " no --image-column"
        )
    return Source(train=train, test=test, class_names=LABELS.get(label, FINE), augmentation=CROP_AND_FLIP)
