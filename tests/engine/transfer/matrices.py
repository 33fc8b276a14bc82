"""Models so small that a transfer matrix of them can be written out, and the way to make one."""

import torch
from torch import nn

from bat_core.data import Split
from sweeps.engine.evaluation.model_sources import ModelSource, fingerprint
from sweeps.engine.evaluation.spec import ModelRecord
from sweeps.engine.transfer.craft import Matrix, MatrixFolder, ModelCache, craft_shard, joined
from sweeps.engine.transfer.matrix import cells_of

EPS, STEP, SEED, CLASSES, N = 0.06, 0.015, 3, 4, 45


class Noisy(nn.Module):
    """What a shared linear model sees, with noise of its own; in float64, so that no rounding flips a sign."""

    def __init__(self, seed):
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        noise = torch.randn(CLASSES, 16, generator=draw, dtype=torch.float64)
        self.weight = nn.Parameter(shared_weight() + 0.6 * noise)

    def forward(self, x):
        return 4 * torch.tanh((x.flatten(1).double() - 0.5) @ self.weight.T)


def shared_weight():
    return torch.randn(CLASSES, 16, generator=torch.Generator().manual_seed(99), dtype=torch.float64)


def first():
    return Noisy(1)


def second():
    return Noisy(2)


def third():
    return Noisy(3)


FACTORIES = (first, second, third)


def labelled():
    """Images whose rows are not their positions, labelled by the model that all share."""
    draw = torch.Generator().manual_seed(7)
    images = torch.randint(256, (N, 1, 4, 4), generator=draw, dtype=torch.uint8)
    labels = ((images.flatten(1) / 255 - 0.5).double() @ shared_weight().T).argmax(1)
    return Split(images, labels, torch.arange(N) * 3 + 100)


def matrix_of(factories=FACTORIES, **changes):
    models = tuple(
        ModelRecord(
            source=ModelSource(name=made.__name__, factory=f"{__name__}:{made.__name__}"),
            fingerprint=fingerprint(made()),
        )
        for made in factories
    )
    decided = {
        "command": "", "models": models, "dataset": "digits", "data_dir": None, "split": "test", "n": N,
        "pixel": 1 / 255, "eps": EPS, "step_size": STEP, "seed": SEED, "precision": "float32", "shard_size": 20,
    }  # fmt: skip
    return Matrix.new(**decided | changes)


def make(matrix, part, path):
    folder, bench = MatrixFolder(path), ModelCache(matrix, 0.0)
    for source in range(len(matrix.models)):
        for shard in matrix.shards():
            craft_shard(matrix, folder, bench, part, source, shard)
    return folder


def cells(matrix, part, folder):
    return cells_of(matrix.names, joined(matrix, folder, part))
