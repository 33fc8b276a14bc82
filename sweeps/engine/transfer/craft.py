"""What a transfer matrix is, the folder it lives in, and how one model's adversarial images are judged by all."""

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
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator, is_out_of_memory
from bat_core.forward import autocast, eval_without_tf32, resolve_precision
from bat_core.rng import PerExampleRNG
from bat_core.suites import Entry
from sweeps.engine.evaluation.spec import EvaluationSpec, read_spec, write_spec
from sweeps.engine.storage.files import write_atomically

NOUN, SPEC = "transfer matrix", "transfer.json"
CRAFTED = "crafted"
STEPS = 20  # of PGD: the paper's CE20


@dataclass(frozen=True, kw_only=True)
class Matrix(EvaluationSpec):
    """All that was decided before the first image was crafted; written once, as transfer.json."""

    steps: int = STEPS

    def attacks(self) -> tuple[Entry, ...]:
        """FGSM without random start and PGD with it, the paper's black-box attacks (Table 7).

        PGD bears the name of the paper suite's trajectory, hence draws the same starts: the diagonal is
        the number that an evaluation reads off there.
        """
        pgd = PGD(eps=self.eps, step_size=self.step_size, num_steps=self.steps)
        return (Entry(name="fgsm", attack=FGSM(eps=self.eps)), Entry(name="ce", attack=pgd, steps=(self.steps,)))

    @property
    def names(self) -> list[str]:
        """The models, each a source and a target."""
        return [model.source.name for model in self.models]


def label(entry: Entry) -> str:
    """What tables call an attack: FGSM, CE20."""
    ((name, _),) = entry.readings()
    return name


@dataclass(frozen=True)
class MatrixFolder:
    """Where a transfer matrix lies."""

    path: Path

    def shard(self, source: str, shard: slice) -> Path:
        """What became of one shard of images, crafted on one model."""
        return self.path / CRAFTED / source / f"{shard.start:06d}.parquet"

    def create(self, matrix: Matrix) -> None:
        """Write the description into a new folder.

        Raises:
            InputError: it cannot be written, or holds something already.
        """
        write_spec(self.path, SPEC, f"a {NOUN}", matrix)

    def load(self) -> Matrix:
        """The transfer matrix that lives here.

        Raises:
            InputError: none does.
        """
        return read_spec(Matrix, self.path, SPEC, NOUN)


class ModelCache:
    """The models in this process: the one crafted on and, beside it, one that judges. Never more than two."""

    def __init__(self, matrix: Matrix, device: str) -> None:
        self.matrix, self.device = matrix, device
        self._held: dict[int, nn.Module] = {}

    def take(self, number: int, *, beside: int | None = None) -> nn.Module:
        """The model of that number. To load it, all but `beside` are let go first."""
        if number not in self._held:
            self._held = {other: model for other, model in self._held.items() if other == beside}
            self._held[number] = self.matrix.models[number].load(self.device, NOUN)
        return self._held[number]

    def judges(self) -> list[int]:
        """All models, those in memory first."""
        return sorted(range(len(self.matrix.models)), key=lambda number: number not in self._held)


def craft_shard(
    matrix: Matrix, folder: MatrixFolder, bench: ModelCache, part: Split, source: int, shard: slice
) -> None:
    """Craft one shard of images on one model by every attack, let all models judge, and keep what they say.

    One batch of adversarial images is held at a time. Nothing is done where a whole result is on disk.

    Args:
        part: all images of the matrix.  source: the model's number.
    """
    images, path = part.take(shard), folder.shard(matrix.names[source], shard)
    if read_shard(matrix, path, source, images.rows) is not None:
        return
    x, y = to_unit(images.images[:].to(bench.device)), images.labels.to(bench.device)

    def correct(target: int, judged: Tensor) -> npt.NDArray[np.bool_]:
        evaluator = Evaluator(bench.take(target, beside=source))
        return evaluator.clean(judged, images.labels, images.rows).clean_correct

    def withstood(entry: Entry) -> npt.NDArray[np.bool_]:
        x_adv = craft(matrix, entry, bench.take(source), x, y, images.rows)
        verdicts = {target: correct(target, x_adv) for target in bench.judges()}
        return np.stack([verdicts[target] for target in sorted(verdicts)])

    adversarial = {label(entry): withstood(entry) for entry in matrix.attacks()}
    write_shard(matrix, path, source, images.rows, TransferVerdicts(clean=correct(source, x), adversarial=adversarial))


def craft(matrix: Matrix, entry: Entry, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Adversarial images for x (B, C, H, W), crafted on `model`; in halves where memory does not suffice.

    A random start depends on the matrix' seed, the attack and the image's row alone, so that every
    model's images start from the same points, in whatever batches they are crafted.
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
    """What the models made of N images crafted on one source.

    `clean` (N,): is the source right on the clean image? `adversarial`, for each attack, (targets, N):
    is the target right on what was crafted?
    """

    clean: npt.NDArray[np.bool_]
    adversarial: Mapping[str, npt.NDArray[np.bool_]]


def write_shard(matrix: Matrix, path: Path, source: int, rows: Tensor, judged: TransferVerdicts) -> None:
    """One row an attack and image. A reader finds the whole file or none.

    Columns: index (row in the data set), source, attack, clean_correct (of the source) and, for each
    target, correct_<target>.
    """
    labels = [label(entry) for entry in matrix.attacks()]
    columns = {
        "index": np.tile(rows.numpy(), len(labels)),
        "source": [matrix.names[source]] * (len(rows) * len(labels)),
        "attack": np.repeat(labels, len(rows)),
        "clean_correct": np.tile(judged.clean, len(labels)),
    }
    for number, name in enumerate(matrix.names):
        columns[f"correct_{name}"] = np.concatenate([judged.adversarial[one][number] for one in labels])
    content = io.BytesIO()
    pq.write_table(pa.table(columns), content)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def read_shard(matrix: Matrix, path: Path, source: int, rows: Tensor) -> TransferVerdicts | None:
    """What `write_shard` wrote; None where there is nothing, or a part, or what became of other images."""
    labels = [label(entry) for entry in matrix.attacks()]
    try:
        table = pq.read_table(path)
        of = list(zip(*(table.column(name).to_pylist() for name in ("index", "source", "attack")), strict=True))
        if of != [(row, matrix.names[source], one) for one in labels for row in rows.tolist()]:
            return None
        clean = table.column("clean_correct").to_numpy()[: len(rows)]
        correct = np.stack([table.column(f"correct_{name}").to_numpy() for name in matrix.names])
    except (pa.ArrowException, KeyError, ValueError, OSError):
        return None
    per_attack = correct.reshape(len(matrix.names), len(labels), len(rows))
    return TransferVerdicts(clean=clean, adversarial={one: per_attack[:, number] for number, one in enumerate(labels)})


def joined(matrix: Matrix, folder: MatrixFolder, part: Split) -> list[TransferVerdicts]:
    """What became of all images crafted on each source.

    Raises:
        InputError: a shard is missing or damaged.
    """
    return [_joined(matrix, folder, part, source) for source in range(len(matrix.models))]


def _joined(matrix: Matrix, folder: MatrixFolder, part: Split, source: int) -> TransferVerdicts:
    shards = []
    for shard in matrix.shards():
        path = folder.shard(matrix.names[source], shard)
        judged = read_shard(matrix, path, source, part.rows[shard])
        if judged is None:
            raise InputError(f"{str(path)!r} holds no whole verdicts: --resume {str(folder.path)!r}")
        shards.append(judged)
    names = shards[0].adversarial
    return TransferVerdicts(
        clean=np.concatenate([shard.clean for shard in shards]),
        adversarial={name: np.concatenate([shard.adversarial[name] for shard in shards], axis=1) for name in names},
    )


def finished_shards(matrix: Matrix, folder: MatrixFolder) -> list[str]:
    """The source of each result that is on disk."""
    return [name for name in matrix.names for _ in (folder.path / CRAFTED / name).glob("[0-9]*.parquet")]
