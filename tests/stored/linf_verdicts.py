"""Makes `linf_verdicts.json`: the files of verdicts in L-inf, as they were before there were other norms.

python tests/stored/linf_verdicts.py    # with the code of which the verdicts are to be kept

In float64, so that no processor's rounding turns the sign of a gradient.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bat_core.attacks import PGD, Noise, Square, Transfer
from bat_core.data import load_dataset, to_unit
from bat_core.evaluate import evaluate
from bat_core.models import build_model
from bat_core.suites import Entry, Suite, get_suite

FILE = Path(__file__).with_suffix(".json")
WEIGHTS = Path(__file__).with_name("robust_digits.safetensors")
EPS, COUNT, SEED = 40 / 255, 24, 3
NAMES = ("paper", "diagnostic", "imagenet", "quick", "fast")


def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that stands on about half of the images, the images in [0, 1], and their labels."""
    test = load_dataset("digits", train_size=1000, val_size=32, test_size=100).test
    model = build_model("small_cnn_8", num_classes=10, image_shape=(1, 8, 8))
    model.load_state_dict(load_file(WEIGHTS))
    return model.double().eval(), to_unit(test.images[:COUNT]).double(), test.labels[:COUNT]


def suites(model: nn.Module) -> dict[str, Suite]:
    """Suites that have every attack of the project's own."""
    others = (
        Entry(name="noise", attack=Noise(eps=EPS, num_steps=20)),
        Entry(name="square", attack=Square(eps=EPS, num_steps=200)),
        Entry(
            name="transfer",
            attack=Transfer(eps=EPS, sources=(model,), crafted_by=PGD(eps=EPS, step_size=EPS / 4, num_steps=5)),
        ),
    )
    return {**{name: get_suite(name, eps=EPS) for name in NAMES}, "others": Suite(name="others", entries=others)}


def verdicts() -> dict[str, dict[str, Any]]:
    """Every column of every suite's verdicts.parquet."""
    model, x, y = trained()
    found = {}
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "verdicts.parquet"
        for name, suite in suites(model).items():
            evaluate(model, x, y, attack=suite, seed=SEED).write(file)
            found[name] = pq.read_table(file).to_pydict()
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    FILE.write_text(json.dumps(verdicts()) + "\n")
