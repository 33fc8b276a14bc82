"""A transfer matrix: its description, its folder, and the crafting and classification of adversarial images."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from bat_core.attacks import FGSM, PGD
from bat_core.data import Split, to_unit
from bat_core.device import is_out_of_memory, to_device
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.forward import autocast, eval_without_tf32, resolve_precision
from bat_core.memory import gpu_batch_size
from bat_core.paths import Rooted, below, check_regular, make_folder, write_atomically
from bat_core.rng import PerExampleRNG
from bat_core.suites import Entry
from bat_core.verdicts import checked_column
from sweeps.engine.evaluation.spec import EvaluationSpec, read_spec, write_spec
from sweeps.engine.storage.files import pasted

NOUN, SPEC = "transfer matrix", "transfer.json"
CRAFTED = "crafted"
STEPS = 20  # PGD steps, as in the paper's CE20


@dataclass(frozen=True, kw_only=True)
class Matrix(EvaluationSpec):
    """The description of a transfer matrix: fixed before the first attack, and stored as transfer.json."""

    steps: int = STEPS

    def attacks(self) -> tuple[Entry, ...]:
        """FGSM without random start and PGD with random start, the paper's black-box attacks (Table 7).

        PGD has the same name as in the paper suite, so it uses the same random starts. The diagonal therefore
        equals the numbers of an evaluation with that suite.
        """
        pgd = PGD(eps=self.eps, norm=self.norm, step_size=self.step_size, num_steps=self.steps)
        fgsm = FGSM(eps=self.eps, norm=self.norm)
        return (Entry(name="fgsm", attack=fgsm), Entry(name="ce", attack=pgd, steps=(self.steps,)))

    @property
    def names(self) -> list[str]:
        """The names of the models. Each model is a source and a target."""
        return [model.source.name for model in self.models]


def label(entry: Entry) -> str:
    """The name of an attack in tables: FGSM, CE20."""
    ((name, _),) = entry.readings()
    return name


@dataclass(frozen=True)
class MatrixFolder:
    """The folder of a transfer matrix."""

    path: Path

    def shard(self, source: str, shard: slice) -> Rooted:
        """The result file of one shard of images, crafted on one model."""
        return below(self.path, CRAFTED, source, f"{shard.start:06d}.parquet")

    def create(self, matrix: Matrix) -> None:
        """Write the description into a new folder.

        Raises:
            InputError: the folder cannot be written, or is not empty.
        """
        write_spec(self.path, SPEC, f"a {NOUN}", matrix)

    def load(self) -> Matrix:
        """Read the transfer matrix in this folder.

        Raises:
            InputError: there is none, or its description is invalid.
        """
        return read_spec(Matrix, self.path, SPEC, NOUN)


class ModelCache:
    """The models in this process: the source and one target. At most two are in memory."""

    def __init__(self, matrix: Matrix, gpus: float) -> None:
        self.matrix, self.gpus, self.device = matrix, gpus, "cuda" if gpus else "cpu"
        self._held: dict[int, nn.Module] = {}

    def take(self, number: int, *, keep: int | None = None) -> nn.Module:
        """The model with this number. Before it is loaded, all models except `keep` are released."""
        if number not in self._held:
            self._held = {other: model for other, model in self._held.items() if other == keep}
            self._held[number] = self.matrix.models[number].load(self.device, NOUN)
        return self._held[number]

    def targets(self) -> list[int]:
        """The numbers of all models, those in memory first."""
        return sorted(range(len(self.matrix.models)), key=lambda number: number not in self._held)


def craft_shard(
    matrix: Matrix, folder: MatrixFolder, cache: ModelCache, part: Split, source: int, shard: slice
) -> None:
    """Craft one shard of images on one model with every attack, classify it with all models, and write the result.

    One batch of adversarial images is in memory at a time. Does nothing if a complete result is on disk.

    Args:
        part: all images of the matrix.  source: number of the source model.
    """
    images, path = part.take(shard), folder.shard(matrix.names[source], shard)
    if read_shard(matrix, path, source, images.rows) is not None:
        return
    device = torch.device(cache.device)
    x, y = to_unit(to_device(images.images[:], device)), to_device(images.labels, device)

    def correct(target: int, x_eval: Tensor) -> npt.NDArray[np.bool_]:
        evaluator = Evaluator(cache.take(target, keep=source))
        return evaluator.clean(x_eval, images.labels, images.rows).clean_correct

    def correct_by_target(entry: Entry) -> npt.NDArray[np.bool_]:
        model = cache.take(source)
        most = gpu_batch_size(model, images.images, most=matrix.shard_size, gpus=cache.gpus)
        parts = zip(*(some.split(most or len(x)) for some in (x, y, images.rows)), strict=True)
        x_adv = torch.cat([craft(matrix, entry, model, *some) for some in parts])
        verdicts = {target: correct(target, x_adv) for target in cache.targets()}
        return np.stack([verdicts[target] for target in sorted(verdicts)])

    adversarial = {label(entry): correct_by_target(entry) for entry in matrix.attacks()}
    write_shard(matrix, path, source, images.rows, TransferVerdicts(clean=correct(source, x), adversarial=adversarial))


def craft(matrix: Matrix, entry: Entry, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Craft adversarial images for x (B, C, H, W) on `model`, in smaller batches if memory is short.

    A random start depends only on the seed of the matrix, the attack and the image's row. All models therefore use
    the same starting points, whatever the batches.
    """
    rng = PerExampleRNG(seed=matrix.seed, names=("evaluate", entry.name), indices=rows.tolist())
    precision = resolve_precision(matrix.precision, x.device)

    def searched(z: Tensor) -> Tensor:
        with autocast(z.device, precision):
            return model(z)

    try:
        with eval_without_tf32(model):
            return entry.attack(searched, x, y, generator=rng)
    except (MemoryError, RuntimeError) as error:
        if len(x) == 1 or not is_out_of_memory(error):
            raise
    if x.device.type == "cuda":
        torch.cuda.empty_cache()
    size = (len(x) + 1) // 2
    halves = zip(x.split(size), y.split(size), rows.split(size), strict=True)
    return torch.cat([craft(matrix, entry, model, *half) for half in halves])


@dataclass(frozen=True, kw_only=True)
class TransferVerdicts:
    """Which of N images, crafted on one source, the models classify correctly.

    `clean` (N,): the source's result on the clean images. `adversarial`, for each attack, (targets, N): each
    target's result on the crafted images.
    """

    clean: npt.NDArray[np.bool_]
    adversarial: Mapping[str, npt.NDArray[np.bool_]]


def write_shard(matrix: Matrix, path: Rooted, source: int, rows: Tensor, verdicts: TransferVerdicts) -> None:
    """Write one row per attack and image, atomically.

    Columns: index (row in the data set), source, attack, clean_correct (of the source) and, for each
    target, correct_<target>.
    """
    labels = [label(entry) for entry in matrix.attacks()]
    columns = {
        "index": np.tile(rows.numpy(), len(labels)),
        "source": [matrix.names[source]] * (len(rows) * len(labels)),
        "attack": np.repeat(labels, len(rows)),
        "clean_correct": np.tile(verdicts.clean, len(labels)),
    }
    for number, name in enumerate(matrix.names):
        columns[f"correct_{name}"] = np.concatenate([verdicts.adversarial[one][number] for one in labels])
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    make_folder(Rooted(path.parent))
    write_atomically(path, content.getvalue())


def read_shard(matrix: Matrix, path: Path, source: int, rows: Tensor) -> TransferVerdicts | None:
    """Read what `write_shard` wrote; None if the file is missing, incomplete or about other images."""
    labels = [label(entry) for entry in matrix.attacks()]
    try:
        table = pq.read_table(check_regular(path))
        of = list(zip(*(table.column(name).to_pylist() for name in ("index", "source", "attack")), strict=True))
        if of != [(row, matrix.names[source], one) for one in labels for row in rows.tolist()]:
            return None
        clean = checked_column(table, "clean_correct", pa.bool_())[: len(rows)]
        correct = np.stack([checked_column(table, f"correct_{name}", pa.bool_()) for name in matrix.names])
    except (pa.ArrowException, KeyError, ValueError, OSError):
        return None
    per_attack = correct.reshape(len(matrix.names), len(labels), len(rows))
    return TransferVerdicts(clean=clean, adversarial={one: per_attack[:, number] for number, one in enumerate(labels)})


def joined(matrix: Matrix, folder: MatrixFolder, part: Split) -> list[TransferVerdicts]:
    """The verdicts on all images, for each source.

    Raises:
        InputError: a shard is missing or damaged.
    """
    return [_joined(matrix, folder, part, source) for source in range(len(matrix.models))]


def _joined(matrix: Matrix, folder: MatrixFolder, part: Split, source: int) -> TransferVerdicts:
    shards = []
    for shard in matrix.shards():
        path = folder.shard(matrix.names[source], shard)
        verdicts = read_shard(matrix, path, source, part.rows[shard])
        if verdicts is None:
            raise InputError(
                f"{str(path)!r} is not a complete verdicts file: resume with --resume {pasted(folder.path)}"
            )
        shards.append(verdicts)
    names = shards[0].adversarial
    return TransferVerdicts(
        clean=np.concatenate([shard.clean for shard in shards]),
        adversarial={name: np.concatenate([shard.adversarial[name] for shard in shards], axis=1) for name in names},
    )


def finished_shards(matrix: Matrix, folder: MatrixFolder) -> list[str]:
    """The source's name for each result on disk."""
    return [name for name in matrix.names for _ in (folder.path / CRAFTED / name).glob("[0-9]*.parquet")]
